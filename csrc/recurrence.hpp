// The loop over time, forward and backward: what must wait for the state. Products over all steps are in stack.hpp.
//
// Work is divided by rows where there are enough of them (each thread then runs through time alone), else by units (a
// barrier after each part of a step). With ragged lengths the rows of a step are dealt out in turn, so no thread is left with the short ones.
#pragma once
#include "plan.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
class Forward {
 public:
  // `loop` and `arena` must outlive it; `rows` is the number of all rows that will be run.
  Forward(const Loop<T>& loop, long rows, Arena& arena) : loop_(loop), plan_(loop, false, rows, arena) {
    const long H = loop.hidden, ld_hats = 2 * gates_of(loop) * H + 16;
    own_ = Products<T>::scratch(loop, plan_.parts.longest(false));
    lowered_ = arena.take<T>(own_ * plan_.threads);
    for (T*& h : h_) h = arena.take<T>(loop.batch * plan_.ldh);
    if (!loop.gain_hh) return;
    cell_rows_ = arena.take<T>(3 * H * plan_.threads);
    if (loop.training) {  // in the rows of gates, where backward finds them
      plan_.ld_hats = loop.ldg;
      plan_.keeps_hats = true;
    } else {
      plan_.hats = arena.take<T>(loop.batch * ld_hats);
      plan_.ld_hats = ld_hats;
    }
  }

  // The steps [begin, end) of the loop.
  void run() {
    if (plan_.keeps_hats) plan_.hats = loop_.gates + blocks_of(loop_) * loop_.hidden;
    together(plan_.threads, [&](Member& member) {
      Products<T> products(loop_, plan_.parts.longest(false), lowered_ + own_ * member.slot);
      if (plan_.packs && !ready_) plan_.pack(products, member);
      read_state(member);
      if (!member.wait()) return;
      if (plan_.by_rows()) {
        for (int group = member.index; group < plan_.threads; group += member.count) {
          Member alone(group, plan_.threads, nullptr);
          for (long s = loop_.begin; s < loop_.end; s++) step(s, products, alone, true);
        }
        if (!member.wait()) return;
      } else {
        for (long s = loop_.begin; s < loop_.end; s++)
          if (!step(s, products, member, false)) return;
      }
      write_state(member);
    });
    ready_ = true;
  }

 private:
  // False when this thread has left the others.
  bool step(long s, Products<T>& products, Member& member, bool by_rows) const {
    Step<T> step = plan_.division(s, member.index, by_rows);
    step.cell_row = loop_.gain_hh ? cell_rows_ + member.slot * 3 * loop_.hidden : nullptr;
    step.h_read = h_[s & 1];
    step.h_write = h_[(s + 1) & 1];
    for (int p = 0; p < plan_.parts.count; p++) {
      const Part<T>& part = plan_.parts.part[p];
      const Panels units(part.matrix.rows / kPanel<T>, member, by_rows);
      const T* left = part.left == kHidden ? step.h_read + step.first * plan_.ldh : gates(step) + part.left_block * loop_.hidden;
      const long lda = step.stride * (part.left == kHidden ? plan_.ldh : loop_.ldg);
      products.left(step.rows, left, lda, part.matrix.columns, part.matrix.real_columns);
      for (int i = units.from; i < units.to; i++) {
        const int j = units.at(i, s);
        multiply(step, products, p, j);
        if (!part.groups) part.equations(step, long(j) * kPanel<T>, long(j + 1) * kPanel<T>);
      }
      if (part.groups) {
        if (!by_rows && !member.wait()) return false;
        each_row(step, member, plan_.threads, by_rows, [&](const Step<T>& row, int) {
          for (int g = 0; g < part.group_count; g++) normalise(row, part.groups[g]);
          part.equations(row, 0, loop_.hidden);
        });
      }
      if (!by_rows && !member.wait()) return false;
    }
    return true;
  }

  // Panel j of every gate of a part.
  void multiply(const Step<T>& step, const Products<T>& products, int p, long j) const {
    const Part<T>& part = plan_.parts.part[p];
    const long H = loop_.hidden, panel = long(part.matrix.columns) * kPanel<T>;
    const bool normed = part.groups;
    const long ldc = step.stride * (part.target == kOutput ? loop_.ldy : normed ? step.ld_hats : loop_.ldg);
    for (int g = 0; g < part.products; g++) {
      const Gate& gate = part.gates[g];
      T* target = part.target == kOutput ? loop_.y + (step.at + step.first) * loop_.ldy
                  : normed               ? step.hats + (step.hats_at + step.first) * step.ld_hats + gate.weight_block * H
                                         : gates(step) + gate.column_block * H;
      const bool accumulate = gate.accumulate && !normed;
      if (plan_.packs)
        products.into(target + j * kPanel<T>, ldc, plan_.packed[p], j * part.products + g, panel, accumulate);
      else
        products.into_forward(target + j * kPanel<T>, ldc, part, g, j, accumulate);
    }
  }

