// One step as its equations see it: where its rows lie, and how h and its gradient are read and written.
#pragma once
#include "activation.hpp"
#include "gemm.hpp"
#include "loop.hpp"

namespace tt::THROUGHTIME_ISA {

// Everything a step's pointwise part touches, for one step. Row r of the step is sequence first + r * stride.
template <class T>
struct Step {
  const Loop<T>& loop;
  int rows, first, stride;
  long at, before;        // packed row of sequence 0 at this step, and at the step before it in running order
  int rows_before;        // sequences that had a step before: the others start from the initial state
  long ldh;               // a row of the four below
  T *h_read = nullptr, *h_write = nullptr;    // [B][ldh] recurrent input of this step and of the next
  T* dh = nullptr;                  // [B][ldh] backward: gradient carried to this step; what passes the weights by goes back into it
  T* dm = nullptr;                  // [B][ldh] backward: gradient of what is projected
  T carry = 1;                      // backward: what comes from the step after is multiplied by it
  int rows_after = 0;               // sequences that have a step after
  T* dbias = nullptr;               // this thread's sums, one row of gates
  T* dpeephole = nullptr;           // this thread's sums, [3*H]
  // The rest is for layer norm.
  int weight_gates = 0;             // blocks of the weights
  int inputs_block = 0;             // where a row of dgates has the gradient of W_ih x
  T* hats = nullptr;                // see layer_norm.hpp
  long ld_hats = 0, hats_at = 0;    // elements from row to row, and the row of sequence 0
  T* cell_row = nullptr;            // this thread's scratch, [3*H]
  T* dgain = nullptr;               // its sums: [2*weight_gates*H] of both maps' gains, [2*H] of the memory's gain and bias

  int sequence(int r) const { return first + r * stride; }
};

// The equations of a step, for the units [from, to): whole panels.
template <class T>
using Equations = void (*)(const Step<T>&, long from, long to);

template <class T>
TT_INLINE const T* initial_or_before(const Step<T>& s, const T* all, long ld, const T* initial, int sequence, long columns) {
  return sequence < s.rows_before ? all + (s.before + sequence) * ld : initial + sequence * columns;
}

// The carried h, not its masked copy: from the outputs, or the initial state.
template <class T>
TT_INLINE Vec<T> h_before(const Step<T>& s, int q, long u) {
  return load(initial_or_before(s, s.loop.y, s.loop.ldy, s.loop.h0, q, s.loop.width) + u);
}

// Of both biases together, for one column of the row of gates.
template <class T>
TT_INLINE Vec<T> bias_at(const Step<T>& s, long column) {
  return s.loop.bias ? load(s.loop.bias + column) : Vec<T>{};
}

template <class T>
TT_INLINE void add_to(T* sums, Vec<T> more) {
  store(sums, load(sums) + more);
}

// Zoneout: how much of its old value each unit keeps, all or nothing by a mask, or the mask's mean.
template <class T>
TT_INLINE Vec<T> kept(const uint8_t* keep, T fraction, long i) {
  if (!keep) return splat<T>(fraction);
  typedef uint8_t Bytes __attribute__((vector_size(Simd<T>::width)));
  Bytes bytes;
  std::memcpy(&bytes, keep + i, sizeof bytes);
  return __builtin_convertvector(bytes, Vec<T>);
}

template <class T>
TT_INLINE Vec<T> kept_h(const Step<T>& s, int q, long u) {
  return kept<T>(s.loop.keep_h, s.loop.fraction_h, (s.at + q) * s.loop.width + u);
}

template <class T>
TT_INLINE Vec<T> kept_c(const Step<T>& s, int q, long u) {
  return kept<T>(s.loop.keep_c, s.loop.fraction_c, (s.at + q) * s.loop.hidden + u);
}

// Writes the new hidden units where they belong: the output, and the next step's recurrent input.
template <bool Zone, class T>
TT_INLINE void put_h(const Step<T>& s, int q, long u, Vec<T> h) {
  const Loop<T>& loop = s.loop;
  const long width = loop.width;
  if constexpr (Zone) {
    Vec<T> m = kept_h(s, q, u);
    h = m * h_before(s, q, u) + (T(1) - m) * h;
  }
  store(loop.y + (s.at + q) * loop.ldy + u, h);
  if (loop.h_mask) h *= load(loop.h_mask + q * width + u);
  store(s.h_write + q * s.ldh + u, h);
}

// The gradient of the state that the step after was given, at this step; what a sequence ends with is not scaled.
// At a cut nothing passes, also no gradient that is not finite.
template <class T>
TT_INLINE Vec<T> carried_gradient(const Step<T>& s, Vec<T> gradient, int q) {
  if (!s.loop.carry_scale || q >= s.rows_after) return gradient;
  return s.carry == T(0) ? Vec<T>{} : gradient * s.carry;
}

// The gradient of the h that the equations made; zoneout's share of it passes them by.
template <bool Zone, class T>
TT_INLINE Vec<T> gradient_of_h(const Step<T>& s, int q, long u) {
  Vec<T> d = carried_gradient(s, load(s.dh + q * s.ldh + u), q);
  if (s.loop.dy) d += load(s.loop.dy + (s.at + q) * s.loop.lddy + u);
  if constexpr (Zone) {
    Vec<T> m = kept_h(s, q, u);
    store(s.dh + q * s.ldh + u, m * d);
    d *= T(1) - m;
  }
  return d;
}

}  // namespace tt::THROUGHTIME_ISA
