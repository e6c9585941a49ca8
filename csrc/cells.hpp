// The equations, for the units of one panel and some rows: forward from pre-activations, backward from dh.
// The same equations as in src/throughtime/cells, where they can be read.
#pragma once
#include "activation.hpp"
#include "call.h"
#include "gemm.hpp"

namespace tt::THROUGHTIME_ISA {

// Everything a step's pointwise part touches, for one step. Row r of the step is sequence first + r * stride.
template <class T>
struct Step {
  const tt_call& call;
  int rows, first, stride;
  long at, before;        // packed row of sequence 0 at this step, and at the step before it in running order
  int rows_before;        // sequences that had a step before: the others start from the initial state
  T *h_read, *h_write;    // [B][ldh] recurrent input of this step and of the next
  long ldh;
  T *dh, *dh_base;        // [B][ldh] backward: gradient carried to this step; dh_base is where its direct part goes
  T* dbias;               // this thread's sums, one row of gates
  T* dpeephole;           // this thread's sums, [3*H]

  int sequence(int r) const { return first + r * stride; }
};

template <class T>
TT_INLINE const T* initial_or_before(const Step<T>& s, const void* all, const void* initial, int sequence) {
  const long H = s.call.hidden;
  return sequence < s.rows_before ? static_cast<const T*>(all) + (s.before + sequence) * H
                                  : static_cast<const T*>(initial) + sequence * H;
}

template <class T>
TT_INLINE Vec<T> bias_at(const tt_call& call, long column) {
  return call.bias ? load(static_cast<const T*>(call.bias) + column) : Vec<T>{};
}

// Writes the new hidden units where they belong: the output, and the next step's recurrent input.
template <class T>
TT_INLINE void put_h(const Step<T>& s, int q, long u, Vec<T> h) {
  const tt_call& call = s.call;
  store(static_cast<T*>(call.y) + (s.at + q) * call.hidden + u, h);
  if (call.h_mask) h *= load(static_cast<const T*>(call.h_mask) + (long)q * call.hidden + u);
  store(s.h_write + q * s.ldh + u, h);
}

template <class T>
TT_INLINE Vec<T> gradient_of_h(const Step<T>& s, int q, long u) {
  Vec<T> d = load(s.dh + q * s.ldh + u);
  if (s.call.dy) d += load(static_cast<const T*>(s.call.dy) + (s.at + q) * s.call.hidden + u);
  return d;
}

template <int A, class T>
static void rnn_forward(const Step<T>& s, long u0) {
  constexpr int W = Simd<T>::width;
  for (long u = u0; u < u0 + kPanel<T>; u += W) {
    Vec<T> b = bias_at<T>(s.call, u);
    for (int r = 0; r < s.rows; r++) {
      int q = s.sequence(r);
      put_h(s, q, u, activate<A, T>(load(static_cast<T*>(s.call.gates) + (s.at + q) * s.call.ldg + u) + b));
    }
  }
}

template <int A, class T>
static void rnn_backward(const Step<T>& s, long u0) {
  constexpr int W = Simd<T>::width;
  for (long u = u0; u < u0 + kPanel<T>; u += W) {
    Vec<T> total{};
    for (int r = 0; r < s.rows; r++) {
      int q = s.sequence(r);
      Vec<T> y = load(static_cast<const T*>(s.call.y) + (s.at + q) * s.call.hidden + u);
      Vec<T> d = gradient_of_h(s, q, u) * slope<A, T>(y);
      store(static_cast<T*>(s.call.dgates) + (s.at + q) * s.call.ldg + u, d);
      total += d;
    }
    store(s.dbias + u, load(s.dbias + u) + total);
  }
}

// Row of gates: hn | r | z | n, with hn = W_hn h + b_hn.
template <class T>
static void gru_forward(const Step<T>& s, long u0) {
  constexpr int W = Simd<T>::width;
  const long H = s.call.hidden;
  for (long u = u0; u < u0 + kPanel<T>; u += W) {
    Vec<T> b_hn = bias_at<T>(s.call, u), b_r = bias_at<T>(s.call, H + u), b_z = bias_at<T>(s.call, 2 * H + u),
           b_n = bias_at<T>(s.call, 3 * H + u);
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* g = static_cast<T*>(s.call.gates) + (s.at + q) * s.call.ldg + u;
      Vec<T> hn = load(g) + b_hn;
      Vec<T> r = sigmoid<T>(load(g + H) + b_r), z = sigmoid<T>(load(g + 2 * H) + b_z);
      Vec<T> n = tanh<T>(load(g + 3 * H) + b_n + r * hn);
      // The carried h, not its masked copy: from the outputs, or the initial state.
      Vec<T> h = load(initial_or_before(s, s.call.y, s.call.h0, q) + u);
      if (s.call.training) {
        store(g, hn);
        store(g + H, r);
        store(g + 2 * H, z);
        store(g + 3 * H, n);
      }
      put_h(s, q, u, n + z * (h - n));
    }
  }
}

