// A few rows times weights whose panels hold all gates of some units side by side: a step's sums never leave the registers.
#pragma once
#include <type_traits>
#include <utility>

#include "generate_weights.hpp"

namespace tt::THROUGHTIME_ISA {

#if THROUGHTIME_BYTES == 64 || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32 of them
#else
constexpr bool kManyRegisters = false;
#endif
constexpr int kStepRows = kManyRegisters ? 6 : 3;

// sum[r][v] += x[r][0..K) * panel[0..K)[v]
//
// A single row would wait for its own sums: several partial sums run side by side. More rows keep one order of
// summation whatever their number, so how rows are dealt out to threads changes no bit.
template <class Weights, int R, int NV>
TT_INLINE void accumulate(const float* x, long ldx, const float* panel, long K, Vec<float> (&sum)[R][NV]) {
  constexpr int W = Simd<float>::width;
  constexpr int U = R > 1 || Weights::one_order ? 1 : kManyRegisters ? 4 : NV == 3 ? 3 : 2;
  long k = 0;
  if constexpr (U > 1) {
    Vec<float> part[U][NV];
#pragma GCC unroll 4
    for (int u = 0; u < U; u++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) part[u][v] = Vec<float>{};
    for (; k + U <= K; k += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) {
        ask_ahead<NV * THROUGHTIME_BYTES>(panel + (k + u) * NV * W);
        Vec<float> a = splat<float>(x[k + u]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) part[u][v] += a * load(panel + ((k + u) * NV + v) * W);
      }
    }
#pragma GCC unroll 4
    for (int u = 0; u < U; u++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[0][v] += part[u][v];
  }
  for (; k < K; k++) {
    ask_ahead<NV * THROUGHTIME_BYTES>(panel + k * NV * W);
    Vec<float> b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) b[v] = load(panel + (k * NV + v) * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      Vec<float> a = splat<float>(x[r * ldx + k]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[r][v] += a * b[v];
    }
  }
}

// Whole words of `count` steps or fewer, from x and words on; partial sums alternate between U.
template <class Weights, int R, int NV, int U, int... F>
TT_INLINE void accumulate_block(const float* x, long ldx, const int32_t* words, int count, Vec<float> (&sum)[U][R][NV],
                                std::integer_sequence<int, F...>) {
  constexpr int W = Simd<float>::width, P = Weights::parts;
  auto vector = [&](auto index) __attribute__((always_inline)) {
    constexpr int stored = Weights::stored(NV), f = decltype(index)::value, k = f / stored, v = f % stored;
    if (v >= NV || k >= count) return;
    const Vec<float> b = Weights::template widen<f % P>(load(words + f / P * W));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sum[k % U][r][v % NV] += splat<float>(x[r * ldx + k]) * b;
  };
  (vector(std::integral_constant<int, F>{}), ...);
}

// The same from rounded weights; int8 has a scale for each output, those of the panel begin at scale[place].
template <class Weights, int R, int NV>
TT_INLINE void accumulate(const float* x, long ldx, const int32_t* words, const float* scale, long place, long K,
                          Vec<float> (&sum)[R][NV]) {
  constexpr int W = Simd<float>::width, U = R > 1 || Weights::one_order ? 1 : 2, stored = Weights::stored(NV);
  // The fewest steps that are whole words, or enough for both partial sums.
  constexpr int block = R == 1 ? kBlock : stored % Weights::parts == 0 ? 1 : Weights::parts;
  constexpr auto all = std::make_integer_sequence<int, block * stored>{};
  Vec<float> part[U][R][NV];
  for (int u = 0; u < U; u++)
    for (int r = 0; r < R; r++)
      for (int v = 0; v < NV; v++) part[u][r][v] = Vec<float>{};
  const long whole = K / block * block;
  for (long k = 0; k < whole; k += block, words += block * stored * W / Weights::parts)
    accumulate_block<Weights>(x + k, ldx, words, block, part, all);
  if (whole < K) accumulate_block<Weights>(x + whole, ldx, words, int(K - whole), part, all);
  for (int r = 0; r < R; r++) {
    Vec<float> before{};
    for (int v = 0; v < NV; v++) {
      const Vec<float> total = U > 1 ? part[0][r][v] + part[U - 1][r][v] : part[0][r][v];
      sum[r][v] += Weights::finish(total, before, scale, place + v * W);
      before = total;
    }
  }
}

// sum[r][v] += x[r] * panel j of `weights`
template <class Weights, int R, int NV>
TT_INLINE void multiply(const float* x, long ldx, const void* weights, const float* scale, long j, long K,
                        Vec<float> (&sum)[R][NV]) {
  const char* panel = static_cast<const char*>(weights) + j * panel_bytes<Weights>(K, NV);
  if constexpr (Weights::parts == 1)
    accumulate<Weights, R, NV>(x, ldx, reinterpret_cast<const float*>(panel), K, sum);
  else
    accumulate<Weights, R, NV>(x, ldx, reinterpret_cast<const int32_t*>(panel), scale, j * NV * Simd<float>::width, K, sum);
}

template <int R, class Tile>
TT_INLINE void with_rows(int rows, Tile&& tile) {
  if constexpr (R > 1)
    if (rows < R) return with_rows<R - 1>(rows, tile);
  tile(std::integral_constant<int, R>{});
}

// Calls tile(R, first) for tiles that cover `count` rows from `first` on, evenly: 4 rows are 2 + 2, and only a row that is
// alone gets a tile of one.
template <int most = kStepRows, class Tile>
TT_INLINE void in_tiles(long first, long count, Tile&& tile) {
  const long tiles = (count + most - 1) / most;
  for (long i = 0; i < tiles; i++) {
    const long from = first + count * i / tiles, to = first + count * (i + 1) / tiles;
    with_rows<most>(int(to - from), [&](auto rows) __attribute__((always_inline)) { tile(rows, from); });
  }
}

}  // namespace tt::THROUGHTIME_ISA
