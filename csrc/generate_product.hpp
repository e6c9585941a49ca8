// A few rows times weights whose panels hold all gates of some units side by side: a step's sums never leave the registers.
#pragma once
#include <type_traits>

#include "simd.hpp"

namespace tt::THROUGHTIME_ISA {

#if THROUGHTIME_BYTES == 64 || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32 of them
#else
constexpr bool kManyRegisters = false;
#endif
constexpr int kStepRows = kManyRegisters ? 6 : 3;

// sum[r][v] += x[r][0..K) * panel[0..K)[v]
template <int R, int NV>
TT_INLINE void multiply(const float* x, long ldx, const float* panel, long K, Vec<float> (&sum)[R][NV]) {
  constexpr int W = Simd<float>::width;
  // A single row would wait for its own sums: several partial sums run side by side. More rows keep one order of
  // summation whatever their number, so how rows are dealt out to threads changes no bit.
  constexpr int U = R > 1 ? 1 : kManyRegisters ? 4 : NV == 3 ? 3 : 2;
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
    Vec<float> b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) b[v] = load(panel + (k * NV + v) * W);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      Vec<float> a = splat<float>(x[r * ldx + k]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[r][v] += a * b[v];
    }
  }
}

template <int R, class Tile>
TT_INLINE void with_rows(int rows, Tile&& tile) {
  if constexpr (R > 1)
    if (rows < R) return with_rows<R - 1>(rows, tile);
  tile(std::integral_constant<int, R>{});
}

// Calls tile(R, first) for tiles that cover `count` rows from `first` on, evenly: 4 rows are 2 + 2, and only a row that is
// alone gets a tile of one.
template <class Tile>
TT_INLINE void in_tiles(long first, long count, Tile&& tile) {
  const long tiles = (count + kStepRows - 1) / kStepRows;
  for (long i = 0; i < tiles; i++) {
    const long from = first + count * i / tiles, to = first + count * (i + 1) / tiles;
    with_rows<kStepRows>(int(to - from), [&](auto rows) __attribute__((always_inline)) { tile(rows, from); });
  }
}

}  // namespace tt::THROUGHTIME_ISA
