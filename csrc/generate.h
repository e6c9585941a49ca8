// The C interface of generation: draw a symbol, feed it through all layers and the head, and so on, for many symbols in one call.
//
// Weights are packed once, by the caller, into panels of `width` = tt_generation_width() numbers for each of `vectors`
// registers: [panel][K][vectors][width]. A panel of a GRU holds `width` units (vectors: its gates r, z, n), of an LSTM too
// (i, f, g, o); of an RNN and of the head 4 * width units. A row in panel order, [panel][vectors][width], is a bias, a row of
// the table or the scales. Units are padded to whole panels with zeros, logits to multiples of 64 with -infinity.
//
// Weights are float32, bfloat16, or int8 with one float32 scale for each output: w = scale * q. The quantized ones are stored
// several in a word as generate_weights.hpp says. All else, and all arithmetic, is float32.
#pragma once
#include "call.h"

/* One layer; `array` is a pointer to values of a type. */
#define TT_GENERATION_LAYER(integer, number, array)                                                                   \
  integer(cell) integer(activation)                    /* as in tt_stack */                                           \
  integer(inputs)                                      /* features it multiplies; 0 for a first layer that is folded into the table */ \
  integer(hidden) integer(padded)                      /* H, and H in whole panels */                                 \
  array(const void, weight_ih)                         /* panels, K = inputs */                                       \
  array(const void, weight_hh)                         /* panels, K = hidden */                                       \
  array(const float, scale_ih) array(const float, scale_hh) /* int8: a row in panel order */                          \
  array(const float, bias)                             /* one row in panel order: both biases; of a GRU's n only b_in */ \
  array(const float, bias_hn)                          /* GRU: [padded] */                                            \
  array(float, h) array(float, c)                      /* [B][padded] in: the state at the start, out: after the last symbol */

#define TT_GENERATION(integer, number, array)                                                                         \
  integer(layers) integer(batch) integer(symbols)      /* symbols: V */                                               \
  integer(weights)                                     /* how all weights are stored, a tt_generation_weights */      \
  integer(tokens)                                      /* steps to run */                                             \
  integer(num_read)                                    /* of these, the first that are read from `ids` and not sampled */ \
  integer(threads)                                                                                                    \
  integer(seed)                                        /* all 64 bits count */                                        \
  integer(position)                                    /* number of the first step: what is drawn depends on seed, position and row */ \
  integer(top_k)                                       /* 0: all */                                                   \
  number(temperature) number(top_p)                    /* temperature 0: the likeliest; top_p 1: all */               \
  integer(banned_count) integer(stop_count)                                                                           \
  array(const tt_generation_layer, layer)                                                                             \
  array(const float, table)                            /* [V][row of layer 0 in panel order]: W_ih x + biases of every symbol; or null */ \
  array(const float, embedding)                        /* [V][inputs of layer 0] where there is no table */           \
  array(const void, head_weight) array(const float, head_bias) array(const float, head_scale)                         \
  array(const int64_t, banned) array(const int64_t, stops) /* never drawn; a row that draws one of `stops` is finished */ \
  array(int64_t, ids)                                  /* [tokens][B] in: those that are read; out: those sampled, -1 after a row's stop */ \
  array(uint8_t, finished)                             /* [B] in and out: rows that have drawn one of `stops` */      \
  array(float, logits)                                 /* [B][V padded to 64] in: what the first is drawn from; out: what follows the last */ \
  integer(done)                                        /* out: steps that were run */

#define TT_ARRAY(type, name) type* name;

#ifdef __cplusplus
extern "C" {
#endif

enum tt_generation_weights { TT_FLOAT32 = 0, TT_BFLOAT16 = 1, TT_INT8 = 2 };
typedef struct { TT_GENERATION_LAYER(TT_INTEGER, TT_NUMBER, TT_ARRAY) } tt_generation_layer;
typedef struct { TT_GENERATION(TT_INTEGER, TT_NUMBER, TT_ARRAY) } tt_generation;
enum tt_generation_status { TT_DONE = 0, TT_NO_MEMORY = 1, TT_DIVERGED = 2, TT_NOTHING_LEFT = 3 };

// After TT_DIVERGED and TT_NOTHING_LEFT `done` steps were good and step `done` could not be drawn; no state was written.
typedef int (*tt_generate_run)(tt_generation *);

#ifdef __cplusplus
}
#endif
