// From logits to a symbol: temperature, then top-k, then top-p, as src/throughtime/runtime/sampling.py defines them.
#pragma once
#include <limits>

#include "activation.hpp"
#include "generate.h"

namespace tt::THROUGHTIME_ISA {

constexpr long kLogitBlock = 64;  // logits are padded to whole blocks
constexpr float kNever = -std::numeric_limits<float>::infinity();

// A number in [0, 1) for each (seed, position, row), whatever was drawn before it: Philox4x32-10 (Salmon et al. 2011, SC).
static double uniform(uint64_t seed, uint64_t position, uint64_t row) {
  uint32_t x[4] = {uint32_t(position), uint32_t(position >> 32), uint32_t(row), uint32_t(row >> 32)};
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; round++) {
    uint64_t a = uint64_t(0xD2511F53u) * x[0], b = uint64_t(0xCD9E8D57u) * x[2];
    uint32_t next[4] = {uint32_t(b >> 32) ^ x[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ x[3] ^ key[1], uint32_t(a)};
    std::memcpy(x, next, sizeof x);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return double((uint64_t(x[0]) << 32 | x[1]) >> 11) * 0x1p-53;
}

// exp(x) for x <= 0; exactly zero where that is too small for a normal number, for -infinity and for NaN.
template <class T>
TT_INLINE Vec<T> weight_of(Vec<T> x) {
  constexpr T lowest = -ExpConstants<T>::limit;
  Vec<T> p, s;
  exp_parts<T>(x > splat<T>(lowest) ? x : splat<T>(lowest), p, s);
  return x > splat<T>(lowest) ? s * p + s : Vec<T>{};
}

// A binary heap: heap[0] is an element that none comes before. heap[at] sinks to its place among `count`.
//
// Not the standard library's: its templates, instantiated for numbers, have the same name in the code of every instruction set,
// of which the linker keeps one.
template <class T, class Before>
static void sink(T* heap, long count, long at, Before before) {
  const T value = heap[at];
  for (long child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && before(heap[child + 1], heap[child])) child++;
    if (!before(heap[child], value)) break;
    heap[at] = heap[child];
  }
  heap[at] = value;
}

template <class T, class Before>
static void make_heap(T* heap, long count, Before before) {
  for (long at = count / 2; at-- > 0;) sink(heap, count, at, before);
}

// Draws for one thread, in memory that the caller lends.
class Sampler {
 public:
  static long floats(long padded) { return 2 * padded; }
  static long doubles(long padded) { return padded + padded / kLogitBlock; }

  Sampler(const tt_generation& call, long padded, float* floats, double* doubles, int64_t* order)
      : call_(call), padded_(padded), x_(floats), top_(floats + padded), weight_(doubles), block_(doubles + padded),
        order_(order) {}

  // The symbol, or minus the status that says why there is none.
  int64_t draw(const float* logits, int64_t position, int64_t row) {
    std::memcpy(x_, logits, padded_ * sizeof(float));
    for (int64_t i = 0; i < call_.banned_count; i++) x_[call_.banned[i]] = kNever;
    float top;
    if (!highest(top)) return -TT_DIVERGED;
    if (call_.temperature == 0) return first(top);
    if (top == kNever) return -TT_NOTHING_LEFT;
    if (call_.top_k && call_.top_k < call_.symbols) keep_top_k();
    double u = uniform(uint64_t(call_.seed), uint64_t(position), uint64_t(row));
    return call_.top_p < 1 ? from_nucleus(top, u) : from_all(top, u);
  }

 private:
  int64_t first(float value) const {
    int64_t v = 0;
    while (v + 1 < call_.symbols && x_[v] != value) v++;
    return v;
  }

  bool highest(float& top) const {
    constexpr int W = Simd<float>::width;
    Vec<float> most = splat<float>(kNever);
    typename Simd<float>::IntVec fine = most == most;
    for (long v = 0; v < padded_; v += W) {
      Vec<float> x = load(x_ + v);
      fine &= x < splat<float>(-kNever);  // neither NaN nor infinity
      most = x > most ? x : most;
    }
    top = most[0];
    bool all = true;
    for (int i = 0; i < W; i++) {
      top = most[i] > top ? most[i] : top;
      all = all && fine[i];
    }
    return all;
  }

