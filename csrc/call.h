// The C interface: one struct of numbers and pointers for a whole sequence, one layer, one direction.
//
// Rows are packed step by step: step t has rows offsets[t] .. offsets[t+1], its r-th row belongs to sequence r, and longer
// sequences come first. A full batch is the case of equal steps. H is padded to whole panels (tt_panel); what is padded is
// zero in the weights and states and stays harmless. Row layouts of `gates`, H numbers each:
//     RNN  a -> dA        GRU  hn | r | z | n        LSTM  i | f | g | o
//     GRU with the reset before  q | r | z | n, q = r * h        LSTM with a projection  i | f | g | o | m, m = o * tanh(c)
// Forward: on entry the input projection without biases (GRU: in r | z | n), on exit the activated gates.
// Backward writes the gradients of the pre-activations in the same layout to `dgates` (in place of m that of W_hr m).
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tt_cell { TT_RNN = 0, TT_GRU = 1, TT_LSTM = 2 };

typedef struct {
  int64_t cell, activation;        // tt_cell, with TT_OPTIONS; 0 tanh, 1 relu, 2 sigmoid, 3 identity (RNN only)
  int64_t steps, batch, hidden;    // T, B, padded H
  int64_t reverse;                 // from the last step to the first
  int64_t training;                // keep what backward needs
  int64_t threads, split;          // split: 0 choose, 1 rows, 2 units
  int64_t ldg;                     // elements from row to row of gates and dgates
  const int64_t *offsets;          // [T+1]
  const void *weight_hh;           // [gates*H][H]
  const void *bias;                // [one row of gates], or null
  const void *peephole;            // LSTM: [3*H] for i, f, o, or null
  const void *h_mask;              // [B][H] recurrent dropout, or null
  void *gates;                     // [N][ldg]
  void *y;                         // [N][H] outputs
  void *c;                         // LSTM: [N][H] memory of every step (training), else null
  void *h_state, *c_state;         // [B][H] forward: in the initial, out the final state
  const void *h0, *c0;             // [B][H] backward: the initial state
  const void *dy, *dc;             // [N][H] gradients of outputs and of all-step memory, or null
  void *dgates;                    // [N][ldg]
  void *dh_state, *dc_state;       // [B][H] backward: in the final state's gradient, out the initial state's
  void *dbias;                     // [one row of gates]
  void *dpeephole;                 // [3*H] or null
} tt_call;

// What a call has besides when its `cell` carries TT_OPTIONS: the tt_call is then the head of a tt_call_with_options.
// With a projection h, its masks and its gradients have `width` columns, and weight_hh is [gates*H][width].
typedef struct {
  int64_t width;                        // padded size of h: H, or that of the projection
  int64_t reset_before;                 // GRU: the candidate reads W (r * h), not r * (W h)
  int64_t zoneout;                      // units keep their old value: by the masks, or where there is none by these shares
  double share_h, share_c;
  const uint8_t *keep_h, *keep_c;       // [N][width], [N][H] zeros and ones, or null
  const void *weight_hr;                // LSTM: [width][H], or null
} tt_options;

typedef struct {
  tt_call call;
  tt_options options;
} tt_call_with_options;

enum { TT_OPTIONS = 16 };

// 0, or 1 when memory for packing could not be had.
typedef int (*tt_run)(const tt_call *);

#ifdef __cplusplus
}
#endif
