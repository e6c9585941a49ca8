// The C interface of a call: all layers and directions of a stack over a whole batch, forward or backward.
//
// Every struct is a list of fields, from which come both the struct and the description that tt_describe() gives: Python builds its
// own from that, so the two cannot differ. `integer` is an int64_t, `number` a double, `pointer` an address or null.
//
// The N rows of a batch are packed step by step: step t has rows offsets[t] .. offsets[t+1], its r-th row belongs to sequence r, and
// longer sequences come first. A full batch is the case of equal steps. All matrices have contiguous rows. Layers and
// directions are numbered as in torch.nn: layer 0 forward, layer 0 backward, layer 1 forward, ... What has a row for every sequence lies
// one number behind the other: h0 is [numbers][B][columns].
#pragma once
#include <stdint.h>

#define TT_CELLS(entry) entry(RNN, rnn) entry(GRU, gru) entry(LSTM, lstm)
#define TT_ACTIVATIONS(entry) entry(TANH, tanh) entry(RELU, relu) entry(SIGMOID, sigmoid) entry(IDENTITY, identity)

/* One layer in one direction: its sizes and its weights, or their gradients; null where there is none. */
#define TT_WEIGHTS(integer, number, pointer)                                                                          \
  integer(inputs) integer(units) integer(columns) /* D, H, and the size of h: less than H with a projection */        \
  pointer(weight_ih) pointer(weight_hh)           /* [gates*H][D], [gates*H][columns] */                              \
  pointer(bias_ih) pointer(bias_hh)               /* [gates*H] */                                                     \
  pointer(weight_peephole)                        /* LSTM: [3*H] for i, f, o */                                       \
  pointer(weight_hr)                              /* LSTM: [columns][H] */                                            \
  pointer(gain_ih) pointer(gain_hh)               /* [gates*H] layer norm of both linear maps */                      \
  pointer(gain_c) pointer(bias_c)                 /* LSTM with layer norm: [H] of the cell state's */

/* The random masks of a call for one layer in one direction, or null. */
#define TT_MASKS(integer, number, pointer)                                                                            \
  pointer(h_mask)                                 /* [B][columns] recurrent dropout */                                \
  pointer(keep_h) pointer(keep_c)                 /* zoneout: bytes 0 and 1, [N][columns], [N][H] */

/* What does not change from call to call. */
#define TT_STACK(integer, number, pointer)                                                                            \
  integer(wide)                                   /* float64, else float32 */                                         \
  integer(cell) integer(activation)               /* a tt_cell; a tt_activation of the RNN */                         \
  integer(reset_before)                           /* GRU: the candidate reads W (r * h), not r * (W h) */             \
  integer(layers) integer(directions)                                                                                 \
  integer(bf16)                                   /* float32: how factors of products are rounded, a tt_bf16 */       \
  pointer(weights)                                /* tt_weights [layers * directions] */

#define TT_CALL(integer, number, pointer)                                                                             \
  pointer(stack)                                                                                                      \
  integer(steps) integer(batch) integer(total)    /* T, B, N */                                                       \
  integer(training)                               /* forward: keep in `saved` what backward needs */                  \
  integer(reverse)                                /* one direction, from the last step to the first */                \
  integer(threads) integer(split)                 /* split: 0 choose, 1 rows, 2 units */                              \
  integer(chunk_rows)                             /* 0: as many rows at a time as stay in the cache */                \
  integer(zoneout)                                /* units keep their old value: by masks, or else by these fractions */ \
  number(fraction_h) number(fraction_c)                                                                               \
  pointer(offsets)                                /* int64 [T+1]; null for a full batch */                            \
  pointer(masks)                                  /* tt_masks [layers * directions], or null */                       \
  pointer(carry_scale)                            /* double [T]: backward multiplies the gradient of the state that enters \
                                                     step t by the t-th; or null */                                   \
  pointer(x) pointer(y)                           /* [N][D], [N][directions * columns] */                             \
  pointer(h0) pointer(c0)                         /* the initial state; null for zero */                              \
  pointer(h_n) pointer(c_n)                       /* the final state */                                               \
  pointer(saved)                                  /* [N][tt_saved_row()], of forward for backward */                  \
  pointer(dy) pointer(dh_n) pointer(dc_n)         /* backward: gradients of the results, or null */                   \
  pointer(dx) pointer(dh0) pointer(dc0)           /* and those that it writes; dx or null */                          \
  pointer(gradients)                              /* tt_weights [layers * directions]: written, or null where not wanted */ \
  pointer(seconds)                                /* double [3], added to: loops forward, loops backward, products; or null */

#define TT_INTEGER(name) int64_t name;
#define TT_NUMBER(name) double name;
#define TT_POINTER(name) void* name;
#define TT_STRUCT(fields) struct { fields(TT_INTEGER, TT_NUMBER, TT_POINTER) }

typedef TT_STRUCT(TT_WEIGHTS) tt_weights;
typedef TT_STRUCT(TT_MASKS) tt_masks;
typedef TT_STRUCT(TT_STACK) tt_stack;
typedef TT_STRUCT(TT_CALL) tt_call;

#define TT_ENUMERATOR(name, _) TT_##name,
enum tt_cell { TT_CELLS(TT_ENUMERATOR) };
enum tt_activation { TT_ACTIVATIONS(TT_ENUMERATOR) };

#ifdef __cplusplus
extern "C" {
#endif

/* A list of all structs, with their fields and sizes, and of cells and activations; see describe.cpp. */
const char* tt_describe(void);
/* 0, or 1 when there is no memory. */
int tt_forward(const tt_call*);
int tt_backward(const tt_call*);
/* The numbers that `saved` has for each row. */
int64_t tt_saved_row(const tt_stack*);

#ifdef __cplusplus
}
#endif
