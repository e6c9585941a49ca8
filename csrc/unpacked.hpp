// Products of a few rows with a matrix of weights as the caller has it. The order of each sum differs from that of the packed products.
#pragma once
#include "gemm.hpp"

namespace tt::THROUGHTIME_ISA {

// C[r][n] (+)= A[r] . B[n] for R rows of A and N of B, of K numbers each. R * N is a vector's width, or few.
template <class T, int R, int N>
TT_INLINE void dots(const T* A, long lda, const T* B, long ldb, long K, T* C, long ldc, bool accumulate) {
  constexpr int W = Simd<T>::width;
  Vec<T> sum[R * N] = {};
  long k = 0;
  for (; k + W <= K; k += W) {
    Vec<T> a[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) a[r] = load(A + r * lda + k);
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) {
      Vec<T> b = load(B + n * ldb + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[r * N + n] += a[r] * b;
    }
  }
  alignas(64) T found[R * N < W ? W : R * N];
  if constexpr (R * N == W)
    store(found, totals<T>(sum));
  else
    for (int i = 0; i < R * N; i++) found[i] = total<T>(sum[i]);
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) {
      T dot = found[r * N + n];
      for (long i = k; i < K; i++) dot += A[r * lda + i] * B[n * ldb + i];
      C[r * ldc + n] = accumulate ? C[r * ldc + n] + dot : dot;
    }
}

// C[r][n] (+)= A[r] . B[n] for all rows of A and `columns` rows of B. Rows of B stay in the nearest cache for all rows of A.
template <class T>
static void rows_times_rows(long rows, const T* A, long lda, const T* B, long ldb, long columns, long K, T* C, long ldc,
                            bool accumulate) {
  constexpr int W = Simd<T>::width, Q = W >= 8 ? W / 4 : 1;
  long n = 0;
  for (; n + W <= columns; n += W) {
    long r = 0;
    for (; r + 4 <= rows && Q > 1; r += 4)
      for (int q = 0; q < W; q += Q) dots<T, 4, Q>(A + r * lda, lda, B + (n + q) * ldb, ldb, K, C + r * ldc + n + q, ldc, accumulate);
    for (; r < rows; r++) dots<T, 1, W>(A + r * lda, lda, B + n * ldb, ldb, K, C + r * ldc + n, ldc, accumulate);
  }
  for (; n < columns; n++)
    for (long r = 0; r < rows; r++) dots<T, 1, 1>(A + r * lda, lda, B + n * ldb, ldb, K, C + r * ldc + n, ldc, accumulate);
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