  T* gates(const Step<T>& step) const { return loop_.gates + (step.at + step.first) * loop_.ldg; }

  // Both copies: a sequence that has ended is still in the one that is read.
  void read_state(const Member& member) const {
    const long width = loop_.width;
    for (long q = member.index; q < loop_.batch; q += member.count)
      for (long u = 0; u < width; u++) {
        T value = loop_.h_state[q * width + u];
        if (loop_.h_mask) value *= loop_.h_mask[q * width + u];
        h_[0][q * plan_.ldh + u] = h_[1][q * plan_.ldh + u] = value;
      }
  }

  // The state of a sequence after the chunk is its last step's output; one without steps keeps what it had.
  void write_state(const Member& member) const {
    auto finish = [&](long s, long first) {
      for (long q = first + member.index; q < plan_.rows(s); q += member.count)
        std::memcpy(loop_.h_state + q * loop_.width, loop_.y + (plan_.at(s) + q) * loop_.ldy, loop_.width * sizeof(T));
    };
    if (loop_.reverse && loop_.end > loop_.begin) finish(loop_.end - 1, 0);
    for (long s = loop_.begin; s < loop_.end && !loop_.reverse; s++) finish(s, s + 1 < loop_.end ? plan_.rows(s + 1) : 0);
  }

  const Loop<T>& loop_;
  Plan<T> plan_;
  size_t own_ = 0;
  T *lowered_ = nullptr, *cell_rows_ = nullptr;
  T* h_[2];
  bool ready_ = false;
};

// The sums of one group of rows: a row of biases, the peepholes', and those of layer norm.
struct Sums {
  long row, peephole, gains, all;  // numbers of each, and from thread to thread

  template <class T>
  Sums(const Loop<T>& loop, int blocks)
      : row(blocks * loop.hidden), peephole(3 * loop.hidden), gains(loop.gain_hh ? 2 * (gates_of(loop) + 1) * loop.hidden : 0),
        all(row + peephole + gains + (loop.gain_hh ? 3 * loop.hidden : 0) + 16) {}
};

template <class T>
class Backward {
 public:
  Backward(const Loop<T>& loop, long rows, Arena& arena)
      : loop_(loop), plan_(loop, true, rows, arena), sums_(loop, plan_.parts.blocks) {
    own_ = Products<T>::scratch(loop, plan_.parts.longest(true));
    lowered_ = arena.take<T>(own_ * plan_.threads);
    for (T** scratch : {&dh_, &unmasked_, &dm_}) *scratch = arena.take<T>(loop.batch * plan_.ldh);
    totals_ = arena.zeros<T>(sums_.all * plan_.threads);
    plan_.ld_hats = loop.ldg;
    plan_.keeps_hats = true;
  }

  // The steps [begin, end) of the loop, from the last to the first.
  void run() {
    plan_.hats = loop_.gates + blocks_of(loop_) * loop_.hidden;
    const long width = loop_.width;
    together(plan_.threads, [&](Member& member) {
      Products<T> products(loop_, plan_.parts.longest(true), lowered_ + own_ * member.slot);
      if (plan_.packs && !ready_) plan_.pack(products, member);
      for (long q = member.index; q < loop_.batch; q += member.count)
        std::memcpy(dh_ + q * plan_.ldh, loop_.dh_state + q * width, width * sizeof(T));
      if (!member.wait()) return;
      if (plan_.by_rows()) {
        for (int group = member.index; group < plan_.threads; group += member.count) {
          Member alone(group, plan_.threads, nullptr);
          for (long s = loop_.end - 1; s >= loop_.begin; s--) step(s, products, alone, true);
        }
      } else {
        for (long s = loop_.end - 1; s >= loop_.begin; s--)
          if (!step(s, products, member, false)) return;
      }
      if (!member.wait()) return;
      for (long q = member.index; q < loop_.batch; q += member.count)
        std::memcpy(loop_.dh_state + q * width, dh_ + q * plan_.ldh, width * sizeof(T));
    });
    ready_ = true;
  }

