// The LSTM: the equations of src/throughtime/cells/lstm.py, for some units of some rows.
#pragma once
#include "layer_norm_memory.hpp"

namespace tt::THROUGHTIME_ISA {

// With layer norm (Norm) the units are those of a whole row: the memory is normalised on its way out.
template <bool Peep, bool Zone, bool Project, bool Norm, class T>
static void lstm_forward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  const T* p = s.loop.peephole;
  for (long u = from; u < to; u += W) {
    Vec<T> b_i = bias_at<T>(s, u), b_f = bias_at<T>(s, H + u), b_g = bias_at<T>(s, 2 * H + u),
           b_o = bias_at<T>(s, 3 * H + u);
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* gate = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      T* carried = s.loop.c_state + (long)q * H + u;
      Vec<T> before = load(carried);
      Vec<T> i = load(gate) + b_i, f = load(gate + H) + b_f, o = load(gate + 3 * H) + b_o;
      if constexpr (Peep) {
        i += load(p + u) * before;
        f += load(p + H + u) * before;
      }
      i = sigmoid<T>(i);
      f = sigmoid<T>(f);
      Vec<T> g = tanh<T>(load(gate + 2 * H) + b_g);
      Vec<T> c = f * before + i * g;
      if constexpr (Peep) o += load(p + 2 * H + u) * c;
      o = sigmoid<T>(o);
      Vec<T> made = c;
      if constexpr (Zone) {  // only the memory that is carried on: h comes from the new one
        Vec<T> fraction = kept_c(s, q, u);
        c = fraction * before + (T(1) - fraction) * c;
      }
      store(carried, c);
      if (s.loop.training || Norm) {
        store(gate, i);
        store(gate + H, f);
        store(gate + 2 * H, g);
        store(gate + 3 * H, o);
      }
      if (s.loop.training) store(s.loop.c + (s.at + q) * H + u, c);
      if constexpr (Norm)
        store(s.cell_row + u, made);
      else if constexpr (Project)
        store(gate + 4 * H, o * tanh<T>(made));
      else
        put_h<Zone>(s, q, u, o * tanh<T>(made));
    }
  }
  if constexpr (Norm) memory_forward<Zone, Project>(s);
}

template <bool Peep, bool Zone, bool Project, bool Norm, class T>
static void lstm_backward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  const T* p = s.loop.peephole;
  if constexpr (Norm) memory_backward<Zone, Project>(s);
  for (long u = from; u < to; u += W) {
    Vec<T> sum_i{}, sum_f{}, sum_g{}, sum_o{}, peep_i{}, peep_f{}, peep_o{};
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      const T* gate = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      T* d = s.loop.dgates + (s.at + q) * s.loop.ldg + u;
      T* carried = s.loop.dc_state + (long)q * H + u;
      Vec<T> i = load(gate), f = load(gate + H), g = load(gate + 2 * H), o = load(gate + 3 * H);
      Vec<T> before = load(initial_or_before(s, s.loop.c, H, s.loop.c0, q, H) + u);
      // With zoneout what was kept is a mixture: the new memory is made again.
      Vec<T> c = Zone ? f * before + i * g : load(s.loop.c + (s.at + q) * H + u);
      Vec<T> from_h, d_o;  // the gradients of c through h, and of o before its sigmoid
      if constexpr (Norm) {
        from_h = load(s.cell_row + u);
        d_o = load(s.cell_row + H + u);
      } else {
        Vec<T> squashed = tanh<T>(c), dmo;
        if constexpr (Project)
          dmo = load(s.dm + q * s.ldh + u) * o;
        else
          dmo = gradient_of_h<Zone>(s, q, u) * o;
        from_h = dmo * (T(1) - squashed * squashed);
        d_o = dmo * squashed * (T(1) - o);
      }
      Vec<T> dc = carried_gradient(s, load(carried), q), onward{};
      if constexpr (Zone) {
        Vec<T> fraction = kept_c(s, q, u);
        onward = fraction * dc;
        dc *= T(1) - fraction;
      }
      dc += from_h;
      if constexpr (Peep) dc += d_o * load(p + 2 * H + u);
      Vec<T> d_i = dc * g * i * (T(1) - i), d_f = dc * before * f * (T(1) - f), d_g = dc * i * (T(1) - g * g);
      onward += dc * f;
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
    add_to<T>(s.dbias + u, sum_i);
    add_to<T>(s.dbias + H + u, sum_f);
    add_to<T>(s.dbias + 2 * H + u, sum_g);
    add_to<T>(s.dbias + 3 * H + u, sum_o);
    if constexpr (Peep) {
      add_to<T>(s.dpeephole + u, peep_i);
      add_to<T>(s.dpeephole + H + u, peep_f);
      add_to<T>(s.dpeephole + 2 * H + u, peep_o);
    }
  }
}

// h = W_hr m lies among the outputs by now.
template <bool Zone, class T>
static void projection_forward(const Step<T>& s, long from, long to) {
  for (int row = 0; row < s.rows; row++)
    for (long u = from; u < to; u += Simd<T>::width) {
      int q = s.sequence(row);
      put_h<Zone>(s, q, u, load(s.loop.y + (s.at + q) * s.loop.ldy + u));
    }
}

// The gradient of W_hr m goes where m was, for the product that leads to m and for dW_hr.
template <bool Zone, class T>
static void projection_backward(const Step<T>& s, long from, long to) {
  for (int row = 0; row < s.rows; row++)
    for (long u = from; u < to; u += Simd<T>::width) {
      int q = s.sequence(row);
      T* d = s.loop.dgates + (s.at + q) * s.loop.ldg + 4 * s.loop.hidden + u;
      store(d, gradient_of_h<Zone>(s, q, u));
    }
}

}  // namespace tt::THROUGHTIME_ISA
