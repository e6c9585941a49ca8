// How a call is divided: the running order of the steps, each thread's share of rows or units, and where the packed weights lie.
#pragma once
#include "products.hpp"

namespace tt::THROUGHTIME_ISA {

// More threads cost a barrier at each step (0.2 us, far more on a busy machine), or one at the end when they divide the rows.
static int useful_threads(const tt_call& call, int threads, int products) {
  const double step = 2.0 * call.batch * call.hidden * call.hidden * products;
  const bool rows = call.split ? call.split == 1 : call.batch >= 8 * threads;
  return threads > 1 && (rows ? step * (call.end - call.begin) >= 2e6 : step >= 2e5) ? threads : 1;
}

constexpr long kCoreCache = 2 << 20;  // bytes, about the second level of today's processors

// The running order of the steps, the rows of each, and this thread's share of rows or units.
template <class T>
struct Plan {
  const tt_call& call;
  long ldh;  // a row of scratch: padded past a power of two, whose multiples would fight for the same cache lines
  int panels;
  const T* bias = nullptr;  // one row of gates, or null
  T* hats = nullptr;        // with layer norm: its rows, one for every row of gates, or the same at every step
  bool keeps_hats = false;
  long ld_hats = 0;

  explicit Plan(const tt_call& c) : call(c), ldh(c.hidden + 16), panels(int(c.hidden / kPanel<T>)) {}

  // In the caller's rows of gates, where backward finds them.
  void keep_hats() {
    hats = static_cast<T*>(call.gates) + blocks_of(call) * call.hidden;
    ld_hats = call.ldg;
    keeps_hats = true;
  }

  void forget_hats(T* scratch, long ld) {
    hats = scratch;
    ld_hats = ld;
  }

  long step(long s) const { return call.reverse ? call.steps - 1 - s : s; }
  long rows(long s) const { return s < 0 ? 0 : call.offsets[step(s) + 1] - call.offsets[step(s)]; }
  long at(long s) const { return s < 0 ? 0 : call.offsets[step(s)]; }

  bool by_rows(int members) const {
    if (members == 1) return true;
    if (call.split) return call.split == 1;
    if (panels < members) return true;
    // Weights that leave the cache of a core are read by every thread at every step: with few rows each, better half of them each.
    const long weights = long(call.hidden) * call.width * gates_of(call) * sizeof(T);
    return call.batch >= (weights > kCoreCache ? 17 : 8) * members;
  }

  Step<T> share(long s, int member, int members, bool by_rows) const {
    int all = int(rows(s)), first = by_rows ? member : 0, stride = by_rows ? members : 1;
    int mine = all > first ? (all - first + stride - 1) / stride : 0;
    Step<T> step{call, mine, first, stride, at(s), at(s - 1), int(rows(s - 1)), ldh};
    step.bias = bias;
    step.weight_gates = gates_of(call);
    step.inputs_block = blocks_of(call);
    step.hats = hats;
    step.ld_hats = ld_hats;
    step.hats_at = keeps_hats ? step.at : 0;
    return step;
  }
};

// The rows of a step one at a time: all of a thread that has rows of its own, else every members-th.
template <class T, class Work>
static void each_row(const Step<T>& step, int member, int members, bool by_rows, Work&& work) {
  Step<T> row = step;
  row.rows = 1;
  for (int r = by_rows ? 0 : member; r < step.rows; r += by_rows ? 1 : members) {
    row.first = step.sequence(r);
    work(row);
  }
}

// The panels of one part that belong to this thread.
struct Share {
  int from, to;

  Share(int panels, int member, int members, bool by_rows)
      : from(by_rows ? 0 : panels * member / members), to(by_rows ? panels : panels * (member + 1) / members) {}
};

// The weights of all parts, packed one behind the other: in the caller's memory, or in memory of their own.
template <class T>
class Weights {
 public:
  Weights(const Parts<T>& parts, void* given) : own_(given ? 0 : count(parts)), packed_(given ? static_cast<T*>(given) : own_.get()) {
    size_t begin = 0;
    for (int p = 0; p < parts.count; p++) {
      begin_[p] = begin;
      begin += size(parts.part[p]);
    }
  }
  T* get(int part) const { return packed_ ? packed_ + begin_[part] : nullptr; }

  static size_t count(const Parts<T>& parts) {
    size_t all = 0;
    for (int p = 0; p < parts.count; p++) all += size(parts.part[p]);
    return all;
  }

 private:
  static size_t size(const Part<T>& part) { return size_t(part.matrix.rows) * part.matrix.columns * part.products; }

  size_t begin_[3];
  Scratch<T> own_;
  T* packed_;
};

// Backward through recurrent dropout, for panel j: the mask stood before the weights.
template <class T>
static void through_mask(const Step<T>& s, const T* products, const T* mask, int j, bool direct) {
  for (int r = 0; r < s.rows; r++) {
    const long q = s.sequence(r);
    for (long u = long(j) * kPanel<T>; u < (j + 1) * kPanel<T>; u++) {
      T through = products[q * s.ldh + u] * mask[q * s.call.width + u];
      s.dh[q * s.ldh + u] = direct ? s.dh[q * s.ldh + u] + through : through;
    }
  }
}

}  // namespace tt::THROUGHTIME_ISA
