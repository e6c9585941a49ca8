// exp, sigmoid and tanh of a vector, to a few units in the last place, and the derivatives that backward needs.
// exp(x) = 2^n (1 + p) with n = round(x / ln 2), f = x - n ln 2 in two parts, p = expm1(f) by a polynomial.
#pragma once
#include "call.h"
#include "simd.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float limit = 87.0f;  // 2^n stays a normal number
  static constexpr int mantissa = 23;
  // Taylor coefficients 1/2!, 1/3!, ...: |f| <= 0.347, the next term is below 3e-9 of p.
  static constexpr int terms = 7;
};

template <>
struct ExpConstants<double> {
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double limit = 708.0;
  static constexpr int mantissa = 52;
  static constexpr int terms = 13;
};

template <class T>
TT_INLINE Vec<T> clamp(Vec<T> x, T limit) {
  Vec<T> high = splat<T>(limit), low = splat<T>(-limit);
  x = x > high ? high : x;  // a NaN stays a NaN
  return x < low ? low : x;
}

// exp(x) = scale * (1 + p); |x| must be within ExpConstants::limit.
template <class T>
TT_INLINE void exp_parts(Vec<T> x, Vec<T>& p, Vec<T>& scale) {
  using C = ExpConstants<T>;
  using IntVec = typename Simd<T>::IntVec;
  Vec<T> shifted = x * splat<T>(T(1.4426950408889634)) + splat<T>(C::round);
  Vec<T> n = shifted - splat<T>(C::round);
  Vec<T> f = x - n * splat<T>(C::ln2_high);
  f = f - n * splat<T>(C::ln2_low);
  T factorial = 1;
  T coefficient[C::terms + 1];
  for (int k = 1; k <= C::terms; k++) {
    factorial *= T(k);
    coefficient[k] = T(1) / factorial;
  }
  Vec<T> q = splat<T>(coefficient[C::terms]);
  for (int k = C::terms - 1; k >= 2; k--) q = q * f + splat<T>(coefficient[k]);
  p = (q * f) * f + f;
  // The low bits of `shifted` are n: moved into the exponent they make 2^n.
  IntVec bits = reinterpret_cast<IntVec>(shifted) << C::mantissa;
  scale = reinterpret_cast<Vec<T>>(bits + reinterpret_cast<IntVec>(splat<T>(T(1))));
}

template <class T>
TT_INLINE Vec<T> sigmoid(Vec<T> x) {
  Vec<T> p, s;
  exp_parts<T>(clamp<T>(-x, ExpConstants<T>::limit), p, s);
  return T(1) / (T(1) + (s * p + s));
}

template <class T>
TT_INLINE Vec<T> tanh(Vec<T> x) {
  Vec<T> p, s;
  exp_parts<T>(clamp<T>(x + x, sizeof(T) == 4 ? T(20) : T(44)), p, s);
  Vec<T> expm1 = s * p + (s - T(1));  // exact near zero, where s is 1
  return expm1 / (expm1 + T(2));
}

enum Activation { kTanh = TT_TANH, kRelu = TT_RELU, kSigmoid = TT_SIGMOID, kIdentity = TT_IDENTITY };

template <int A, class T>
TT_INLINE Vec<T> activate(Vec<T> x) {
  if constexpr (A == kTanh) return tanh<T>(x);
  if constexpr (A == kRelu) return x <= Vec<T>{} ? Vec<T>{} : x;
  if constexpr (A == kSigmoid) return sigmoid<T>(x);
  return x;
}

// phi'(a) from y = phi(a).
template <int A, class T>
TT_INLINE Vec<T> slope(Vec<T> y) {
  if constexpr (A == kTanh) return T(1) - y * y;
  if constexpr (A == kRelu) return y > Vec<T>{} ? splat<T>(1) : Vec<T>{};
  if constexpr (A == kSigmoid) return y * (T(1) - y);
  return splat<T>(1);
}

}  // namespace tt::THROUGHTIME_ISA
