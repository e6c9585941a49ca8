// How a loop over time is divided: the running order of the steps, each thread's rows or units, and where the packed weights lie.
#pragma once
#include "arena.hpp"
#include "products.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr long kCoreCache = 2 << 20;   // bytes, about the second level of today's processors

// Whether weights that `rows` rows are multiplied by in a call, over K numbers, are packed first. Measured with AVX-512: packing pays from
// about 4 rows of K = 32, 16 of 128 and 24 of 512, since a product without it ends with the sum of each register.
constexpr long kUnpackedRows = 24;
static inline bool pays_to_pack(long rows, long K) { return rows > (K / 8 < kUnpackedRows ? K / 8 : kUnpackedRows); }

// The running order of the steps, the rows of each, and what each thread does.
template <class T>
struct Plan {
  const Loop<T>& loop;
  const bool back;
  const Parts<T> parts;
  const long ldh;  // a row of scratch: padded past a power of two, whose multiples would compete for the same cache lines
  const int panels;
  const bool packs;
  const int threads;
  T* packed[3] = {};        // the weights of each part
  T* hats = nullptr;        // with layer norm: its rows, one for every row of gates, or the same at every step
  bool keeps_hats = false;
  long ld_hats = 0;

  Plan(const Loop<T>& l, bool backward, long rows, Arena& arena)
      : loop(l), back(backward), parts(parts_of<T>(l, backward)), ldh(l.hidden + 16), panels(int(l.hidden / kPanel<T>)),
        packs(must_pack() || pays_to_pack(rows, l.columns)), threads(useful_threads()) {
    for (int p = 0; p < parts.count && packs; p++)
      if (parts.part[p].matrix.weights) packed[p] = arena.take<T>(size(parts.part[p]));
  }

  long step(long s) const { return loop.reverse ? loop.steps - 1 - s : s; }
  long rows(long s) const { return s < 0 || s >= loop.steps ? 0 : loop.offsets[step(s) + 1] - loop.offsets[step(s)]; }
  long at(long s) const { return s < 0 ? 0 : loop.offsets[step(s)]; }

  // Whether `threads` groups of rows run through time by themselves; else units are divided. One thread alone runs one group after the
  // other: the order of every sum is the same whether or not a thread was missing.
  bool by_rows() const {
    if (threads == 1) return true;
    if (loop.split) return loop.split == 1;
    if (panels < threads) return true;
    // Weights that leave the cache of a core are read by every thread at every step: with few rows each, better half of them each.
    const long weights = long(loop.hidden) * loop.width * gates_of(loop) * sizeof(T);
    return loop.batch >= (weights > kCoreCache ? 17 : 8) * threads;
  }

  // What the equations of a step see: the rows of one group, or all.
  Step<T> division(long s, int group, bool by_rows) const {
    int all = int(rows(s)), first = by_rows ? group : 0, stride = by_rows ? threads : 1;
    int mine = all > first ? (all - first + stride - 1) / stride : 0;
    Step<T> step{loop, mine, first, stride, at(s), at(s - 1), int(rows(s - 1)), ldh};
    step.weight_gates = gates_of(loop);
    step.inputs_block = blocks_of(loop);
    step.hats = hats;
    step.ld_hats = ld_hats;
    step.hats_at = keeps_hats ? step.at : 0;
    if (back && loop.carry_scale && s + 1 < loop.steps) {
      step.carry = T(loop.carry_scale[this->step(s + 1)]);
      step.rows_after = int(rows(s + 1));
    }
    return step;
  }

  // Packs this thread's panels of all weights.
  void pack(Products<T>& products, const Member& member) const {
    for (int p = 0; p < parts.count; p++) {
      const Part<T>& part = parts.part[p];
      const Matrix& matrix = part.matrix;
      const long columns = (back ? matrix.columns : matrix.rows) / kPanel<T>, panel = long(back ? matrix.rows : matrix.columns) * kPanel<T>;
      for (int j = member.index; matrix.weights && j < columns; j += member.count)
        for (int g = 0; g < part.products; g++) {
          const int block = part.gates[g].weight_block;
          products.pack(packed[p], long(j) * part.products + g, panel,
                        [&](T* to) { back ? pack_columns(matrix, block, j, to) : pack_rows(matrix, block, j, to); });
        }
    }
  }

 private:
  static size_t size(const Part<T>& part) { return size_t(part.matrix.rows) * part.matrix.columns * part.products; }

  // Backward reads whole panels of columns.
  bool must_pack() const {
    bool must = std::is_same_v<T, float> && loop.bf16 != TT_BF16_OFF;
    for (int p = 0; p < parts.count && back; p++) must = must || parts.part[p].matrix.real_columns % kPanel<T>;
    return must;
  }

  // Threads that divide the units meet at each step (0.2 us, far more on a busy machine), those that divide the rows once; both are
  // woken first.
  int useful_threads() const {
    const double step = 2.0 * loop.batch * loop.hidden * loop.width * parts.products, all = step * loop.steps;
    const bool rows = loop.split ? loop.split == 1 : loop.batch >= 8 * loop.threads;
    return loop.threads > 1 && all >= 4e6 && (rows || step >= 2e5) ? int(loop.threads) : 1;
  }
};

// The rows of a step one at a time, as work(row, group): all of a group that has rows of its own, else those of each of the thread's groups.
template <class T, class Work>
static void each_row(const Step<T>& step, const Member& member, int groups, bool by_rows, Work&& work) {
  Step<T> row = step;
  row.rows = 1;
  for (int g = by_rows ? 0 : member.index; g < (by_rows ? 1 : groups); g += member.count)
    for (int r = g; r < step.rows; r += by_rows ? 1 : groups) {
      row.first = step.sequence(r);
      work(row, g);
    }
}

// The panels of one part that belong to a thread.
struct Panels {
  int from, to;

  Panels(int panels, const Member& member, bool by_rows)
      : from(by_rows ? 0 : panels * member.index / member.count), to(by_rows ? panels : panels * (member.index + 1) / member.count) {}

  // Back and forth from step to step: the last panels are still in the cache.
  int at(int i, long step) const { return step & 1 ? from + to - 1 - i : i; }
};

}  // namespace tt::THROUGHTIME_ISA