template <class T>
static void gru_backward(const Step<T>& s, long u0) {
  constexpr int W = Simd<T>::width;
  const long H = s.call.hidden;
  for (long u = u0; u < u0 + kPanel<T>; u += W) {
    Vec<T> sum_hn{}, sum_r{}, sum_z{}, sum_n{};
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      const T* g = static_cast<const T*>(s.call.gates) + (s.at + q) * s.call.ldg + u;
      T* d = static_cast<T*>(s.call.dgates) + (s.at + q) * s.call.ldg + u;
      Vec<T> hn = load(g), r = load(g + H), z = load(g + 2 * H), n = load(g + 3 * H);
      Vec<T> h = load(initial_or_before(s, s.call.y, s.call.h0, q) + u);
      Vec<T> dh = gradient_of_h(s, q, u);
      Vec<T> dn = dh * (T(1) - z) * (T(1) - n * n);
      Vec<T> dz = dh * (h - n) * z * (T(1) - z);
      Vec<T> dhn = dn * r;
      Vec<T> dr = dn * hn * r * (T(1) - r);
      store(s.dh_base + q * s.ldh + u, dh * z);
      store(d, dhn);
      store(d + H, dr);
      store(d + 2 * H, dz);
      store(d + 3 * H, dn);
      sum_hn += dhn;
      sum_r += dr;
      sum_z += dz;
      sum_n += dn;
    }
    store(s.dbias + u, load(s.dbias + u) + sum_hn);
    store(s.dbias + H + u, load(s.dbias + H + u) + sum_r);
    store(s.dbias + 2 * H + u, load(s.dbias + 2 * H + u) + sum_z);
    store(s.dbias + 3 * H + u, load(s.dbias + 3 * H + u) + sum_n);
  }
}

template <bool Peep, class T>
static void lstm_forward(const Step<T>& s, long u0) {
  constexpr int W = Simd<T>::width;
  const long H = s.call.hidden;
  const T* p = static_cast<const T*>(s.call.peephole);
  for (long u = u0; u < u0 + kPanel<T>; u += W) {
    Vec<T> b_i = bias_at<T>(s.call, u), b_f = bias_at<T>(s.call, H + u), b_g = bias_at<T>(s.call, 2 * H + u),
           b_o = bias_at<T>(s.call, 3 * H + u);
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* gate = static_cast<T*>(s.call.gates) + (s.at + q) * s.call.ldg + u;
      T* carried = static_cast<T*>(s.call.c_state) + (long)q * H + u;
      Vec<T> c = load(carried);
      Vec<T> i = load(gate) + b_i, f = load(gate + H) + b_f, o = load(gate + 3 * H) + b_o;
      if constexpr (Peep) {
        i += load(p + u) * c;
        f += load(p + H + u) * c;
      }
      i = sigmoid<T>(i);
      f = sigmoid<T>(f);
      Vec<T> g = tanh<T>(load(gate + 2 * H) + b_g);
      c = f * c + i * g;
      if constexpr (Peep) o += load(p + 2 * H + u) * c;
      o = sigmoid<T>(o);
      store(carried, c);
      if (s.call.training) {
        store(gate, i);
        store(gate + H, f);
        store(gate + 2 * H, g);
        store(gate + 3 * H, o);
        store(static_cast<T*>(s.call.c) + (s.at + q) * H + u, c);
      }
      put_h(s, q, u, o * tanh<T>(c));
    }
  }
}

