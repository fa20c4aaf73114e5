// A forward-only reader of JSON that pulls values in the order of the text.
//
// For annotation files of gigabytes from many sources it gives what the usual libraries do not give
// together: flat memory whatever the size, the byte offset of every fault, and strings as bytes, so
// that one caption in a wrong encoding does not cost the whole file. It accepts what Python's json
// module writes: RFC 8259 plus NaN, Infinity and -Infinity, and escapes of lone surrogates (which
// become three bytes that are not UTF-8). Depth is limited to 100.
#ifndef ALBEF_DATALOADER_JSON_READER_H_
#define ALBEF_DATALOADER_JSON_READER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

// Errors are INVALID_ARGUMENT and end with "at byte N", or are what `read` returned. After an error
// the reader is of no use. Not thread-safe.
class JsonReader {
 public:
  // Puts the next bytes of the text into the span and says how many; 0 at its end.
  using Read = std::function<absl::StatusOr<size_t>(std::span<char>)>;

  explicit JsonReader(Read read);
  // `text` must outlive the reader.
  explicit JsonReader(std::string_view text);

  // The first character of the next value or bracket, white space skipped; '\0' at the end.
  char Peek();
  uint64_t offset() const { return offset_; }

  // Lists and objects: Open, then for each element Next until it yields false.
  //   RETURN_IF_ERROR(reader.Open('['));
  //   bool first = true;
  //   while (true) { ASSIGN_OR_RETURN(const bool more, reader.Next(']', first)); if (!more) break;
  //   …
  absl::Status Open(char bracket);
  absl::StatusOr<bool> Next(char closing_bracket, bool& first);

  // A string into `value`, whose content is replaced.
  absl::Status ReadString(std::string& value);
  // A key of an object and its colon.
  absl::Status ReadKey(std::string& key);
  // Checks and drops one value of any kind.
  absl::Status Skip();
  // OK when only white space is left.
  absl::Status ExpectEnd();

  absl::Status Error(std::string_view what) const;

 private:
  absl::Status ReadEscape(std::string& value);
  absl::StatusOr<uint32_t> PeekHex4();
  absl::Status SkipNumber();
  bool TakeDigits();
  bool Take(std::string_view literal);

  // Makes `count` bytes visible in rest_, reading on; false where the text ends before.
  bool Fill(size_t count);
  void Advance(size_t count);

  Read read_;
  std::vector<char> buffer_;
  std::string_view rest_;  // what is visible of the text from offset_ on
  uint64_t offset_ = 0;
  absl::Status read_status_;  // of the last call of read_
  int depth_ = 0;
  std::string scratch_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_JSON_READER_H_
