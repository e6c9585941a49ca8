// Layer norm (Ba, Kiros & Hinton 2016, arXiv 1607.06450), for one row of a step.
//
//     x_hat = (x - mean x) s, s = 1 / sqrt(var x + eps), y = gain x_hat           over the units of some gates together
//     dx = s (g - mean g - x_hat mean(g x_hat)), g = gain dy
//
// Means are over real units: what is padded is zero in x_hat, in the gains and in dx. A mean waits for all units of its row, so
// with layer norm whole rows are dealt out after the products, not panels of units.
//
// A row of `hats` is x_hat of W_hh h | x_hat of W_ih x, both in the weights' order of gates, and behind them the scales s.
#pragma once
#include <cmath>

#include "step.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr double kNormEpsilon = 1e-5;  // that of torch's layer_norm

// Gates that are normalised together, and where in a row of gates their two maps are added. The reset of a GRU keeps them apart.
struct Group {
  int gate, gates;                // first block of the weights, and how many
  int hidden_block, input_block;  // in a row of gates
};

template <class T>
struct Moments {
  T mean, scale;
};

template <class T>
TT_INLINE Vec<T> real_only(Vec<T> v, long u, long units) {
  if (u + Simd<T>::width <= units) return v;
  for (int i = 0; i < Simd<T>::width; i++)
    if (u + i >= units) v[i] = 0;
  return v;
}

// Of the gates of two maps side by side. In two passes: a row is in the cache, and the difference of mean squares would lose all
// digits of a nearly constant one.
template <class T, int Maps>
static void moments(const T* const (&x)[Maps], int blocks, long H, long units, Moments<T> (&found)[Maps]) {
  constexpr int W = Simd<T>::width;
  Vec<T> sums[Maps][2] = {}, squares[Maps][2] = {};
  for (long u = 0; u < blocks * H; u += kPanel<T>)
    for (int m = 0; m < Maps; m++)
      for (int half = 0; half < 2; half++) sums[m][half] += load(x[m] + u + half * W);
  const T count = T(blocks * units);
  for (int m = 0; m < Maps; m++) found[m].mean = total<T>(sums[m][0] + sums[m][1]) / count;
  for (int b = 0; b < blocks; b++)
    for (long u = 0; u < H; u += kPanel<T>)
      for (int m = 0; m < Maps; m++)
        for (int half = 0; half < 2; half++) {
          const long at = u + half * W;
          Vec<T> off = real_only<T>(load(x[m] + b * H + at) - found[m].mean, at, units);
          squares[m][half] += off * off;
        }
  for (int m = 0; m < Maps; m++)
    found[m].scale = T(1) / std::sqrt(total<T>(squares[m][0] + squares[m][1]) / count + T(kNormEpsilon));
}

// The row of `hats` of the step's only sequence.
template <class T>
TT_INLINE T* hats_of(const Step<T>& s) {
  return s.hats + (s.hats_at + s.first) * s.ld_hats;
}

// Where the scales of a group, and those of the memory, lie behind a row of hats.
template <class T>
TT_INLINE T* scales_of(const Step<T>& s, int first) {
  return hats_of(s) + 2 * s.weight_gates * s.loop.hidden + first;
}
constexpr int kMemoryScale = 8;

// From W_hh h among the hats and W_ih x among the gates to the sum of both, normalised, among the gates.
template <class T>
static void normalise(const Step<T>& s, const Group& group) {
  const long H = s.loop.hidden, units = s.loop.units, first = group.gate * H;
  T *row = s.loop.gates + (s.at + s.first) * s.loop.ldg, *scales = scales_of(s, 2 * group.gate);
  T *h = hats_of(s) + first, *x = h + s.weight_gates * H;
  T *to_h = row + group.hidden_block * H, *to_x = row + group.input_block * H;
  const T *gain_h = s.loop.gain_hh + first, *gain_x = s.loop.gain_ih + first;
  Moments<T> of[2];
  moments<T, 2>({h, to_x}, group.gates, H, units, of);
  const Moments<T> of_h = of[0], of_x = of[1];
  const bool together = to_h == to_x;
  scales[0] = of_h.scale;
  scales[1] = of_x.scale;
  for (int b = 0; b < group.gates; b++)
    for (long u = 0; u < H; u += Simd<T>::width) {
      const long i = b * H + u;
      Vec<T> hat_h = real_only<T>((load(h + i) - of_h.mean) * of_h.scale, u, units);
      Vec<T> hat_x = real_only<T>((load(to_x + i) - of_x.mean) * of_x.scale, u, units);
      store(h + i, hat_h);
      store(x + i, hat_x);
      Vec<T> y_h = hat_h * load(gain_h + i), y_x = hat_x * load(gain_x + i);
      if (!together) store(to_h + i, y_h);
      store(to_x + i, together ? y_h + y_x : y_x);
    }
}

// From the gradient of the sum in dgates to those of W_hh h, in its place, and of W_ih x, behind the row of dgates.
template <class T>
static void normalise_backward(const Step<T>& s, const Group& group) {
  const long H = s.loop.hidden, units = s.loop.units, first = group.gate * H;
  T *row = s.loop.dgates + (s.at + s.first) * s.loop.ldg;
  const T *scales = scales_of(s, 2 * group.gate), *h = hats_of(s) + first, *x = h + s.weight_gates * H;
  T *d_h = row + group.hidden_block * H, *d_x = row + group.input_block * H;
  T* to_x = row + s.inputs_block * H + first;
  const T *gain_h = s.loop.gain_hh + first, *gain_x = s.loop.gain_ih + first;
  T *dgain_h = s.dgain + first, *dgain_x = dgain_h + s.weight_gates * H;
  Vec<T> sum_h{}, sum_x{}, along_h{}, along_x{};
  for (long i = 0; i < group.gates * H; i += Simd<T>::width) {
    Vec<T> hat_h = load(h + i), hat_x = load(x + i), dy_h = load(d_h + i), dy_x = load(d_x + i);
    Vec<T> g_h = dy_h * load(gain_h + i), g_x = dy_x * load(gain_x + i);
    sum_h += g_h;
    sum_x += g_x;
    along_h += g_h * hat_h;
    along_x += g_x * hat_x;
    add_to<T>(dgain_h + i, dy_h * hat_h);
    add_to<T>(dgain_x + i, dy_x * hat_x);
  }
  const T count = T(group.gates * units);
  const T mean_h = total<T>(sum_h) / count, mean_x = total<T>(sum_x) / count;
  const T slope_h = total<T>(along_h) / count, slope_x = total<T>(along_x) / count;
  for (int b = 0; b < group.gates; b++)
    for (long u = 0; u < H; u += Simd<T>::width) {
      const long i = b * H + u;
      Vec<T> g_h = load(d_h + i) * load(gain_h + i), g_x = load(d_x + i) * load(gain_x + i);
      store(d_h + i, real_only<T>((g_h - mean_h - load(h + i) * slope_h) * scales[0], u, units));
      store(to_x + i, real_only<T>((g_x - mean_x - load(x + i) * slope_x) * scales[1], u, units));
    }
}

}  // namespace tt::THROUGHTIME_ISA
