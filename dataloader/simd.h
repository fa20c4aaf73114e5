// Two ways to use AVX2 where there is one. Only for integer arithmetic and float arithmetic without
// contraction, whose results do not depend on the instruction set.
//
// ALBEF_SIMD_CLONES before a function: compiled for AVX2 too, and the right one chosen when the
// program is loaded. For loops that the compiler vectorises well.
//
// ALBEF_HAS_AVX2_KERNELS is defined where a function may have a twin in intrinsics, with
// __attribute__((target("avx2"))), to be called where CpuHasAvx2(). The plain function stays, for
// other machines and as what the tests compare the twin with.
#ifndef ALBEF_DATALOADER_SIMD_H_
#define ALBEF_DATALOADER_SIMD_H_

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ALBEF_HAS_AVX2_KERNELS
#endif

// Sanitizers cannot instrument the choice, which runs before they are set up.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ALBEF_SIMD_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define ALBEF_SIMD_CLONES
#endif

namespace albef {

#ifdef ALBEF_HAS_AVX2_KERNELS
inline bool CpuHasAvx2() { return __builtin_cpu_supports("avx2") != 0; }
#endif

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

#endif  // ALBEF_DATALOADER_SIMD_H_
