// Ways to use AVX2 and AVX-512 where they are. Only for integer arithmetic and float arithmetic
// without contraction, whose results do not depend on the instruction set.
//
// ALBEF_SIMD_CLONES before a function: compiled for AVX2 too, and the right one chosen when the
// program is loaded. For loops that the compiler vectorises well.
//
// ALBEF_WIDE_SIMD_CLONES: likewise, and for AVX-512 as well, where twice the width pays: long
// chains of arithmetic. AVX-512 has fused multiply-add, so the file needs -ffp-contract=off.
//
// ALBEF_HAS_AVX2_KERNELS is defined where a function may have a twin in intrinsics, with
// __attribute__((target("avx2"))), to be called where CpuHasAvx2(). The plain function stays, for
// other machines and as what the tests compare the twin with.
#ifndef ALBEF_COMMON_SIMD_H_
#define ALBEF_COMMON_SIMD_H_

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ALBEF_HAS_AVX2_KERNELS
#endif

// Sanitizers cannot instrument the choice, which runs before they are set up.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ALBEF_SIMD_CLONES __attribute__((target_clones("default", "avx2")))
#define ALBEF_WIDE_SIMD_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define ALBEF_SIMD_CLONES
#define ALBEF_WIDE_SIMD_CLONES
#endif

// Before a template or function that those call: part of each clone, with its instructions.
#if defined(__GNUC__)
#define ALBEF_ALWAYS_INLINE __attribute__((always_inline))
#else
#define ALBEF_ALWAYS_INLINE
#endif

namespace albef {

#ifdef ALBEF_HAS_AVX2_KERNELS
inline bool CpuHasAvx2() { return __builtin_cpu_supports("avx2") != 0; }
#endif

}  // namespace albef

#endif  // ALBEF_COMMON_SIMD_H_
