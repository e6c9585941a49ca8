// One direction of one layer over some steps, as the loop over time sees it: all sizes padded to whole panels.
//
// Row layouts of `gates`, H numbers each:
//     RNN  a -> dA        GRU  hn | r | z | n        LSTM  i | f | g | o
//     GRU with the reset before  q | r | z | n, q = r * h        LSTM with a projection  i | f | g | o | m, m = o * tanh(c)
// Forward: on entry the input projection without biases (GRU: in r | z | n), on exit the activated gates.
// Backward writes the gradients of the pre-activations in the same layout to `dgates` (in place of m that of W_hr m).
// With layer norm the input projection on entry and the gradients of W_hh h are those before it, and a row goes on: in `gates`
// (when training) with the 2 * gates blocks and 16 numbers that layer_norm.hpp keeps, in `dgates` with the gradient of W_ih x, in
// the weights' order of gates.
//
// The steps [begin, end) are counted in running order: a long sequence runs chunk by chunk. `gates`, `dgates` and `dy` point to where row 0
// would be: only the rows of the chunk are touched.
#pragma once
#include "call.h"

namespace tt::THROUGHTIME_ISA {

template <class T>
struct Loop {
  int64_t cell = 0, activation = 0, reset_before = 0;
  int64_t steps = 0, batch = 0, begin = 0, end = 0;
  int64_t units = 0, columns = 0, hidden = 0, width = 0;  // of the cell state and of h; both padded to whole panels, H and P
  int64_t reverse = 0, training = 0, threads = 1, split = 0, bf16 = 0, zoneout = 0;
  int64_t ldg = 0, ldy = 0, lddy = 0;      // numbers from row to row of gates and dgates, of y, of dy
  T fraction_h = 0, fraction_c = 0;        // zoneout without masks
  const int64_t* offsets = nullptr;        // [T+1]
  const double* carry_scale = nullptr;     // [T] or null
  const T *weight_hh = nullptr, *weight_hr = nullptr;                                  // as the caller has them, not padded
  const T *gain_ih = nullptr, *gain_hh = nullptr, *gain_c = nullptr, *bias_c = nullptr;  // layer norm
  const T *bias = nullptr;                 // one row of gates: both biases together, but a GRU's b_hn by itself; or null
  const T *peephole = nullptr, *h_mask = nullptr;    // [3][H], [B][P]
  const uint8_t *keep_h = nullptr, *keep_c = nullptr;  // [N][P], [N][H], or null
  T* gates = nullptr;                      // [N][ldg]
  T* y = nullptr;                          // [N][ldy]
  T* c = nullptr;                          // LSTM when training: [N][H]
  const T *h0 = nullptr, *c0 = nullptr;    // [B][P], [B][H]
  T *h_state = nullptr, *c_state = nullptr;  // the same shapes: the state before the chunk, and after it
  const T* dy = nullptr;                   // [N][lddy] or null
  T* dgates = nullptr;                     // [N][ldg]
  T *dh_state = nullptr, *dc_state = nullptr;  // backward: the gradient of the state after the chunk, and before it
};

// Blocks of rows in the weights, and of columns in a row of gates.
static inline int gates_of(int64_t cell) { return cell == TT_LSTM ? 4 : cell == TT_GRU ? 3 : 1; }
static inline int blocks_of(int64_t cell, bool projected) { return cell == TT_RNN ? 1 : 4 + projected; }
template <class T>
static int gates_of(const Loop<T>& loop) {
  return gates_of(loop.cell);
}
template <class T>
static int blocks_of(const Loop<T>& loop) {
  return blocks_of(loop.cell, loop.weight_hr != nullptr);
}

}  // namespace tt::THROUGHTIME_ISA
