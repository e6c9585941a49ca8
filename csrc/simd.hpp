// Vectors of one width, in the compiler's own vector types: one source for AVX-512, AVX2, SSE2 and NEON.
// THROUGHTIME_BYTES (16, 32 or 64) is the width of a register; the flags of the translation unit choose the instructions.
// Everything lives in a namespace named after the instruction set: the linker would merge equal names of different code.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define TT_INLINE static inline __attribute__((always_inline))

namespace tt::THROUGHTIME_ISA {

template <class T>
struct Simd {
  static constexpr int width = THROUGHTIME_BYTES / sizeof(T);
  typedef T Vec __attribute__((vector_size(THROUGHTIME_BYTES)));
  typedef T Loose __attribute__((vector_size(THROUGHTIME_BYTES), aligned(sizeof(T)), may_alias));
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Bits IntVec __attribute__((vector_size(THROUGHTIME_BYTES)));
};

template <class T>
using Vec = typename Simd<T>::Vec;

template <class T>
TT_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Loose*>(p);
}

template <class T>
TT_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Simd<T>::Loose*>(p) = v;
}

// s - 0 is s for every s, so this is one broadcast; 0 + s would have to turn -0 into 0.
template <class T>
TT_INLINE Vec<T> splat(T s) {
  return s - Vec<T>{};
}

// Asks for `bytes` that will be read 4 KB after those at p: what comes from beyond the second cache is late otherwise.
template <int bytes>
TT_INLINE void ask_ahead(const void* p) {
  for (int line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(p) + 4096 + line);
}

template <class T>
TT_INLINE T sum(Vec<T> v) {
  T total = 0;
  for (int i = 0; i < Simd<T>::width; i++) total += v[i];
  return total;
}

// The same by halves: eight additions in a row would take as long as a hundred numbers.
template <class T>
TT_INLINE T total(Vec<T> v) {
  for (int half = Simd<T>::width / 2; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}

// Two vectors as one: of each pair of blocks of `half` numbers the first ones, of a and b in turn; and the second ones.
template <class T, int half, int... lane>
TT_INLINE Vec<T> first_blocks(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  constexpr int W = Simd<T>::width;
#ifdef __clang__
  return __builtin_shufflevector(a, b, (lane & half ? W + lane - half : lane)...);
#else
  return __builtin_shuffle(a, b, typename Simd<T>::IntVec{(lane & half ? W + lane - half : lane)...});
#endif
}

template <class T, int half, int... lane>
TT_INLINE Vec<T> second_blocks(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  constexpr int W = Simd<T>::width;
#ifdef __clang__
  return __builtin_shufflevector(a, b, (lane & half ? W + lane : lane + half)...);
#else
  return __builtin_shuffle(a, b, typename Simd<T>::IntVec{(lane & half ? W + lane : lane + half)...});
#endif
}

template <class T>
using Lanes = std::make_integer_sequence<int, Simd<T>::width>;

// The sums of as many vectors as each has numbers: number i of the result is that of v[i].
template <class T, int half = 1>
TT_INLINE Vec<T> totals(Vec<T>* v) {
  if constexpr (half < Simd<T>::width) {
#pragma GCC unroll 16
    for (int i = 0; i < Simd<T>::width / (2 * half); i++)
      v[i] = first_blocks<T, half>(v[2 * i], v[2 * i + 1], Lanes<T>{}) + second_blocks<T, half>(v[2 * i], v[2 * i + 1], Lanes<T>{});
    return totals<T, 2 * half>(v);
  }
  return v[0];
}

// A square of numbers, a row in each vector, transposed.
template <class T, int half = 1>
TT_INLINE void transpose(Vec<T>* v) {
  if constexpr (half < Simd<T>::width) {
#pragma GCC unroll 16
    for (int i = 0; i < Simd<T>::width; i++)
      if (!(i & half)) {
        Vec<T> a = v[i], b = v[i + half];
        v[i] = first_blocks<T, half>(a, b, Lanes<T>{});
        v[i + half] = second_blocks<T, half>(a, b, Lanes<T>{});
      }
    transpose<T, 2 * half>(v);
  }
}

// to[k][u] = from[u][k] for `rows` rows of `columns` numbers; from row to row are `ld_from` and `ld_to` numbers.
template <class T>
static void transposed(const T* from, long ld_from, long rows, long columns, T* to, long ld_to) {
  constexpr int W = Simd<T>::width;
  long u = 0;
  for (; u + W <= rows; u += W) {
    const T* block = from + u * ld_from;
    long k = 0;
    for (; k + W <= columns; k += W) {
      Vec<T> v[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) v[i] = load(block + i * ld_from + k);
      transpose<T>(v);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store(to + (k + i) * ld_to + u, v[i]);
    }
    for (; k < columns; k++)
      for (int i = 0; i < W; i++) to[k * ld_to + u + i] = block[i * ld_from + k];
  }
  for (; u < rows; u++)
    for (long k = 0; k < columns; k++) to[k * ld_to + u] = from[u * ld_from + k];
}

}  // namespace tt::THROUGHTIME_ISA