  // The sums of all threads: a row of biases, then `peephole` and `gains` as `sums` says.
  const T* totals() {
    for (int m = 1; m < plan_.threads; m++)
      for (long u = 0; u < sums_.row + sums_.peephole + sums_.gains; u++) {
        totals_[u] += totals_[m * sums_.all + u];
        totals_[m * sums_.all + u] = 0;
      }
    return totals_;
  }
  const Sums& sums() const { return sums_; }

 private:
  bool step(long s, Products<T>& products, Member& member, bool by_rows) const {
    Step<T> step = plan_.division(s, member.index, by_rows);
    step.dh = dh_;
    step.dm = dm_;
    add_to_sums(step, by_rows ? member.index : 0);  // by units each thread has its own columns
    const int count = plan_.parts.count;
    for (int p = 0; p < count; p++) {
      const Part<T>& part = plan_.parts.part[p];
      const Panels units(part.matrix.columns / kPanel<T>, member, by_rows);
      const long K = long(part.products) * part.matrix.rows;
      const T* gradients = loop_.dgates + (step.at + step.first) * loop_.ldg + part.left_block * loop_.hidden;
      if (part.matrix.weights) products.left(step.rows, gradients, step.stride * loop_.ldg, K, K);
      for (int i = units.from; i < units.to; i++) {
        const int j = units.at(i, s);
        if (part.matrix.weights) multiply(step, products, p, j);
        if (part.equations && !part.groups) part.equations(step, long(j) * kPanel<T>, long(j + 1) * kPanel<T>);
      }
      if (part.groups) {
        if (!by_rows && part.matrix.weights && !member.wait()) return false;
        each_row(step, member, plan_.threads, by_rows, [&](Step<T>& row, int group) {
          if (!by_rows) add_to_sums(row, group);
          part.equations(row, 0, loop_.hidden);
          for (int g = 0; g < part.group_count; g++) normalise_backward(row, part.groups[g]);
        });
      }
      // None after the last, but for whole rows: the next step's first part reads only columns of dh that this thread wrote.
      if (!by_rows && (p + 1 < count || plan_.parts.part[0].groups) && !member.wait()) return false;
    }
    return true;
  }

  // The sums of one group of rows.
  void add_to_sums(Step<T>& step, int group) const {
    step.dbias = totals_ + group * sums_.all;
    step.dpeephole = step.dbias + sums_.row;
    step.dgain = step.dpeephole + sums_.peephole;
    step.cell_row = step.dgain + sums_.gains;
  }

  // Panel j of a part's target.
  void multiply(const Step<T>& step, const Products<T>& products, int p, long j) const {
    const Part<T>& part = plan_.parts.part[p];
    const bool carried = part.target == kHidden, masked = loop_.h_mask && carried;
    T* target = part.target == kGates ? loop_.dgates + (step.at + step.first) * loop_.ldg
                                      : (masked ? unmasked_ : carried ? dh_ : dm_) + step.first * plan_.ldh;
    const long ldc = step.stride * (part.target == kGates ? loop_.ldg : plan_.ldh);
    const bool accumulate = carried && plan_.parts.direct && !masked;
    if (plan_.packs)
      products.into(target + j * kPanel<T>, ldc, plan_.packed[p], j, long(part.products) * part.matrix.rows * kPanel<T>, accumulate);
    else
      products.into_backward(target + j * kPanel<T>, ldc, part, j, accumulate);
    if (masked) through_mask(step, j);
  }

  // Through recurrent dropout, for panel j: the mask stood before the weights.
  void through_mask(const Step<T>& s, long j) const {
    for (int r = 0; r < s.rows; r++) {
      const long q = s.sequence(r);
      for (long u = j * kPanel<T>; u < (j + 1) * kPanel<T>; u++) {
        T through = unmasked_[q * s.ldh + u] * loop_.h_mask[q * loop_.width + u];
        s.dh[q * s.ldh + u] = plan_.parts.direct ? s.dh[q * s.ldh + u] + through : through;
      }
    }
  }

  const Loop<T>& loop_;
  Plan<T> plan_;
  const Sums sums_;
  size_t own_ = 0;
  T *lowered_ = nullptr, *dh_ = nullptr, *unmasked_ = nullptr, *dm_ = nullptr, *totals_ = nullptr;
  bool ready_ = false;
};

}  // namespace tt::THROUGHTIME_ISA