template <bool Peep, class T>
static void lstm_backward(const Step<T>& s, long u0) {
  constexpr int W = Simd<T>::width;
  const long H = s.call.hidden;
  const T* p = static_cast<const T*>(s.call.peephole);
  for (long u = u0; u < u0 + kPanel<T>; u += W) {
    Vec<T> sum_i{}, sum_f{}, sum_g{}, sum_o{}, peep_i{}, peep_f{}, peep_o{};
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      const T* gate = static_cast<const T*>(s.call.gates) + (s.at + q) * s.call.ldg + u;
      T* d = static_cast<T*>(s.call.dgates) + (s.at + q) * s.call.ldg + u;
      T* carried = static_cast<T*>(s.call.dc_state) + (long)q * H + u;
      Vec<T> i = load(gate), f = load(gate + H), g = load(gate + 2 * H), o = load(gate + 3 * H);
      Vec<T> c = load(static_cast<const T*>(s.call.c) + (s.at + q) * H + u);
      Vec<T> before = load(initial_or_before(s, s.call.c, s.call.c0, q) + u);
      Vec<T> squashed = tanh<T>(c), dh = gradient_of_h(s, q, u), dho = dh * o;
      Vec<T> dc = load(carried) + dho * (T(1) - squashed * squashed);
      if (s.call.dc) dc += load(static_cast<const T*>(s.call.dc) + (s.at + q) * H + u);
      Vec<T> d_o = dho * squashed * (T(1) - o);
      if constexpr (Peep) dc += d_o * load(p + 2 * H + u);
      Vec<T> d_i = dc * g * i * (T(1) - i), d_f = dc * before * f * (T(1) - f), d_g = dc * i * (T(1) - g * g);
      Vec<T> onward = dc * f;
      if constexpr (Peep) {
        onward += d_i * load(p + u) + d_f * load(p + H + u);
        peep_i += d_i * before;
        peep_f += d_f * before;
        peep_o += d_o * c;
      }
      store(carried, onward);
      store(d, d_i);
      store(d + H, d_f);
      store(d + 2 * H, d_g);
      store(d + 3 * H, d_o);
      sum_i += d_i;
      sum_f += d_f;
      sum_g += d_g;
      sum_o += d_o;
    }
    store(s.dbias + u, load(s.dbias + u) + sum_i);
    store(s.dbias + H + u, load(s.dbias + H + u) + sum_f);
    store(s.dbias + 2 * H + u, load(s.dbias + 2 * H + u) + sum_g);
    store(s.dbias + 3 * H + u, load(s.dbias + 3 * H + u) + sum_o);
    if constexpr (Peep) {
      store(s.dpeephole + u, load(s.dpeephole + u) + peep_i);
      store(s.dpeephole + H + u, load(s.dpeephole + H + u) + peep_f);
      store(s.dpeephole + 2 * H + u, load(s.dpeephole + 2 * H + u) + peep_o);
    }
  }
}

// The pointwise parts of one cell, chosen once per call.
template <class T>
using Pointwise = void (*)(const Step<T>&, long);

template <class T>
Pointwise<T> forward_of(const tt_call& call) {
  if (call.cell == TT_LSTM) return call.peephole ? lstm_forward<true, T> : lstm_forward<false, T>;
  if (call.cell == TT_GRU) return gru_forward<T>;
  static const Pointwise<T> rnn[] = {rnn_forward<kTanh, T>, rnn_forward<kRelu, T>, rnn_forward<kSigmoid, T>,
                                     rnn_forward<kIdentity, T>};
  return rnn[call.activation];
}

template <class T>
Pointwise<T> backward_of(const tt_call& call) {
  if (call.cell == TT_LSTM) return call.peephole ? lstm_backward<true, T> : lstm_backward<false, T>;
  if (call.cell == TT_GRU) return gru_backward<T>;
  static const Pointwise<T> rnn[] = {rnn_backward<kTanh, T>, rnn_backward<kRelu, T>, rnn_backward<kSigmoid, T>,
                                     rnn_backward<kIdentity, T>};
  return rnn[call.activation];
}

}  // namespace tt::THROUGHTIME_ISA
