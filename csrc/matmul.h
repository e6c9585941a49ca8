// The C interface of a matrix product over all steps: C (+)= A B.
//
// A is [rows][depth], or [depth][rows] as it lies when it is transposed; B is [depth][columns], or [columns][depth]. One dimension
// lies in blocks that are padded in a row of gates: index i of it is then at i / block * padded + i % block. In C blocks are padded to
// whole panels (tt_panel), and what is padded is set to zero.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tt_blocked { TT_ROWS_OF_A = 1, TT_DEPTH_OF_A = 2, TT_COLUMNS_OF_C = 3 };

typedef struct {
  int64_t rows, columns, depth;
  int64_t lda, ldb, ldc;               // elements from row to row, as the matrices lie
  int64_t transposed_a, transposed_b;
  int64_t blocked;                     // a tt_blocked
  int64_t block, padded;
  int64_t accumulate, threads;
  const void *a, *b;
  void *c;
} tt_product;

// 0, or 1 when memory for the packed matrices could not be had.
typedef int (*tt_multiply_run)(const tt_product *);

#ifdef __cplusplus
}
#endif
