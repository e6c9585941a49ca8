// The matrix product inside a step: a few rows of state times the packed recurrent weights.
//
// The weights are packed once per call into panels of two registers' width, [panel][K][2 * width]: one panel is read in
// order while a tile of rows sits in registers. Tiles: 12 x 2 registers with 32 of them (AVX-512, NEON), 6 x 2 with 16.
#pragma once
#include "simd.hpp"

namespace tt::THROUGHTIME_ISA {

#if THROUGHTIME_BYTES == 64 || defined(__aarch64__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif

template <class T>
constexpr int kPanel = 2 * Simd<T>::width;

// C[r][0..panel) (+)= A[r][0..K) * panel, for R rows; from row to row of A and C are `lda` and `ldc` elements, from k to k of A `next`.
template <class T, int R>
TT_INLINE void tile(const T* A, long lda, long next, const T* panel, int K, T* C, long ldc, bool accumulate) {
  constexpr int W = Simd<T>::width;
  // With one or two rows a chain of dependent sums would wait for itself: several partial sums run side by side.
  constexpr int U = R == 1 ? 4 : R == 2 ? 2 : 1;
  Vec<T> sum[U][R][2];
  for (int u = 0; u < U; u++)
    for (int r = 0; r < R; r++) sum[u][r][0] = sum[u][r][1] = Vec<T>{};
  // What the sums are added to is on its way meanwhile: the rows lie far apart, so the processor does not see them coming.
  for (int r = 0; r < R; r++) {
    __builtin_prefetch(C + r * ldc, 1);
    __builtin_prefetch(C + r * ldc + 2 * W - 1, 1);
  }
  int k = 0;
#pragma GCC unroll 4
  for (; k + U <= K; k += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) {
      ask_ahead<2 * THROUGHTIME_BYTES>(panel + u * 2 * W);
      Vec<T> b0 = load(panel + u * 2 * W), b1 = load(panel + u * 2 * W + W);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        Vec<T> a = splat<T>(A[r * lda + (k + u) * next]);
        sum[u][r][0] += a * b0;
        sum[u][r][1] += a * b1;
      }
    }
    panel += U * 2 * W;
  }
  for (; k < K; k++, panel += 2 * W)
    for (int r = 0; r < R; r++) {
      Vec<T> a = splat<T>(A[r * lda + k * next]);
      sum[0][r][0] += a * load(panel);
      sum[0][r][1] += a * load(panel + W);
    }
  for (int r = 0; r < R; r++) {
    for (int u = 1; u < U; u++) {
      sum[0][r][0] += sum[u][r][0];
      sum[0][r][1] += sum[u][r][1];
    }
    T* c = C + r * ldc;
    if (accumulate) {
      sum[0][r][0] += load(c);
      sum[0][r][1] += load(c + W);
    }
    store(c, sum[0][r][0]);
    store(c + W, sum[0][r][1]);
  }
}

template <class T, int R = kTileRows>
TT_INLINE void tail(int rows, const T* A, long lda, const T* panel, int K, T* C, long ldc, bool accumulate) {
  if constexpr (R > 0) {
    if (rows == R) return tile<T, R>(A, lda, 1, panel, K, C, ldc, accumulate);
    return tail<T, R - 1>(rows, A, lda, panel, K, C, ldc, accumulate);
  }
}

// All rows of one panel. Rows are spread evenly over tiles: 7 rows are 4 + 3, not 6 + 1.
template <class T>
static void product(int rows, const T* A, long lda, const T* panel, int K, T* C, long ldc, bool accumulate) {
  if (rows <= 0) return;
  int tiles = (rows + kTileRows - 1) / kTileRows, base = rows / tiles, extra = rows % tiles;
  for (int i = 0; i < tiles; i++) {
    int n = base + (i < extra);
    tail<T>(n, A, lda, panel, K, C, ldc, accumulate);
    A += n * lda;
    C += n * ldc;
  }
}

// A matrix of weights as the caller has it, and its size padded to whole panels.
struct Matrix {
  const void* weights;
  int rows, columns;              // padded
  int real_rows, real_columns;

  template <class T>
  const T* block(int number) const {
    return static_cast<const T*>(weights) + long(number) * real_rows * real_columns;
  }
};

// Panel j of a block for C = A W^T: panel[k][u] = W[j * panel + u][k].
template <class T>
static void pack_rows(const Matrix& matrix, int block, int j, T* panel) {
  constexpr int P = kPanel<T>;
  const int K = matrix.real_columns, rows = matrix.real_rows - j * P;
  const T* w = matrix.block<T>(block) + long(j) * P * K;
  if (rows < P || K < matrix.columns) std::memset(panel, 0, sizeof(T) * P * matrix.columns);
  transposed(w, K, rows < P ? rows : P, K, panel, P);
}

// Panel j of a block for C = A W: panel[k][u] = W[k][j * panel + u].
template <class T>
static void pack_columns(const Matrix& matrix, int block, int j, T* panel) {
  constexpr int P = kPanel<T>;
  const int K = matrix.real_rows, columns = matrix.real_columns - j * P;
  const T* w = matrix.block<T>(block) + j * P;
  if (columns < P || K < matrix.rows) std::memset(panel, 0, sizeof(T) * P * matrix.rows);
  for (int k = 0; k < K && columns > 0; k++)
    std::memcpy(panel + long(k) * P, w + long(k) * matrix.real_columns, sizeof(T) * (columns < P ? columns : P));
}

}  // namespace tt::THROUGHTIME_ISA