  // Exactly k stay; among equals the first.
  void keep_top_k() {
    const long V = call_.symbols, k = call_.top_k;
    const auto less = [](float a, float b) { return a < b; };
    std::memcpy(top_, x_, k * sizeof(float));
    make_heap(top_, k, less);
    for (long v = k; v < V; v++)
      if (x_[v] > top_[0]) {
        top_[0] = x_[v];
        sink(top_, k, 0, less);
      }
    const float least = top_[0];
    long equals = 0;
    for (long i = 0; i < k; i++) equals += top_[i] == least;
    for (long v = 0; v < V; v++)
      if (x_[v] < least || (x_[v] == least && equals-- <= 0)) x_[v] = kNever;
  }

  // 1 / temperature, at most `limit`: times a difference of logits it must not be infinite, as 0 times that is no number.
  double inverse_temperature(double limit) const {
    const double inverse = 1 / call_.temperature;
    return inverse < limit ? inverse : limit;
  }

  int64_t from_all(float top, double u) {
    constexpr int W = Simd<float>::width;
    const Vec<float> scale = splat<float>(float(inverse_temperature(1e30))), highest = splat<float>(top);
    const long blocks = padded_ / kLogitBlock;
    double total = 0;
    for (long b = 0; b < blocks; b++) {
      Vec<float> sums{};
      for (long v = b * kLogitBlock; v < (b + 1) * kLogitBlock; v += W) {
        Vec<float> e = weight_of<float>((load(x_ + v) - highest) * scale);
        store(x_ + v, e);
        sums += e;
      }
      total += block_[b] = sum<float>(sums);
    }
    // By rounding, the sums may end before the target: then it is the last symbol that has a weight.
    double target = u * total, start = 0, before = 0;
    long block = 0;
    for (long b = 0; b < blocks && before <= target; b++) {
      if (block_[b] == 0) continue;
      block = b;
      start = before;
      before += block_[b];
    }
    int64_t choice = 0;
    for (long v = block * kLogitBlock; v < (block + 1) * kLogitBlock; v++) {
      if (x_[v] > 0) choice = v;
      if ((start += x_[v]) > target) break;
    }
    return choice;
  }

  // The fewest symbols, likeliest first, that have a share of at least top_p; in float64, as their number is at stake.
  int64_t from_nucleus(float top, double u) {
    const double scale = inverse_temperature(1e300);
    constexpr int W = Simd<double>::width;
    for (long v = 0; v < padded_; v += W) {
      Vec<double> x;
      for (int i = 0; i < W; i++) x[i] = (double(x_[v + i]) - double(top)) * scale;
      store(weight_ + v, weight_of<double>(x));
    }
    long count = 0;
    double total = 0;
    for (long v = 0; v < call_.symbols; v++)
      if (weight_[v] > 0) {
        order_[count++] = v;
        total += weight_[v];
      }
    const auto likelier = [&](int64_t a, int64_t b) { return weight_[a] != weight_[b] ? weight_[a] > weight_[b] : a < b; };
    make_heap(order_, count, likelier);
    long kept = count;  // order_[kept, count): the nucleus, likeliest last
    double sum = 0;
    while (kept > 0 && (kept == count || sum / total < call_.top_p)) {
      const int64_t likeliest = order_[0];
      order_[0] = order_[--kept];
      order_[kept] = likeliest;
      sink(order_, kept, 0, likelier);
      sum += weight_[likeliest];
    }
    double target = u * sum, before = 0;
    for (long place = count; place-- > kept;)
      if ((before += weight_[order_[place]]) > target) return order_[place];
    return order_[kept];
  }

  const tt_generation& call_;
  const long padded_;
  float *x_, *top_;
  double *weight_, *block_;
  int64_t* order_;
};

}  // namespace tt::THROUGHTIME_ISA
