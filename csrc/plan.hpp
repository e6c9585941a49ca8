// How a call is divided: packed weights, the running order of the steps, and each thread's share of rows or units.
#pragma once
#include <cstdlib>
#include <memory>

#include "cells.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
class Scratch {
 public:
  explicit Scratch(size_t count) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, count * sizeof(T) + 64) == 0) data_.reset(static_cast<T*>(p));
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

// More threads cost a barrier at each step (0.2 us, far more on a busy machine), or one at the end when they divide the rows.
static int useful_threads(const tt_call& call, int threads, int products) {
  const double step = 2.0 * call.batch * call.hidden * call.hidden * products;
  const bool rows = call.split ? call.split == 1 : call.batch >= 8 * threads;
  return threads > 1 && (rows ? step * call.steps >= 2e6 : step >= 2e5) ? threads : 1;
}

// The running order of the steps, the rows of each, and this thread's share of rows or units.
template <class T>
struct Plan {
  const tt_call& call;
  const tt_options& options;
  long ldh;  // a row of scratch: padded past a power of two, whose multiples would fight for the same cache lines
  int panels;

  Plan(const tt_call& c, const tt_options& o) : call(c), options(o), ldh(c.hidden + 16), panels(int(c.hidden / kPanel<T>)) {}

  long step(long s) const { return call.reverse ? call.steps - 1 - s : s; }
  long rows(long s) const { return s < 0 ? 0 : call.offsets[step(s) + 1] - call.offsets[step(s)]; }
  long at(long s) const { return s < 0 ? 0 : call.offsets[step(s)]; }

  bool by_rows(int members) const {
    if (members == 1) return true;
    if (call.split) return call.split == 1;
    if (panels < members) return true;
    return call.batch >= 8 * members;
  }

  Step<T> share(long s, int member, int members, bool by_rows) const {
    int all = int(rows(s)), first = by_rows ? member : 0, stride = by_rows ? members : 1;
    int mine = all > first ? (all - first + stride - 1) / stride : 0;
    return {call, options, mine, first, stride, at(s), at(s - 1), int(rows(s - 1)), ldh, nullptr, nullptr, nullptr, nullptr, nullptr,
            nullptr};
  }
};

// The panels of one part that belong to this thread.
struct Share {
  int from, to;

  Share(int panels, int member, int members, bool by_rows)
      : from(by_rows ? 0 : panels * member / members), to(by_rows ? panels : panels * (member + 1) / members) {}
};

// The weights of all parts, packed one behind the other.
template <class T>
class Weights {
 public:
  explicit Weights(const Parts<T>& parts) : packed_(place(parts)) {}
  T* get(int part) const { return packed_.get() ? packed_.get() + begin_[part] : nullptr; }

 private:
  size_t place(const Parts<T>& parts) {
    size_t count = 0;
    for (int p = 0; p < parts.count; p++) {
      begin_[p] = count;
      count += size_t(parts.part[p].rows) * parts.part[p].columns * parts.part[p].products;
    }
    return count;
  }

  size_t begin_[3];
  Scratch<T> packed_;
};

// Backward through recurrent dropout, for panel j: the mask stood before the weights.
template <class T>
static void through_mask(const Step<T>& s, const T* products, const T* mask, int j, bool direct) {
  for (int r = 0; r < s.rows; r++) {
    const long q = s.sequence(r);
    for (long u = long(j) * kPanel<T>; u < (j + 1) * kPanel<T>; u++) {
      T through = products[q * s.ldh + u] * mask[q * s.options.width + u];
      s.dh[q * s.ldh + u] = direct ? s.dh[q * s.ldh + u] + through : through;
    }
  }
}

}  // namespace tt::THROUGHTIME_ISA
