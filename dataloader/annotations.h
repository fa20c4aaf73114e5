// ALBEF annotation files: JSON lists of {"image": path, "caption": string or [strings], …}.
#ifndef ALBEF_DATALOADER_ANNOTATIONS_H_
#define ALBEF_DATALOADER_ANNOTATIONS_H_

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "common/file.h"
#include "dataloader/json_reader.h"

namespace albef {

// The value of a key "caption": a string, or a list of strings. What `captions` held is replaced.
// Errors as JsonReader.
absl::Status ReadCaptions(JsonReader& reader, std::vector<std::string>& captions);

// Reads an open annotation file from its beginning, row by row in flat memory: `visit` gets the
// image and the captions of each and may end the reading with an error. Keys other than "image" and
// "caption" are ignored; of equal keys the last one counts, as in Python.
//
// Errors name file and byte offset (counted from 0), and the sample. Bytes that are not UTF-8 and
// escapes of lone surrogates are no error here: they reach the caption, and whoever reads it judges
// that one sample. `path` is for messages.
absl::Status ReadAnnotations(
    const FileDescriptor& file, const std::filesystem::path& path,
    absl::FunctionRef<absl::Status(const std::string&, std::span<const std::string>)> visit);

}  // namespace albef

#endif  // ALBEF_DATALOADER_ANNOTATIONS_H_
