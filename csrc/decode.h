// The C interface of decoding: one step of a decoder with attention for many rows, and the best next symbols of each, in one call.
//
// Row r reads symbol[r], continues the state of row parent[r] of the step before, and attends to the memory of source[r]:
//
//   x = [embedding of the symbol, summary of the source, attentional vector of the step before], the last two where there are any
//   h = layers(x);  context = attention(h, memory);  a = tanh(W_c [context, h]), or h without attention;  logits = W_o a + b_o
//
// Weights are packed as generate.h says, in float32; W_c and the query's map as an RNN's panels, 4 * width outputs in each. What a row
// gets does not depend, to the last bit, on the rows beside it or on threads.
#pragma once
#include "generate.h"

#define TT_DECODE(integer, number, array)                                                                             \
  integer(layers) integer(rows) integer(threads)                                                                      \
  integer(step)                                        /* its number, which decides only in which direction weights are read */ \
  integer(embedded)                                    /* E: numbers of an embedded symbol */                         \
  integer(summarized)                                  /* numbers of a summary, 0: it is not read */                  \
  integer(fed)                                         /* whether the attentional vector of the step before is read */ \
  integer(attention)                                   /* a tt_attention */                                           \
  integer(length) integer(memory) integer(compared)    /* S; M, numbers of a step of the memory; A, of its key and of a query */ \
  integer(features)                                    /* numbers of the attentional vector */                        \
  integer(symbols) integer(count)                      /* V; C, the best symbols that are wanted, 0: only logits */    \
  integer(end)                                         /* the symbol that ends a sequence */                          \
  integer(width)                                       /* numbers of a row of states: of each layer h and c, [padded] each; then what is fed */ \
  array(const tt_generation_layer, layer)              /* h and c are not read */                                     \
  array(const float, embedding) array(const float, summary) /* [symbols][E], [sources][summarized] */                 \
  array(const float, keys) array(const float, outputs) /* [sources][S][A], [sources][S][M] */                         \
  array(const int64_t, lengths)                        /* [sources]: steps that are attended to, at least one */      \
  array(const float, query_weight) array(const float, query_bias) /* additive: panels, and a row in panel order */    \
  array(const float, score_weight)                     /* additive: [A] */                                            \
  array(const float, combine_weight)                   /* panels, K = M + H */                                        \
  array(const float, head_weight) array(const float, head_bias)                                                       \
  array(const uint8_t, excluded)                       /* [V]: symbols that are never among the best; or null */      \
  array(const uint8_t, rules)                          /* [rows] of tt_rule; or null: all are free */                 \
  array(const int64_t, symbol) array(const int64_t, parent) array(const int64_t, source) /* [rows] */                 \
  array(const float, states) array(float, new_states)  /* [rows of the step before][width], [rows][width] */          \
  array(float, weights)                                /* out, [rows][S]: of attention; or null */                    \
  array(float, logits)                                 /* out, [rows][V padded to 64]; or null */                     \
  array(float, values) array(int64_t, places)          /* out, [rows][C]: log-probabilities, the largest first, and their symbols */ \
  array(uint8_t, ends)                                 /* out, [rows]: whether the end is the likeliest of all symbols */

#ifdef __cplusplus
extern "C" {
#endif

enum tt_attention { TT_NO_ATTENTION = 0, TT_PRODUCT = 1, TT_ADDITIVE = 2 };
enum tt_rule { TT_FREE = 0, TT_ONLY_END = 1, TT_NOT_END = 2 };
typedef struct { TT_DECODE(TT_INTEGER, TT_NUMBER, TT_ARRAY) } tt_decode;
// TT_DONE, TT_NO_MEMORY, or TT_DIVERGED where logits are no numbers. An excluded symbol has a log-probability of -infinity.
typedef int (*tt_decode_run)(const tt_decode *);

#ifdef __cplusplus
}
#endif
