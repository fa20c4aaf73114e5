// Numbers of the zip format that reader and writer share (APPNOTE.TXT 6.3, sections 4.3 and 4.5).
#ifndef ALBEF_FORMATS_ZIP_FORMAT_H_
#define ALBEF_FORMATS_ZIP_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>

namespace albef::zip {

inline constexpr uint32_t kLocalSignature = 0x04034b50;
inline constexpr uint32_t kCentralSignature = 0x02014b50;
inline constexpr uint32_t kEndSignature = 0x06054b50;
inline constexpr uint32_t kEnd64Signature = 0x06064b50;
inline constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;

inline constexpr size_t kLocalBytes = 30;
inline constexpr size_t kCentralBytes = 46;
inline constexpr size_t kEndBytes = 22;
inline constexpr size_t kEnd64Bytes = 56;
inline constexpr size_t kEnd64LocatorBytes = 20;
inline constexpr size_t kMaxCommentBytes = 0xffff;

inline constexpr uint16_t kExtraZip64 = 0x0001;
inline constexpr uint16_t kExtraPadding = 0x4246;  // "FB", as torch.save pads

inline constexpr uint16_t kFlagEncrypted = 1 << 0;
inline constexpr uint16_t kFlagDescriptor = 1 << 3;  // sizes and CRC stand after the data
inline constexpr uint16_t kFlagUtf8 = 1 << 11;

inline constexpr uint16_t kMethodStored = 0;

// The value of a field that says: look in the ZIP64 record.
template <typename T>
inline constexpr T kInZip64 = std::numeric_limits<T>::max();

// `offset + sizeof(T)` must be within `bytes`.
template <typename T>
T Load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <typename T>
void Append(std::string& bytes, T value) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  bytes.append(raw, sizeof(T));
}

}  // namespace albef::zip

#endif  // ALBEF_FORMATS_ZIP_FORMAT_H_
