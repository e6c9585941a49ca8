// The product of a few rows with a panel of pairs, sums in registers: the loops of gemm.hpp, two k at a time.
#pragma once
#include "bf16.hpp"

namespace tt::THROUGHTIME_ISA {

template <class Dot, int R>
TT_INLINE void pair_tile(const uint16_t* A, long lda, const uint16_t* panel, long K, float* C, long ldc, bool accumulate) {
  constexpr int W = Simd<float>::width;
  // With one or two rows a chain of dependent sums would wait for itself: several partial sums run side by side.
  constexpr int U = R == 1 ? 4 : R == 2 ? 2 : 1;
  Floats sum[U][R][2];
  for (int u = 0; u < U; u++)
    for (int r = 0; r < R; r++) sum[u][r][0] = sum[u][r][1] = Floats{};
  auto step = [&](int u, long k, const uint16_t* pairs) __attribute__((always_inline)) {
    Ints b[2];
    std::memcpy(b, pairs, sizeof b);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      int32_t pair;
      std::memcpy(&pair, A + r * lda + k, sizeof pair);
      const Ints a = pair - Ints{};
      sum[u][r][0] = Dot::dot(sum[u][r][0], a, b[0]);
      sum[u][r][1] = Dot::dot(sum[u][r][1], a, b[1]);
    }
  };
  long k = 0;
  for (; k + 2 * U <= K; k += 2 * U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) step(u, k + 2 * u, panel + (k + 2 * u) * 2 * W);
  }
  for (; k < K; k += 2) step(0, k, panel + k * 2 * W);
  for (int r = 0; r < R; r++)
    for (int side = 0; side < 2; side++) {
      Floats total = sum[0][r][side];
      for (int u = 1; u < U; u++) total += sum[u][r][side];
      float* c = C + r * ldc + side * W;
      store(c, accumulate ? total + load(c) : total);
    }
}

template <class Dot, int R = kTileRows>
TT_INLINE void pair_tail(long rows, const uint16_t* A, long lda, const uint16_t* panel, long K, float* C, long ldc, bool accumulate) {
  if constexpr (R > 0) {
    if (rows == R) return pair_tile<Dot, R>(A, lda, panel, K, C, ldc, accumulate);
    return pair_tail<Dot, R - 1>(rows, A, lda, panel, K, C, ldc, accumulate);
  }
}

// tt_bf16_code::product. Rows are spread evenly over tiles, as in gemm.hpp.
template <class Dot>
static void pair_product(long rows, const uint16_t* A, long lda, const uint16_t* panel, long K, float* C, long ldc, int accumulate) {
  if (rows <= 0) return;
  const long tiles = (rows + kTileRows - 1) / kTileRows, base = rows / tiles, extra = rows % tiles;
  for (long i = 0; i < tiles; i++) {
    const long n = base + (i < extra);
    pair_tail<Dot>(n, A, lda, panel, K, C, ldc, accumulate);
    A += n * lda;
    C += n * ldc;
  }
}

}  // namespace tt::THROUGHTIME_ISA
