// The C interface of a matrix product over all steps: C (+)= A B.
//
// A is [rows][depth], or [depth][rows] as it lies when it is transposed; B is [depth][columns], or [columns][depth]. One dimension
// lies in blocks that are padded in a row of gates: index i of it is then at i / block * padded + i % block. In C blocks are padded to
// whole panels (tt_panel), and what is padded is set to zero.
#pragma once
#include "call.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tt_blocked { TT_ROWS_OF_A = 1, TT_DEPTH_OF_A = 2, TT_COLUMNS_OF_C = 3 };

#define TT_PRODUCT(integer, number, pointer)                                                                              \
  integer(rows) integer(columns) integer(depth)                                                                           \
  integer(lda) integer(ldb) integer(ldc)              /* numbers from row to row, as the matrices lie */                  \
  integer(transposed_a) integer(transposed_b)                                                                             \
  integer(blocked) integer(block) integer(padded)     /* a tt_blocked */                                                  \
  integer(accumulate) integer(threads)                                                                                    \
  integer(bf16)                                       /* float32: how factors are rounded, a tt_bf16 */                   \
  pointer(a) pointer(b) pointer(c)                                                                                        \
  pointer(rows_of_b)                                  /* where the rows of B lie, if not one after another; else null */

typedef TT_STRUCT(TT_PRODUCT) tt_product;

/* 0, or 1 when there is no memory for the packed matrices. */
int tt_multiply(int wide, const tt_product *);

#ifdef __cplusplus
}
#endif
