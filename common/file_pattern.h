// Many files by one name: "shard-{00000..01399}.tar", "{coco,vg}.json", "cc12m/*.tar".
#ifndef ALBEF_COMMON_FILE_PATTERN_H_
#define ALBEF_COMMON_FILE_PATTERN_H_

#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace albef {

// Braces first, then wildcards:
//
//   {a,b,c}      each of them, in this order; may be nested
//   {08..12}     every number, upwards or downwards, with as many digits as the longer end where
//   one
//                begins with a zero
//   * ? [0-9]    within one folder's or file's name; the files that are there, by their bytes
//
// A name that exists as it stands is that file, whatever characters it has. `pattern` starts at
// `root` where it is relative; `root` itself is no pattern. Names without wildcards need not exist:
// a gap in a range is for the caller to find. INVALID_ARGUMENT for braces that do not match or mean
// more than a million files; NOT_FOUND where wildcards match nothing.
absl::StatusOr<std::vector<std::filesystem::path>> ExpandFilePattern(
    const std::filesystem::path& root, std::string_view pattern);

}  // namespace albef

#endif  // ALBEF_COMMON_FILE_PATTERN_H_
