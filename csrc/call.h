// The C interface: one struct of numbers and pointers for some steps of a sequence, one layer, one direction.
//
// Rows are packed step by step: step t has rows offsets[t] .. offsets[t+1], its r-th row belongs to sequence r, and longer
// sequences come first. A full batch is the case of equal steps. Row layouts of `gates`, H numbers each:
//     RNN  a -> dA        GRU  hn | r | z | n        LSTM  i | f | g | o
//     GRU with the reset before  q | r | z | n, q = r * h        LSTM with a projection  i | f | g | o | m, m = o * tanh(c)
// Forward: on entry the input projection without biases (GRU: in r | z | n), on exit the activated gates.
// Backward writes the gradients of the pre-activations in the same layout to `dgates` (in place of m that of W_hr m).
// With layer norm the input projection on entry and the gradients of W_hh h are those before it, and a row goes on: in `gates`
// (when training) with the 2 * gates blocks and 16 numbers that layer_norm.hpp keeps, in `dgates` with the gradient of W_ih x, in
// the weights' order of gates.
//
// Two sizes for everything: the caller's, `units` of memory and `columns` of h (fewer with a projection, else the same), and both
// padded to whole panels (tt_panel), `hidden` H and `width` P. What has a row for every step is padded with zeros by the
// caller. What has a row for every sequence, and the weights, have the caller's sizes.
//
// A call runs the steps [begin, end), counted in running order, so that a long sequence may be run piece by piece. `gates` and `dgates`
// point to where row 0 would be: only the rows of the piece are touched.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tt_cell { TT_RNN = 0, TT_GRU = 1, TT_LSTM = 2 };

typedef struct {
  int64_t cell, activation;          // tt_cell; 0 tanh, 1 relu, 2 sigmoid, 3 identity (RNN only)
  int64_t reset_before;              // GRU: the candidate reads W (r * h), not r * (W h)
  int64_t steps, batch, begin, end;  // T, B, and the piece of this call
  int64_t units, columns, hidden, width;
  int64_t reverse;                   // from the last step to the first
  int64_t training;                  // keep what backward needs
  int64_t threads, split;            // split: 0 choose, 1 rows, 2 units
  int64_t ldg;                       // elements from row to row of gates and dgates
  int64_t packed_ready;              // `packed` holds the weights from an earlier piece
  int64_t bf16;                      // float32 calls: factors of the products inside a step, a tt_bf16 of bf16.h
  int64_t zoneout;                   // units keep their old value: by the masks, or where there is none by these shares
  double share_h, share_c;
  const int64_t *offsets;            // [T+1]
  const void *weight_hh;             // [gates*units][columns]
  const void *weight_hr;             // LSTM: [columns][units], or null
  const void *bias_ih, *bias_hh;     // [gates*units], or null
  const void *gain_ih, *gain_hh;     // [gates*units] layer norm of both linear maps, or null
  const void *gain_c, *bias_c;       // LSTM with layer norm: [units] of the memory's; bias_c or null
  const void *peephole;              // LSTM: [3*units] for i, f, o, or null
  const void *h_mask;                // [B][columns] recurrent dropout, or null
  const uint8_t *keep_h, *keep_c;    // zoneout: [N][P], [N][H] zeros and ones, or null
  void *packed;                      // [tt_packed] scratch for the weights, or null: the call finds its own
  void *gates;                       // [N][ldg]
  void *y;                           // [N][P] outputs
  void *y_before;                    // [B][P] a copy of the initial state where the rows before y's first would be, or null
  void *c;                           // LSTM: [N][H] memory of every step (training), else null
  const void *h0, *c0;               // [B][columns], [B][units] the initial state
  void *h_state, *c_state;           // the same shapes: forward, the state after the piece; on entry that before it if begin > 0
  const void *dy, *dc;               // [N][P], [N][H] gradients of outputs and of all-step memory, or null
  const void *dh_final, *dc_final;   // gradients of the final state, or null
  void *dgates;                      // [N][ldg]
  void *dh_state, *dc_state;         // backward: the gradient of the state before the piece; on entry that after it if end < T
  void *dbias_ih, *dbias_hh;         // [gates*units], added to, or null
  void *dpeephole;                   // [3*units], added to, or null
  void *dgain_ih, *dgain_hh;         // [gates*units], added to, or null
  void *dgain_c, *dbias_c;           // [units], added to, or null
} tt_call;

// 0, or 1 when memory for packing could not be had.
typedef int (*tt_run)(const tt_call *);

#ifdef __cplusplus
}
#endif
