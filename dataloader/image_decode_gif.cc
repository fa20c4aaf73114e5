// GIF: the first picture of the file.
#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_codecs.h"

namespace albef::image_codecs {
namespace {

// Reads forward; past the end every byte is 0 and `exhausted` is set.
class ByteReader {
 public:
  explicit ByteReader(std::span<const uint8_t> bytes) : rest_(bytes) {}

  bool exhausted() const { return exhausted_; }

  std::span<const uint8_t> Take(size_t count) {
    if (count > rest_.size()) {
      count = rest_.size();
      exhausted_ = true;
    }
    const auto taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }
  uint8_t U8() {
    const auto byte = Take(1);
    return byte.empty() ? 0 : byte[0];
  }
  int U16() {
    const int low = U8();
    return low | U8() << 8;
  }

 private:
  std::span<const uint8_t> rest_;
  bool exhausted_ = false;
};

// The data blocks up to the empty one, joined. A block that the end of the file cuts off counts for
// nothing, as in Pillow.
std::vector<uint8_t> TakeBlocks(ByteReader& reader) {
  std::vector<uint8_t> data;
  while (const uint8_t size = reader.U8()) {
    const auto block = reader.Take(size);
    if (reader.exhausted()) break;
    data.insert(data.end(), block.begin(), block.end());
  }
  return data;
}

void ReadPalette(ByteReader& reader, int flags, Palette& palette) {
  const size_t num_colors = size_t{2} << (flags & 7);
  const auto entries = reader.Take(3 * num_colors);
  for (size_t i = 0; i < entries.size() / 3; ++i) {
    palette.colors[i] = {entries[3 * i], entries[3 * i + 1], entries[3 * i + 2]};
  }
}

// Hands out indices in the order of the file; stops at the end of the data or at damage.
class LzwDecoder {
 public:
  LzwDecoder(std::span<const uint8_t> data, int min_bits)
      : data_(data), min_bits_(min_bits), clear_(1 << min_bits) {
    for (int i = 0; i < clear_; ++i) {
      last_[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
      length_[static_cast<size_t>(i)] = 1;
    }
    Reset();
  }

  // The string of the next code; empty at the end.
  std::span<const uint8_t> Next() {
    while (std::optional<int> code = ReadCode()) {
      if (*code == clear_) {
        Reset();
        continue;
      }
      const bool known = *code < clear_ || (*code > clear_ + 1 && *code < next_);
      const bool repeats = *code == next_ && previous_ >= 0 && next_ < kMaxCodes;
      if (!known && !repeats) return {};
      const std::span<const uint8_t> string = Spell(repeats ? previous_ : *code, repeats);
      if (previous_ >= 0 && next_ < kMaxCodes) {
        const auto entry = static_cast<size_t>(next_);
        prefix_[entry] = static_cast<uint16_t>(previous_);
        last_[entry] = string.front();
        length_[entry] = length_[static_cast<size_t>(previous_)] + 1;
        if (++next_ == 1 << bits_ && bits_ < kMaxBits) ++bits_;
      }
      previous_ = *code;
      return string;
    }
    return {};
  }

 private:
  static constexpr int kMaxBits = 12;
  static constexpr int kMaxCodes = 1 << kMaxBits;

  void Reset() {
    bits_ = min_bits_ + 1;
    next_ = clear_ + 2;
    previous_ = -1;
  }

  std::optional<int> ReadCode() {
    while (num_pending_ < bits_) {
      if (data_.empty()) return std::nullopt;
      pending_ |= uint32_t{data_.front()} << num_pending_;
      data_ = data_.subspan(1);
      num_pending_ += 8;
    }
    const int code = static_cast<int>(pending_ & ((1u << bits_) - 1));
    pending_ >>= bits_;
    num_pending_ -= bits_;
    return code;
  }

  // The string of a code, followed by its own first index if `repeat_first`.
  std::span<const uint8_t> Spell(int code, bool repeat_first) {
    const size_t length = length_[static_cast<size_t>(code)];
    string_.resize(length + (repeat_first ? 1 : 0));
    for (size_t i = length; i-- > 0; code = prefix_[static_cast<size_t>(code)]) {
      string_[i] = last_[static_cast<size_t>(code)];
    }
    if (repeat_first) string_.back() = string_.front();
    return string_;
  }

  std::span<const uint8_t> data_;
  int min_bits_;
  int clear_;
  int bits_ = 0;
  int next_ = 0;
  int previous_ = -1;
  uint32_t pending_ = 0;
  int num_pending_ = 0;
  // A code's string is the string of its prefix and one index more.
  std::array<uint16_t, kMaxCodes> prefix_ = {};
  std::array<uint8_t, kMaxCodes> last_ = {};
  std::array<uint16_t, kMaxCodes> length_ = {};
  std::vector<uint8_t> string_;
};

// Rows in the order of an interlaced file.
std::vector<int> RowOrder(int height, bool interlaced) {
  std::vector<int> order;
  order.reserve(static_cast<size_t>(height));
  const auto pass = [&](int start, int step) {
    for (int y = start; y < height; y += step) order.push_back(y);
  };
  if (!interlaced) {
    pass(0, 1);
  } else {
    pass(0, 8);
    pass(4, 8);
    pass(2, 4);
    pass(1, 2);
  }
  return order;
}

}  // namespace

absl::Status DecodeGif(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image) {
  ByteReader reader(bytes);
  reader.Take(6);
  int screen_width = reader.U16();
  int screen_height = reader.U16();
  const int screen_flags = reader.U8();
  reader.Take(2);  // background, aspect
  Palette palette;
  if (screen_flags & 0x80) ReadPalette(reader, screen_flags, palette);

  // Extensions up to the first picture. What the picture does not cover is the transparent colour.
  uint8_t background = 0;
  while (true) {
    const uint8_t kind = reader.U8();
    if (kind == ',') break;
    if (kind != '!' || reader.exhausted()) return Damaged("GIF", "it has no picture");
    const uint8_t label = reader.U8();
    const std::vector<uint8_t> content = TakeBlocks(reader);
    if (label == 0xF9 && content.size() >= 4 && (content[0] & 1)) background = content[3];
  }
  const int left = reader.U16();
  const int top = reader.U16();
  const int width = reader.U16();
  const int height = reader.U16();
  const int flags = reader.U8();
  if (flags & 0x80) {
    palette = Palette();
    ReadPalette(reader, flags, palette);
  }
  const int min_bits = reader.U8();
  if (reader.exhausted() || width == 0 || height == 0 || min_bits < 1 || min_bits > 11) {
    return Damaged("GIF", "bad header of its picture");
  }
  // Pictures may reach beyond the screen; it grows.
  screen_width = std::max(screen_width, left + width);
  screen_height = std::max(screen_height, top + height);
  RETURN_IF_ERROR(PrepareImage(screen_height, screen_width, options, image));

  std::vector<uint8_t> indices(image.rgb_HWC.size() / 3, background);
  const std::vector<uint8_t> data = TakeBlocks(reader);
  LzwDecoder decoder(data, min_bits);
  std::span<const uint8_t> string;
  for (const int y : RowOrder(height, (flags & 0x40) != 0)) {
    uint8_t* row = indices.data() +
                   static_cast<size_t>(top + y) * static_cast<size_t>(screen_width) +
                   static_cast<size_t>(left);
    for (size_t filled = 0; filled < static_cast<size_t>(width);) {
      if (string.empty()) string = decoder.Next();
      if (string.empty()) {
        palette.Expand(indices, image.rgb_HWC.data());
        return absl::OkStatus();
      }
      const size_t count = std::min(string.size(), static_cast<size_t>(width) - filled);
      std::copy_n(string.begin(), count, row + filled);
      string = string.subspan(count);
      filled += count;
    }
  }
  palette.Expand(indices, image.rgb_HWC.data());
  return absl::OkStatus();
}

}  // namespace albef::image_codecs
