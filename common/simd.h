// Two ways to use AVX2 where there is one. Only for integer arithmetic and float arithmetic without
// contraction, whose results do not depend on the instruction set.
//
// ALBEF_SIMD_CLONES before a function: compiled for AVX2 too, and the right one chosen when the
// program is loaded. For loops that the compiler vectorises well.
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
#else
#define ALBEF_SIMD_CLONES
#endif

namespace albef {

#ifdef ALBEF_HAS_AVX2_KERNELS
inline bool CpuHasAvx2() { return __builtin_cpu_supports("avx2") != 0; }
#endif

}  // namespace albef

#endif  // ALBEF_COMMON_SIMD_H_
