// Vectors of one width, in the compiler's own vector types: one source for AVX-512, AVX2, SSE2 and NEON.
// THROUGHTIME_BYTES (16, 32 or 64) is the width of a register; the flags of the translation unit choose the instructions.
// Everything lives in a namespace named after the instruction set: the linker would merge equal names of different code.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

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

}  // namespace tt::THROUGHTIME_ISA
