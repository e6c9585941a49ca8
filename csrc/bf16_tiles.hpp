// The product of rows with a panel of pairs, on tiles: two-dimensional registers of 16 rows, each of a register's bytes.
//
// A tile of A holds 16 rows of 2 W numbers, one of the panel W rows of W pairs, one of C 16 rows of W sums, with W floats to
// a register: at 64 bytes these are the tiles of AMX. Four tiles of sums are filled together, so that each tile that is
// read serves two products.
//
// `Tiles` has load<tile>(address, bytes from row to row), store<tile>, zero<tile> and dot<sums, a, b>, all for whole tiles.
#pragma once
#include "bf16.h"
#include "bf16.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr int kTilePairs = Simd<float>::width;  // of k in one product of tiles

// Tiles in memory, for tests: the arithmetic of tdpbf16ps, which sums even and odd k apart and then adds both.
class MemoryTiles {
 public:
  template <int N>
  void load(const void* from, long stride) {
    constexpr int rows = N < 6 ? TT_BF16_ROWS : kTilePairs;
    for (int r = 0; r < rows; r++) std::memcpy(tile_[N][r], static_cast<const char*>(from) + r * stride, sizeof tile_[N][r]);
  }
  template <int N>
  void store(void* to, long stride) {
    for (int r = 0; r < TT_BF16_ROWS; r++) std::memcpy(static_cast<char*>(to) + r * stride, tile_[N][r], sizeof tile_[N][r]);
  }
  template <int N>
  void zero() {
    std::memset(tile_[N], 0, sizeof tile_[N]);
  }
  template <int Sums, int A, int B>
  void dot() {
    for (int m = 0; m < TT_BF16_ROWS; m++) {
      Floats even{}, odd{}, sum;
      for (int k = 0; k < kTilePairs; k++) {
        Ints b, a = tile_[A][m][k] - Ints{};
        std::memcpy(&b, tile_[B][k], sizeof b);
        even += EmulatedDot::even(a) * EmulatedDot::even(b);
        odd += EmulatedDot::odd(a) * EmulatedDot::odd(b);
      }
      std::memcpy(&sum, tile_[Sums][m], sizeof sum);
      sum += even + odd;
      std::memcpy(tile_[Sums][m], &sum, sizeof sum);
    }
  }

 private:
  int32_t tile_[8][TT_BF16_ROWS][Simd<float>::width];
};

// Tiles 0 to 3 are sums (rows, then columns of tiles), 4 and 5 of A, 6 and 7 of the panel.
template <class Tiles, bool Two>
static void tile_block(Tiles& tiles, const uint16_t* A, long lda, const uint16_t* panel, long K, float* C, long ldc, bool accumulate) {
  constexpr int W = Simd<float>::width;
  const long a_bytes = lda * sizeof *A, b_bytes = 4 * W * sizeof *panel, c_bytes = ldc * sizeof *C;
  float* below = C + TT_BF16_ROWS * ldc;
  if (accumulate) {
    tiles.template load<0>(C, c_bytes);
    tiles.template load<1>(C + W, c_bytes);
    if constexpr (Two) {
      tiles.template load<2>(below, c_bytes);
      tiles.template load<3>(below + W, c_bytes);
    }
  } else {
    tiles.template zero<0>();
    tiles.template zero<1>();
    if constexpr (Two) {
      tiles.template zero<2>();
      tiles.template zero<3>();
    }
  }
  for (long k = 0; k < K; k += 2 * kTilePairs) {
    const uint16_t* pairs = panel + k * kPanel<float>;
    tiles.template load<4>(A + k, a_bytes);
    tiles.template load<6>(pairs, b_bytes);
    tiles.template load<7>(pairs + 2 * W, b_bytes);
    tiles.template dot<0, 4, 6>();
    tiles.template dot<1, 4, 7>();
    if constexpr (Two) {
      tiles.template load<5>(A + TT_BF16_ROWS * lda + k, a_bytes);
      tiles.template dot<2, 5, 6>();
      tiles.template dot<3, 5, 7>();
    }
  }
  tiles.template store<0>(C, c_bytes);
  tiles.template store<1>(C + W, c_bytes);
  if constexpr (Two) {
    tiles.template store<2>(below, c_bytes);
    tiles.template store<3>(below + W, c_bytes);
  }
}

// tt_bf16_code::product. The last rows, fewer than a tile, pass through a whole one beside C.
template <class Tiles>
static void tile_product(long rows, const uint16_t* A, long lda, const uint16_t* panel, long K, float* C, long ldc, int accumulate) {
  constexpr int R = TT_BF16_ROWS, P = kPanel<float>;
  Tiles tiles;
  long r = 0;
  for (; r + 2 * R <= rows; r += 2 * R) tile_block<Tiles, true>(tiles, A + r * lda, lda, panel, K, C + r * ldc, ldc, accumulate);
  if (r + R <= rows) {
    tile_block<Tiles, false>(tiles, A + r * lda, lda, panel, K, C + r * ldc, ldc, accumulate);
    r += R;
  }
  if (r == rows) return;
  alignas(64) float beside[R][P];
  if (accumulate) {
    std::memset(beside, 0, sizeof beside);  // all rows are read: no signalling garbage
    for (long i = r; i < rows; i++) std::memcpy(beside[i - r], C + i * ldc, sizeof beside[0]);
  }
  tile_block<Tiles, false>(tiles, A + r * lda, lda, panel, K, beside[0], P, accumulate);
  for (long i = r; i < rows; i++) std::memcpy(C + i * ldc, beside[i - r], sizeof beside[0]);
}

}  // namespace tt::THROUGHTIME_ISA
