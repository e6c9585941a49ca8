// bfloat16 as numbers: rounding, the pairs that the instructions read, and one dot product of pairs.
#pragma once
#include "gemm.hpp"

namespace tt::THROUGHTIME_ISA {

using Floats = Vec<float>;
using Ints = typename Simd<float>::IntVec;

// The nearest bfloat16, ties to even, in the upper half of each number; a NaN stays one.
TT_INLINE Ints rounded_to_bf16(Floats x) {
  Ints bits = reinterpret_cast<Ints>(x);
  Ints nearest = bits + 0x7fff + ((bits >> 16) & 1), quiet = bits | 0x400000;
  return (x == x ? nearest : quiet) & int32_t(0xffff0000);
}

// Rows of floats, `lda` apart, as rows of bfloat16, `ldo` apart. K is a multiple of a register's numbers.
static inline void rows_to_bf16(long rows, const float* A, long lda, long K, uint16_t* out, long ldo) {
  constexpr int W = Simd<float>::width;
  typedef uint16_t Halves __attribute__((vector_size(2 * W)));
  for (long r = 0; r < rows; r++)
    for (long k = 0; k < K; k += W) {
      Ints whole = (rounded_to_bf16(load(A + r * lda + k)) >> 16) & 0xffff;
      Halves halves = __builtin_convertvector(whole, Halves);
      std::memcpy(out + r * ldo + k, &halves, sizeof halves);
    }
}

// A panel [K][columns] of floats as pairs [K/2][columns][2]: the number of the even k lies first, in the lower half.
static inline void panel_to_bf16(const float* panel, long K, uint16_t* out) {
  constexpr int W = Simd<float>::width, P = kPanel<float>;
  for (long k = 0; k < K; k += 2)
    for (int u = 0; u < P; u += W) {
      Ints even = rounded_to_bf16(load(panel + k * P + u)), odd = rounded_to_bf16(load(panel + (k + 1) * P + u));
      Ints pair = ((even >> 16) & 0xffff) | odd;
      std::memcpy(out + k * P + 2 * u, &pair, sizeof pair);
    }
}

// sum += a * b for the odd numbers of each pair, then for the even ones: the order of vdpbf16ps. A product of two
// bfloat16 is exact in float32, so a fused multiply-add makes no difference.
struct EmulatedDot {
  TT_INLINE Floats odd(Ints pair) { return reinterpret_cast<Floats>(pair & int32_t(0xffff0000)); }
  TT_INLINE Floats even(Ints pair) { return reinterpret_cast<Floats>(pair << 16); }
  TT_INLINE Floats dot(Floats sum, Ints a, Ints b) {
    sum += odd(a) * odd(b);
    return sum + even(a) * even(b);
  }
};

}  // namespace tt::THROUGHTIME_ISA
