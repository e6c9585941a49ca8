// One recurrence over a whole sequence, forward and backward. Compiled once for every instruction set.
//
// The big products over all steps (input projection, dW, dx) are the caller's; here is only what must wait for the state.
// Work is divided by rows where there are enough of them (each thread then runs through time alone), else by units (a
// barrier after each step). With ragged lengths the rows of a step are dealt out in turn, so no thread is left with the short ones.
#include <cstdlib>
#include <memory>

#include "cells.hpp"
#include "team.hpp"

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

// Which gate's columns a panel of recurrent weights feeds, and whether they hold the input projection already.
struct Gate {
  int weight_block;  // block of H rows in weight_hh
  int column_block;  // block of H columns in a row of gates
  bool accumulate;
};

static const Gate kRnnGates[] = {{0, 0, true}};
static const Gate kGruGates[] = {{2, 0, false}, {0, 1, true}, {1, 2, true}};  // hn, r, z
static const Gate kLstmGates[] = {{0, 0, true}, {1, 1, true}, {2, 2, true}, {3, 3, true}};

struct Layout {
  const Gate* gates;
  int products;  // gates with a recurrent product
  int blocks;    // blocks of H columns in a row of gates
};

static Layout layout_of(int64_t cell) {
  if (cell == TT_LSTM) return {kLstmGates, 4, 4};
  if (cell == TT_GRU) return {kGruGates, 3, 4};
  return {kRnnGates, 1, 1};
}

// More threads cost a barrier at each step (0.2 us, far more on a busy machine), or one at the end when they divide the rows.
static int useful_threads(const tt_call& call, int products) {
  const double step = 2.0 * call.batch * call.hidden * call.hidden * products;
  const bool rows = call.split ? call.split == 1 : call.batch >= 8 * call.threads;
  return call.threads > 1 && (rows ? step * call.steps >= 2e6 : step >= 2e5) ? int(call.threads) : 1;
}

// The running order of the steps, the rows of each, and this thread's share of rows or units.
template <class T>
struct Plan {
  const tt_call& call;
  long ldh;  // a row of scratch: padded past a power of two, whose multiples would fight for the same cache lines
  int panels;

  explicit Plan(const tt_call& c) : call(c), ldh(c.hidden + 16), panels(int(c.hidden / kPanel<T>)) {}

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
    return {call, mine, first, stride, at(s), at(s - 1), int(rows(s - 1)), nullptr, nullptr, ldh, nullptr, nullptr, nullptr,
            nullptr};
  }
};

template <class T>
static int forward(const tt_call& call) {
  const Plan<T> plan(call);
  const Layout layout = layout_of(call.cell);
  const long H = call.hidden, B = call.batch, panel = H * kPanel<T>;
  Scratch<T> packed(size_t(panel) * plan.panels * layout.products), state(2 * B * plan.ldh);
  if (!packed.get() || !state.get()) return 1;
  T *weights = packed.get(), *h[2] = {state.get(), state.get() + B * plan.ldh};
  const Pointwise<T> pointwise = forward_of<T>(call);
  const int members_wanted = useful_threads(call, layout.products);
  Barrier barrier(members_wanted);
  std::atomic<bool> short_handed{false};

  auto work = [&](int member, int members) {
    if (members != members_wanted) {  // a nested region: fewer threads than the barrier waits for
      short_handed = true;
      return;
    }
    int round = 0;
    const bool by_rows = plan.by_rows(members);
    for (int j = member; j < plan.panels; j += members)
      for (int g = 0; g < layout.products; g++)
        pack_rows(static_cast<const T*>(call.weight_hh) + layout.gates[g].weight_block * H * H, int(H), j,
                  weights + (long(j) * layout.products + g) * panel);
    for (long q = member; q < B; q += members)
      for (int side = 0; side < 2; side++)
        for (long u = 0; u < H; u++) {
          T value = static_cast<const T*>(call.h0)[q * H + u];
          h[side][q * plan.ldh + u] = call.h_mask ? value * static_cast<const T*>(call.h_mask)[q * H + u] : value;
        }
    if (members > 1) barrier.wait(round);
    const int from = by_rows ? 0 : plan.panels * member / members;
    const int to = by_rows ? plan.panels : plan.panels * (member + 1) / members;
    for (long s = 0; s < call.steps; s++) {
      Step<T> step = plan.share(s, member, members, by_rows);
      step.h_read = h[s & 1];
      step.h_write = h[(s + 1) & 1];
      const T* A = step.h_read + step.first * plan.ldh;
      T* C = static_cast<T*>(call.gates) + (step.at + step.first) * call.ldg;
      for (int i = from; i < to; i++) {
        int j = s & 1 ? from + to - 1 - i : i;  // back and forth: the last panels are still in the cache
        for (int g = 0; g < layout.products; g++)
          product(step.rows, A, step.stride * plan.ldh, weights + (long(j) * layout.products + g) * panel, int(H),
                  C + layout.gates[g].column_block * H + j * kPanel<T>, step.stride * call.ldg, layout.gates[g].accumulate);
        pointwise(step, long(j) * kPanel<T>);
      }
      if (!by_rows) barrier.wait(round);
    }
    if (members > 1 && by_rows) barrier.wait(round);
    // The final state of a sequence is its last step's output; one without steps keeps what it had.
    for (long s = 0; s < call.steps; s++)
      for (long q = plan.rows(s + 1 < call.steps ? s + 1 : -1) + member; q < plan.rows(s); q += members)
        if (!call.reverse)
          std::memcpy(static_cast<T*>(call.h_state) + q * H, static_cast<const T*>(call.y) + (plan.at(s) + q) * H, H * sizeof(T));
    if (call.reverse && call.steps)
      for (long q = member; q < plan.rows(call.steps - 1); q += members)
        std::memcpy(static_cast<T*>(call.h_state) + q * H, static_cast<const T*>(call.y) + (plan.at(call.steps - 1) + q) * H,
                    H * sizeof(T));
  };
  together(members_wanted, work);
  if (short_handed) {
    tt_call alone = call;
    alone.threads = 1;
    return forward<T>(alone);
  }
  return 0;
}

