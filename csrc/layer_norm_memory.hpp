// Layer norm of an LSTM's memory on its way out: h = o tanh(gain c_hat + bias), for one row of a step.
#pragma once
#include "layer_norm.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
TT_INLINE Vec<T> memory_bias(const Step<T>& s, long u) {
  return s.loop.bias_c ? load(s.loop.bias_c + u) : Vec<T>{};
}

// s.cell_row has the new c, the gates have o.
template <bool Zone, bool Project, class T>
static void memory_forward(const Step<T>& s) {
  const long H = s.loop.hidden;
  const T* gain = s.loop.gain_c;
  T* gates = s.loop.gates + (s.at + s.first) * s.loop.ldg;
  Moments<T> found[1];
  moments<T, 1>({s.cell_row}, 1, H, s.loop.units, found);
  const Moments<T> of_c = found[0];
  T* kept = scales_of(s, kMemoryScale);
  kept[0] = of_c.mean;
  kept[1] = of_c.scale;
  for (long u = 0; u < H; u += Simd<T>::width) {
    Vec<T> hat = (load(s.cell_row + u) - of_c.mean) * of_c.scale;
    Vec<T> m = load(gates + 3 * H + u) * tanh<T>(load(gain + u) * hat + memory_bias(s, u));
    if constexpr (Project)
      store(gates + 4 * H + u, m);
    else
      put_h<Zone>(s, s.first, u, m);
  }
}

// To s.cell_row: the gradient of c through h | that of o's pre-activation | c_hat.
template <bool Zone, bool Project, class T>
static void memory_backward(const Step<T>& s) {
  const long H = s.loop.hidden, units = s.loop.units, row = s.at + s.first;
  const T *gates = s.loop.gates + row * s.loop.ldg, *gain = s.loop.gain_c;
  const T *c_after = s.loop.c + row * H, *c_before = initial_or_before(s, s.loop.c, H, s.loop.c0, s.first, H);
  const T *kept = scales_of(s, kMemoryScale), mean = kept[0], scale = kept[1];
  T *dc = s.cell_row, *d_o = dc + H, *hats = d_o + H, *dgain = s.dgain + 2 * s.weight_gates * H, *dbias = dgain + H;
  Vec<T> sums{}, along{};
  for (long u = 0; u < H; u += Simd<T>::width) {
    // As in lstm_backward: what zoneout kept is a mixture.
    Vec<T> c = Zone ? load(gates + H + u) * load(c_before + u) + load(gates + u) * load(gates + 2 * H + u) : load(c_after + u);
    Vec<T> o = load(gates + 3 * H + u), hat = real_only<T>((c - mean) * scale, u, units);
    Vec<T> squashed = tanh<T>(load(gain + u) * hat + memory_bias(s, u)), dm;
    if constexpr (Project)
      dm = load(s.dm + s.first * s.ldh + u);
    else
      dm = gradient_of_h<Zone>(s, s.first, u);
    Vec<T> dy = dm * o * (T(1) - squashed * squashed), g = dy * load(gain + u);
    store(dc + u, g);
    store(d_o + u, dm * o * squashed * (T(1) - o));
    store(hats + u, hat);
    add_to<T>(dgain + u, dy * hat);
    add_to<T>(dbias + u, dy);
    sums += g;
    along += g * hat;
  }
  const T mean_g = total<T>(sums) / T(units), slope = total<T>(along) / T(units);
  for (long u = 0; u < H; u += Simd<T>::width)
    store(dc + u, real_only<T>((load(dc + u) - mean_g - load(hats + u) * slope) * scale, u, units));
}

}  // namespace tt::THROUGHTIME_ISA
