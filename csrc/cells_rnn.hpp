// The plain RNN: the equations of src/throughtime/cells/rnn.py, for some units of some rows.
#pragma once
#include "step.hpp"

namespace tt::THROUGHTIME_ISA {

template <int A, bool Zone, class T>
static void rnn_forward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  for (long u = from; u < to; u += W) {
    Vec<T> b = bias_at<T>(s, u);
    for (int r = 0; r < s.rows; r++) {
      int q = s.sequence(r);
      T* a = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      Vec<T> h = activate<A, T>(load(a) + b);
      if (Zone && s.loop.training) store(a, h);  // the output is a mixture, from which phi' cannot be had
      put_h<Zone>(s, q, u, h);
    }
  }
}

template <int A, bool Zone, class T>
static void rnn_backward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  for (long u = from; u < to; u += W) {
    Vec<T> total{};
    for (int r = 0; r < s.rows; r++) {
      int q = s.sequence(r);
      Vec<T> h = Zone ? load(s.loop.gates + (s.at + q) * s.loop.ldg + u)
                      : load(s.loop.y + (s.at + q) * s.loop.ldy + u);
      Vec<T> d = gradient_of_h<Zone>(s, q, u) * slope<A, T>(h);
      store(s.loop.dgates + (s.at + q) * s.loop.ldg + u, d);
      total += d;
    }
    add_to<T>(s.dbias + u, total);
  }
}

}  // namespace tt::THROUGHTIME_ISA