template <class T>
static int backward(const tt_call& call) {
  const Plan<T> plan(call);
  const Layout layout = layout_of(call.cell);
  const long H = call.hidden, B = call.batch, row = layout.blocks * H;
  const long K = layout.products * H, panel = K * kPanel<T>;
  const int members_wanted = useful_threads(call, layout.products);
  const long sums = row + 3 * H + 16;
  Scratch<T> packed(size_t(panel) * plan.panels), state(2 * B * plan.ldh), totals(size_t(sums) * members_wanted);
  if (!packed.get() || !state.get() || !totals.get()) return 1;
  T *weights = packed.get(), *dh = state.get(), *products = state.get() + B * plan.ldh;
  std::memset(totals.get(), 0, sums * members_wanted * sizeof(T));
  const Pointwise<T> pointwise = backward_of<T>(call);
  const bool direct = call.cell == TT_GRU;  // part of dh goes on without the weights
  const T* mask = static_cast<const T*>(call.h_mask);
  Barrier barrier(members_wanted);
  std::atomic<bool> short_handed{false};

  auto work = [&](int member, int members) {
    if (members != members_wanted) {
      short_handed = true;
      return;
    }
    int round = 0;
    const bool by_rows = plan.by_rows(members);
    for (int j = member; j < plan.panels; j += members)
      for (int g = 0; g < layout.products; g++)
        pack_columns(static_cast<const T*>(call.weight_hh) + layout.gates[g].weight_block * H * H, int(H), int(H), j,
                     weights + j * panel + g * H * kPanel<T>);
    for (long q = member; q < B; q += members)
      std::memcpy(dh + q * plan.ldh, static_cast<const T*>(call.dh_state) + q * H, H * sizeof(T));
    if (members > 1) barrier.wait(round);
    const int from = by_rows ? 0 : plan.panels * member / members;
    const int to = by_rows ? plan.panels : plan.panels * (member + 1) / members;
    for (long s = call.steps - 1; s >= 0; s--) {
      Step<T> step = plan.share(s, member, members, by_rows);
      step.dh = step.dh_base = dh;
      step.dbias = totals.get() + member * sums;
      step.dpeephole = step.dbias + row;
      for (int j = from; j < to; j++) pointwise(step, long(j) * kPanel<T>);
      if (!by_rows) barrier.wait(round);
      const T* A = static_cast<const T*>(call.dgates) + (step.at + step.first) * call.ldg;
      T* target = (mask ? products : dh) + step.first * plan.ldh;
      for (int i = from; i < to; i++) {
        int j = s & 1 ? from + to - 1 - i : i;
        product(step.rows, A, step.stride * call.ldg, weights + j * panel, int(K), target + j * kPanel<T>,
                step.stride * plan.ldh, direct && !mask);
        if (!mask) continue;
        for (int r = 0; r < step.rows; r++)
          for (long u = long(j) * kPanel<T>; u < (j + 1) * kPanel<T>; u++) {
            long q = step.sequence(r);
            T through = products[q * plan.ldh + u] * mask[q * H + u];
            dh[q * plan.ldh + u] = direct ? dh[q * plan.ldh + u] + through : through;
          }
      }
      // No barrier here: the next step's pointwise part reads only the columns of dh that this thread wrote.
    }
    if (members > 1) barrier.wait(round);
    for (long q = member; q < B; q += members)
      std::memcpy(static_cast<T*>(call.dh_state) + q * H, dh + q * plan.ldh, H * sizeof(T));
  };
  together(members_wanted, work);
  if (short_handed) {
    tt_call alone = call;
    alone.threads = 1;
    return backward<T>(alone);
  }
  auto collect = [&](void* out, long from, long count) {
    for (long u = 0; out && u < count; u++) {
      T total = 0;
      for (int m = 0; m < members_wanted; m++) total += totals.get()[m * sums + from + u];
      static_cast<T*>(out)[u] = total;
    }
  };
  collect(call.dbias, 0, row);
  collect(call.dpeephole, row, 3 * H);
  return 0;
}

}  // namespace tt::THROUGHTIME_ISA

#define TT_JOIN_(a, b) a##_##b
#define TT_JOIN(a, b) TT_JOIN_(a, b)
#define TT_NAME(base) TT_JOIN(base, THROUGHTIME_ISA)

extern "C" {
int TT_NAME(tt_forward_f32)(const tt_call* call) { return tt::THROUGHTIME_ISA::forward<float>(*call); }
int TT_NAME(tt_forward_f64)(const tt_call* call) { return tt::THROUGHTIME_ISA::forward<double>(*call); }
int TT_NAME(tt_backward_f32)(const tt_call* call) { return tt::THROUGHTIME_ISA::backward<float>(*call); }
int TT_NAME(tt_backward_f64)(const tt_call* call) { return tt::THROUGHTIME_ISA::backward<double>(*call); }
int TT_NAME(tt_panel_f32)() { return tt::THROUGHTIME_ISA::kPanel<float>; }
int TT_NAME(tt_panel_f64)() { return tt::THROUGHTIME_ISA::kPanel<double>; }
}
