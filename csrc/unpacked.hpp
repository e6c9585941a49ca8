// Products of a few rows with a matrix of weights as the caller has it. The order of each sum differs from that of the packed products.
#pragma once
#include "gemm.hpp"

namespace tt::THROUGHTIME_ISA {

// C[r][w] (+)= A[r] . B[w] for R rows of A and N of B, of K numbers each.
template <class T, int R, int N>
TT_INLINE void dots(const T* A, long lda, const T* B, long ldb, long K, T* C, long ldc, bool accumulate) {
  constexpr int W = Simd<T>::width;
  Vec<T> sum[R][N] = {};
  long k = 0;
  for (; k + W <= K; k += W) {
    Vec<T> a[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) a[r] = load(A + r * lda + k);
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      Vec<T> b = load(B + n * ldb + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[r][n] += a[r] * b;
    }
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) {
      T found = total<T>(sum[r][n]);
      for (long i = k; i < K; i++) found += A[r * lda + i] * B[n * ldb + i];
      C[r * ldc + n] = accumulate ? C[r * ldc + n] + found : found;
    }
}

template <class T, int R>
static void rows_of_dots(const T* A, long lda, const T* B, long ldb, long columns, long K, T* C, long ldc, bool accumulate) {
  constexpr int N = R == 1 ? 8 : 4;
  long n = 0;
  for (; n + N <= columns; n += N) dots<T, R, N>(A, lda, B + n * ldb, ldb, K, C + n, ldc, accumulate);
  for (; n < columns; n++) dots<T, R, 1>(A, lda, B + n * ldb, ldb, K, C + n, ldc, accumulate);
}

// C[r][w] (+)= A[r] . B[w] for all rows of A and `columns` rows of B.
template <class T>
static void rows_times_rows(long rows, const T* A, long lda, const T* B, long ldb, long columns, long K, T* C, long ldc,
                            bool accumulate) {
  constexpr int R = THROUGHTIME_BYTES == 64 || kTileRows > 6 ? 4 : 2;
  long r = 0;
  for (; r + R <= rows; r += R) rows_of_dots<T, R>(A + r * lda, lda, B, ldb, columns, K, C + r * ldc, ldc, accumulate);
  for (; r + 2 <= rows; r += 2) rows_of_dots<T, 2>(A + r * lda, lda, B, ldb, columns, K, C + r * ldc, ldc, accumulate);
  if (r < rows) rows_of_dots<T, 1>(A + r * lda, lda, B, ldb, columns, K, C + r * ldc, ldc, accumulate);
}

// C[r][0..panel) (+)= sum over k of A[r][k] B[k][0..panel).
template <class T>
static void rows_times_columns(long rows, const T* A, long lda, const T* B, long ldb, long K, T* C, long ldc, bool accumulate) {
  constexpr int W = Simd<T>::width, U = 4;
  for (long r = 0; r < rows; r++, A += lda, C += ldc) {
    Vec<T> sum[U][2] = {};
    long k = 0;
    for (; k + U <= K; k += U)
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) {
        Vec<T> a = splat<T>(A[k + u]);
        sum[u][0] += a * load(B + (k + u) * ldb);
        sum[u][1] += a * load(B + (k + u) * ldb + W);
      }
    for (; k < K; k++) {
      Vec<T> a = splat<T>(A[k]);
      sum[0][0] += a * load(B + k * ldb);
      sum[0][1] += a * load(B + k * ldb + W);
    }
    for (int half = 0; half < 2; half++) {
      Vec<T> all = (sum[0][half] + sum[1][half]) + (sum[2][half] + sum[3][half]);
      store(C + half * W, accumulate ? all + load(C + half * W) : all);
    }
  }
}

}  // namespace tt::THROUGHTIME_ISA
