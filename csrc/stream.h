// The C interface of streaming: chunks of many sequences, each continued from its own state in a slab, in one call.
//
// Weights are packed as generate.h says. The states of all sequences lie in a slab of each layer, [slots][padded], and
// row r of a call continues slot slots[r]. What a row gets does not depend, to the last bit, on the rows beside it, on how its steps
// are divided over calls, or on threads: the order of every sum is that of its weights alone.
#pragma once
#include "generate.h"

#define TT_STREAM(integer, number, array)                                                                             \
  integer(layers) integer(rows) integer(threads)                                                                      \
  integer(weights)                                     /* how all weights are stored, a tt_generation_weights */      \
  integer(inputs)                                      /* D */                                                        \
  integer(outputs)                                     /* numbers of y for a step: H of the last layer, or with a head its own */ \
  array(const tt_generation_layer, layer)              /* h, c: the slabs, in and out */                              \
  array(const int64_t, slots)                          /* [rows], no slot twice */                                    \
  array(const int64_t, offsets)                        /* [rows + 1]: row r has steps offsets[r] .. offsets[r + 1] of x and y */ \
  array(const float, x) array(float, y)                /* [steps][inputs], [steps][outputs] */                        \
  array(const void, head_weight) array(const float, head_bias) array(const float, head_scale) /* panels, and rows in panel order; or null */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { TT_STREAM(TT_INTEGER, TT_NUMBER, TT_ARRAY) } tt_stream;
// TT_DONE, or TT_NO_MEMORY, and then nothing was written.
typedef int (*tt_stream_run)(const tt_stream *);

#ifdef __cplusplus
}
#endif
