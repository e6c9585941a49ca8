// How weights are stored: as float32, or rounded and several in a word.
//
// A panel is a sequence of vectors, [K][vectors]. Of rounded ones `parts` follow each other in one vector of 32-bit words, the
// first in the lowest bits of each word: shifts take them out, with the same instructions everywhere. K is padded with zeros
// to whole blocks of four, so that a block is whole words whatever the number of vectors.
#pragma once
#include "simd.hpp"

namespace tt::THROUGHTIME_ISA {

struct Float32 {
  static constexpr int parts = 1;
  static constexpr bool one_order = false;  // one row has several partial sums, and so another order of summation than more rows
};

// The upper half of a float32.
struct BFloat16 {
  static constexpr int parts = 2;
  static constexpr bool one_order = false;
  static constexpr int stored(int vectors) { return vectors; }

  template <int Part>
  TT_INLINE Vec<float> widen(Simd<float>::IntVec words) {
    return reinterpret_cast<Vec<float>>(Part ? words & ~0xffff : words << 16);
  }

  // The sum of vector v from those of the widened vectors v and v - 1; its outputs' scales begin at scale[place].
  TT_INLINE Vec<float> finish(Vec<float> sum, Vec<float>, const float*, long) { return sum; }
};

// Four numbers q of -127 to 127 in a word, q0 + 2^8 q1 + 2^16 q2 + 2^24 q3. They belong to the same k, so three vectors
// have a fourth of zeros. Shifted left until q_v is on top, the word is 2^24 q_v and a remainder that is the word of q_{v-1} over
// 2^8: the sums of products are taken of the words as they are, and the remainders' subtracted once, at the end.
struct Int8 {
  static constexpr int parts = 4;
  static constexpr bool one_order = false;
  static constexpr int stored(int) { return 4; }

  template <int Part>
  TT_INLINE Vec<float> widen(Simd<float>::IntVec words) {
    return __builtin_convertvector(words << (24 - 8 * Part), Vec<float>);
  }

  TT_INLINE Vec<float> finish(Vec<float> sum, Vec<float> before, const float* scale, long place) {
    return (sum - before * splat<float>(0x1p-8f)) * (load(scale + place) * splat<float>(0x1p-24f));
  }
};

// The same weights, and one row is summed as it is among others.
template <class Weights>
struct InOneOrder : Weights {
  static constexpr bool one_order = true;
};
using OneOrder = InOneOrder<Float32>;

constexpr int kBlock = 4;  // steps of K

// Bytes of a panel of NV vectors.
template <class Weights>
TT_INLINE long panel_bytes(long K, int NV) {
  if constexpr (Weights::parts == 1) return K * NV * THROUGHTIME_BYTES;
  else return (K + kBlock - 1) / kBlock * kBlock * Weights::stored(NV) * (THROUGHTIME_BYTES / Weights::parts);
}

}  // namespace tt::THROUGHTIME_ISA
