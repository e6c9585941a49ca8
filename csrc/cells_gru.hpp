// The GRU: the equations of src/throughtime/cells/gru.py, for some units of some rows.
#pragma once
#include "step.hpp"

namespace tt::THROUGHTIME_ISA {

// Reset after. Row of gates: hn | r | z | n, with hn = W_hn h + b_hn.
template <bool Zone, class T>
static void gru_forward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  for (long u = from; u < to; u += W) {
    Vec<T> b_hn = bias_at<T>(s, u), b_r = bias_at<T>(s, H + u), b_z = bias_at<T>(s, 2 * H + u),
           b_n = bias_at<T>(s, 3 * H + u);
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* g = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      Vec<T> hn = load(g) + b_hn;
      Vec<T> r = sigmoid<T>(load(g + H) + b_r), z = sigmoid<T>(load(g + 2 * H) + b_z);
      Vec<T> n = tanh<T>(load(g + 3 * H) + b_n + r * hn);
      Vec<T> h = h_before(s, q, u);
      if (s.loop.training) {
        store(g, hn);
        store(g + H, r);
        store(g + 2 * H, z);
        store(g + 3 * H, n);
      }
      put_h<Zone>(s, q, u, n + z * (h - n));
    }
  }
}

template <bool Zone, class T>
static void gru_backward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  for (long u = from; u < to; u += W) {
    Vec<T> sum_hn{}, sum_r{}, sum_z{}, sum_n{};
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      const T* g = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      T* d = s.loop.dgates + (s.at + q) * s.loop.ldg + u;
      T* carried = s.dh + q * s.ldh + u;
      Vec<T> hn = load(g), r = load(g + H), z = load(g + 2 * H), n = load(g + 3 * H);
      Vec<T> h = h_before(s, q, u);
      Vec<T> dh = gradient_of_h<Zone>(s, q, u);
      Vec<T> dn = dh * (T(1) - z) * (T(1) - n * n);
      Vec<T> dz = dh * (h - n) * z * (T(1) - z);
      Vec<T> dhn = dn * r;
      Vec<T> dr = dn * hn * r * (T(1) - r);
      store(carried, Zone ? load(carried) + dh * z : dh * z);
      store(d, dhn);
      store(d + H, dr);
      store(d + 2 * H, dz);
      store(d + 3 * H, dn);
      sum_hn += dhn;
      sum_r += dr;
      sum_z += dz;
      sum_n += dn;
    }
    add_to<T>(s.dbias + u, sum_hn);
    add_to<T>(s.dbias + H + u, sum_r);
    add_to<T>(s.dbias + 2 * H + u, sum_z);
    add_to<T>(s.dbias + 3 * H + u, sum_n);
  }
}

// Reset before, first part. Row of gates: q | r | z | n, with q = r * h what the candidate's weights read.
template <class T>
static void gru_reset_forward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  for (long u = from; u < to; u += W) {
    Vec<T> b_r = bias_at<T>(s, H + u), b_z = bias_at<T>(s, 2 * H + u);
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* g = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      Vec<T> r = sigmoid<T>(load(g + H) + b_r);
      store(g, r * load(s.h_read + q * s.ldh + u));
      store(g + H, r);
      store(g + 2 * H, sigmoid<T>(load(g + 2 * H) + b_z));
    }
  }
}

// Reset before, second part: the candidate has W_hn q by now.
template <bool Zone, class T>
static void gru_candidate_forward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  for (long u = from; u < to; u += W) {
    Vec<T> b_n = bias_at<T>(s, 3 * H + u);
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* g = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      Vec<T> n = tanh<T>(load(g + 3 * H) + b_n), h = h_before(s, q, u);
      if (s.loop.training) store(g + 3 * H, n);
      put_h<Zone>(s, q, u, n + load(g + 2 * H) * (h - n));
    }
  }
}

template <bool Zone, class T>
static void gru_candidate_backward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  for (long u = from; u < to; u += W) {
    Vec<T> sum_z{}, sum_n{};
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      const T* g = s.loop.gates + (s.at + q) * s.loop.ldg + u;
      T* d = s.loop.dgates + (s.at + q) * s.loop.ldg + u;
      T* carried = s.dh + q * s.ldh + u;
      Vec<T> z = load(g + 2 * H), n = load(g + 3 * H), h = h_before(s, q, u);
      Vec<T> dh = gradient_of_h<Zone>(s, q, u);
      Vec<T> dn = dh * (T(1) - z) * (T(1) - n * n);
      Vec<T> dz = dh * (h - n) * z * (T(1) - z);
      store(carried, Zone ? load(carried) + dh * z : dh * z);
      store(d + 2 * H, dz);
      store(d + 3 * H, dn);
      sum_z += dz;
      sum_n += dn;
    }
    add_to<T>(s.dbias + 2 * H + u, sum_z);
    add_to<T>(s.dbias + 3 * H + u, sum_n);
  }
}

// dq = dn W_hn lies in its block by now: on to r, and to the h that was reset.
template <class T>
static void gru_reset_backward(const Step<T>& s, long from, long to) {
  constexpr int W = Simd<T>::width;
  const long H = s.loop.hidden;
  const T* mask = s.loop.h_mask;
  for (long u = from; u < to; u += W) {
    Vec<T> sum_r{};
    for (int row = 0; row < s.rows; row++) {
      int q = s.sequence(row);
      T* d = s.loop.dgates + (s.at + q) * s.loop.ldg + u;
      Vec<T> r = load(s.loop.gates + (s.at + q) * s.loop.ldg + H + u);
      Vec<T> dq = load(d);
      if (mask) dq *= load(mask + q * H + u);
      Vec<T> dr = dq * h_before(s, q, u) * r * (T(1) - r);
      add_to<T>(s.dh + q * s.ldh + u, dq * r);
      store(d + H, dr);
      sum_r += dr;
    }
    add_to<T>(s.dbias + H + u, sum_r);
  }
}

}  // namespace tt::THROUGHTIME_ISA
