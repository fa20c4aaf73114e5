// ALBEF_SIMD_CLONES before a function: compiled for AVX2 too, and the right one chosen when the
// program is loaded. Only for integer arithmetic and float arithmetic without contraction, whose
// results do not depend on the instruction set.
#ifndef ALBEF_DATALOADER_SIMD_H_
#define ALBEF_DATALOADER_SIMD_H_

// Sanitizers cannot instrument the choice, which runs before they are set up.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ALBEF_SIMD_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define ALBEF_SIMD_CLONES
#endif

namespace albef {

// Four channels of a pixel as the compiler's own vectors; the fourth is padding.
using Pixel4U8 = uint8_t __attribute__((vector_size(4)));
using Pixel4 = int32_t __attribute__((vector_size(16)));

}  // namespace albef

#endif  // ALBEF_DATALOADER_SIMD_H_
