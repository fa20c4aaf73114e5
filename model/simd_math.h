// Arithmetic for loops that the compiler vectorises, with the same bits whatever the instruction
// set: for files compiled with -ffp-contract=off and -fno-trapping-math.
#ifndef ALBEF_MODEL_SIMD_MATH_H_
#define ALBEF_MODEL_SIMD_MATH_H_

#include <bit>
#include <cmath>
#include <cstdint>

namespace albef {

// eˣ for −87 ≤ x ≤ 0; what lies below counts as −87, and NaN gives NaN. After Cephes' expf: 2ⁿ·eʳ,
// |r| ≤ ln 2 / 2.
inline float ExpOfNegative(float x) {
  constexpr float kRoundsToInteger = 0x1.8p23F;
  x = x < -87.0F ? -87.0F : x;
  const float shifted = x * 1.44269504F + kRoundsToInteger;
  const float n = shifted - kRoundsToInteger;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float y = 1.9875691500e-4F;
  y = y * r + 1.3981999507e-3F;
  y = y * r + 8.3334519073e-3F;
  y = y * r + 4.1665795894e-2F;
  y = y * r + 1.6666665459e-1F;
  y = y * r + 5.0000001201e-1F;
  y = (y * r) * r + r + 1.0F;
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) << 23) + std::bit_cast<uint32_t>(1.0F);
  return y * std::bit_cast<float>(power);
}

// For templates that compute in either type; not vectorised.
inline double ExpOfNegative(double x) { return std::exp(x); }

// bf16 is the upper half of a float.
inline float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// To the nearest, ties to even; NaN to a NaN.
inline uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7fc0U : rounded);
}

}  // namespace albef

#endif  // ALBEF_MODEL_SIMD_MATH_H_
