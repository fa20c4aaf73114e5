// Pixels as vectors of four numbers, which every compiler for x86 and ARM keeps in a register.
#ifndef ALBEF_DATALOADER_PIXEL4_H_
#define ALBEF_DATALOADER_PIXEL4_H_

#include <cstdint>
#include <cstring>

namespace albef {

// Four channels of a pixel; the fourth is padding, whatever stands behind the pixel in memory.
using Pixel4 = int32_t __attribute__((vector_size(16)));
using Bytes16 = uint8_t __attribute__((vector_size(16)));

// Shuffles of bytes, because the compiler converts vectors of four bytes one by one. Both assume a
// little-endian machine.
inline __attribute__((always_inline)) Pixel4 LoadPixel(const uint8_t* bytes) {
  int32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  const Pixel4 words = {word, 0, 0, 0};
  return reinterpret_cast<Pixel4>(__builtin_shufflevector(reinterpret_cast<Bytes16>(words),
                                                          Bytes16{}, 0, 16, 16, 16, 1, 16, 16, 16,
                                                          2, 16, 16, 16, 3, 16, 16, 16));
}

// The channels must lie in 0..255.
inline __attribute__((always_inline)) void StorePixel(Pixel4 pixel, uint8_t* bytes) {
  const Pixel4 words = reinterpret_cast<Pixel4>(
      __builtin_shufflevector(reinterpret_cast<Bytes16>(pixel), Bytes16{}, 0, 4, 8, 12, 0, 4, 8, 12,
                              0, 4, 8, 12, 0, 4, 8, 12));
  const int32_t word = words[0];
  std::memcpy(bytes, &word, sizeof(word));
}

}  // namespace albef

#endif  // ALBEF_DATALOADER_PIXEL4_H_
