// One step as its equations see it: where its rows lie, and how h and its gradient are read and written.
#pragma once
#include "activation.hpp"
#include "call.h"
#include "gemm.hpp"

namespace tt::THROUGHTIME_ISA {

// Blocks of rows in the weights, and of columns in a row of gates.
static inline int gates_of(const tt_call& call) { return call.cell == TT_LSTM ? 4 : call.cell == TT_GRU ? 3 : 1; }
static inline int blocks_of(const tt_call& call) {
  return call.cell == TT_LSTM ? (call.weight_hr ? 5 : 4) : call.cell == TT_GRU ? 4 : 1;
}

// Everything a step's pointwise part touches, for one step. Row r of the step is sequence first + r * stride.
template <class T>
struct Step {
  const tt_call& call;
  int rows, first, stride;
  long at, before;        // packed row of sequence 0 at this step, and at the step before it in running order
  int rows_before;        // sequences that had a step before: the others start from the initial state
  long ldh;               // a row of the four below
  T *h_read = nullptr, *h_write = nullptr;    // [B][ldh] recurrent input of this step and of the next
  T* dh = nullptr;                  // [B][ldh] backward: gradient carried to this step; what passes the weights by goes back into it
  T* dm = nullptr;                  // [B][ldh] backward: gradient of what is projected
  const T* bias = nullptr;          // one row of gates, or null
  T* dbias = nullptr;               // this thread's sums, one row of gates
  T* dpeephole = nullptr;           // this thread's sums, [3*H]
  // The rest is for layer norm.
  int weight_gates = 0;             // blocks of the weights
  int inputs_block = 0;             // where a row of dgates has the gradient of W_ih x
  T* hats = nullptr;                // see layer_norm.hpp
  long ld_hats = 0, hats_at = 0;    // elements from row to row, and the row of sequence 0
  T* memory = nullptr;              // this thread's scratch, [3*H]
  T* dgain = nullptr;               // its sums: [2*weight_gates*H] of both maps' gains, [2*H] of the memory's gain and bias

  int sequence(int r) const { return first + r * stride; }
};

// The equations of a step, for the units [from, to): whole panels.
template <class T>
using Equations = void (*)(const Step<T>&, long from, long to);

template <class T>
TT_INLINE const T* initial_or_before(const Step<T>& s, const void* all, const void* initial, int sequence, long columns) {
  return sequence < s.rows_before ? static_cast<const T*>(all) + (s.before + sequence) * columns
                                  : static_cast<const T*>(initial) + sequence * columns;
}

// The carried h, not its masked copy: from the outputs, or the initial state.
template <class T>
TT_INLINE Vec<T> h_before(const Step<T>& s, int q, long u) {
  return load(initial_or_before(s, s.call.y, s.call.h0, q, s.call.width) + u);
}

// Of both biases together, for one column of the row of gates.
template <class T>
TT_INLINE Vec<T> bias_at(const Step<T>& s, long column) {
  return s.bias ? load(s.bias + column) : Vec<T>{};
}

template <class T>
TT_INLINE void add_to(T* sums, Vec<T> more) {
  store(sums, load(sums) + more);
}

// Zoneout: how much of its old value each unit keeps, all or nothing by a mask, or the mask's mean.
template <class T>
TT_INLINE Vec<T> kept(const uint8_t* keep, double share, long i) {
  if (!keep) return splat<T>(T(share));
  typedef uint8_t Bytes __attribute__((vector_size(Simd<T>::width)));
  Bytes bytes;
  std::memcpy(&bytes, keep + i, sizeof bytes);
  return __builtin_convertvector(bytes, Vec<T>);
}

template <class T>
TT_INLINE Vec<T> kept_h(const Step<T>& s, int q, long u) {
  return kept<T>(s.call.keep_h, s.call.share_h, (s.at + q) * s.call.width + u);
}

template <class T>
TT_INLINE Vec<T> kept_c(const Step<T>& s, int q, long u) {
  return kept<T>(s.call.keep_c, s.call.share_c, (s.at + q) * s.call.hidden + u);
}

// Writes the new hidden units where they belong: the output, and the next step's recurrent input.
template <bool Zone, class T>
TT_INLINE void put_h(const Step<T>& s, int q, long u, Vec<T> h) {
  const tt_call& call = s.call;
  const long width = s.call.width;
  if constexpr (Zone) {
    Vec<T> m = kept_h(s, q, u);
    h = m * h_before(s, q, u) + (T(1) - m) * h;
  }
  store(static_cast<T*>(call.y) + (s.at + q) * width + u, h);
  if (call.h_mask) h *= load(static_cast<const T*>(call.h_mask) + q * width + u);
  store(s.h_write + q * s.ldh + u, h);
}

// The gradient of the h that the equations made; zoneout's share of it passes them by.
template <bool Zone, class T>
TT_INLINE Vec<T> gradient_of_h(const Step<T>& s, int q, long u) {
  Vec<T> d = load(s.dh + q * s.ldh + u);
  if (s.call.dy) d += load(static_cast<const T*>(s.call.dy) + (s.at + q) * s.call.width + u);
  if constexpr (Zone) {
    Vec<T> m = kept_h(s, q, u);
    store(s.dh + q * s.ldh + u, m * d);
    d *= T(1) - m;
  }
  return d;
}

}  // namespace tt::THROUGHTIME_ISA
