// One recurrence over a whole sequence, forward and backward. Compiled once for every instruction set.
//
// The big products over all steps (input projection, dW, dx) are the caller's; here is only what must wait for the state.
// Work is divided by rows where there are enough of them (each thread then runs through time alone), else by units (a
// barrier after each part of a step). With ragged lengths the rows of a step are dealt out in turn, so no thread is left with the short ones.
#include "padded.hpp"
#include "plan.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
static int forward(const tt_call& given, int threads) {
  Padded<T> padded(given);
  const tt_call& call = padded.call;
  Plan<T> plan(call);
  plan.bias = padded.bias();
  const Parts<T> parts = parts_of<T>(call, false);
  const long B = call.batch, width = call.width;
  Weights<T> weights(parts, call.packed);
  // With layer norm: each thread's row of memory, and a row of hats for each sequence where none is kept.
  const long H = call.hidden, ld_hats = 2 * gates_of(call) * H + 16;
  Scratch<T> state(2 * B * plan.ldh), rows(call.gain_hh ? 3 * H * threads + (call.training ? 0 : B * ld_hats) : 0);
  const int members_wanted = useful_threads(call, threads, parts.products);
  const size_t own = Products<T>::scratch(call, parts.longest(false));
  Scratch<T> lowered(own * members_wanted);
  if (!padded.complete() || !weights.get(0) || !state.get() || !rows.get() || !lowered.get()) return 1;
  if (call.gain_hh && call.training) plan.keep_hats();
  if (call.gain_hh && !call.training) plan.forget_hats(rows.get() + 3 * H * threads, ld_hats);
  T* h[2] = {state.get(), state.get() + B * plan.ldh};
  Barrier barrier(members_wanted);
  std::atomic<bool> short_handed{false};

  auto work = [&](int member, int members) {
    if (members != members_wanted) {  // a nested region: fewer threads than the barrier waits for
      short_handed = true;
      return;
    }
    int round = 0;
    const bool by_rows = plan.by_rows(members);
    Products<T> products(call, parts.longest(false), lowered.get() + own * member);
    for (int p = 0; p < parts.count && !call.packed_ready; p++) {
      const Part<T>& part = parts.part[p];
      const long panel = long(part.matrix.columns) * kPanel<T>;
      for (int j = member; j < part.matrix.rows / kPanel<T>; j += members)
        for (int g = 0; g < part.products; g++)
          products.pack(weights.get(p), long(j) * part.products + g, panel,
                        [&](T* to) { pack_rows(part.matrix, part.gates[g].weight_block, j, to); });
    }
    for (long q = member; q < B; q += members)
      for (int side = 0; side < 2; side++)
        for (long u = 0; u < width; u++) {
          T value = static_cast<const T*>(call.h_state)[q * width + u];
          h[side][q * plan.ldh + u] = call.h_mask ? value * static_cast<const T*>(call.h_mask)[q * width + u] : value;
        }
    if (members > 1) barrier.wait(round);
    for (long s = call.begin; s < call.end; s++) {
      Step<T> step = plan.share(s, member, members, by_rows);
      step.memory = call.gain_hh ? rows.get() + member * 3 * H : nullptr;
      step.h_read = h[s & 1];
      step.h_write = h[(s + 1) & 1];
      T* gates = static_cast<T*>(call.gates) + (step.at + step.first) * call.ldg;
      T* outputs = static_cast<T*>(call.y) + (step.at + step.first) * width;
      T* hats = step.hats + (step.hats_at + step.first) * step.ld_hats;
      for (int p = 0; p < parts.count; p++) {
        const Part<T>& part = parts.part[p];
        const Share units(part.matrix.rows / kPanel<T>, member, members, by_rows);
        const long panel = long(part.matrix.columns) * kPanel<T>;
        const T* left = part.left == kHidden ? step.h_read + step.first * plan.ldh : gates + part.left_block * call.hidden;
        const long lda = step.stride * (part.left == kHidden ? plan.ldh : call.ldg);
        const bool normed = part.groups;
        const long ldc = step.stride * (part.target == kOutput ? width : normed ? step.ld_hats : call.ldg);
        products.left(step.rows, left, lda, part.matrix.columns, part.matrix.real_columns);
        for (int i = units.from; i < units.to; i++) {
          int j = s & 1 ? units.from + units.to - 1 - i : i;  // back and forth: the last panels are still in the cache
          for (int g = 0; g < part.products; g++) {
            const Gate& gate = part.gates[g];
            T* target = part.target == kOutput ? outputs : normed ? hats + gate.weight_block * H : gates + gate.column_block * H;
            products.into(target + j * kPanel<T>, ldc, weights.get(p), long(j) * part.products + g, panel,
                          gate.accumulate && !normed);
          }
          if (!normed) part.equations(step, long(j) * kPanel<T>, long(j + 1) * kPanel<T>);
        }
        if (normed) {
          if (!by_rows) barrier.wait(round);
          each_row(step, member, members, by_rows, [&](const Step<T>& row) {
            for (int g = 0; g < part.group_count; g++) normalise(row, part.groups[g]);
            part.equations(row, 0, H);
          });
        }
        if (!by_rows) barrier.wait(round);
      }
    }
    if (members > 1 && by_rows) barrier.wait(round);
    // The state of a sequence after the piece is its last step's output; one without steps keeps what it had.
    auto finish = [&](long s, long first) {
      for (long q = first + member; q < plan.rows(s); q += members)
        std::memcpy(static_cast<T*>(call.h_state) + q * width, static_cast<const T*>(call.y) + (plan.at(s) + q) * width,
                    width * sizeof(T));
    };
    if (call.reverse && call.end > call.begin) finish(call.end - 1, 0);
    for (long s = call.begin; s < call.end && !call.reverse; s++) finish(s, plan.rows(s + 1 < call.end ? s + 1 : -1));
  };
  together(members_wanted, work);
  if (short_handed) return forward<T>(given, 1);
  padded.give_states();
  return 0;
}

template <class T>
static int backward(const tt_call& given, int threads) {
  Padded<T> padded(given);
  const tt_call& call = padded.call;
  Plan<T> plan(call);
  if (call.gain_hh) plan.keep_hats();
  const Parts<T> parts = parts_of<T>(call, true);
  const long H = call.hidden, B = call.batch, width = call.width, row = parts.blocks * H;
  const int members_wanted = useful_threads(call, threads, parts.products);
  const long gains = call.gain_hh ? 2 * (gates_of(call) + 1) * H : 0, added = row + 3 * H + gains;
  const long sums = added + (call.gain_hh ? 3 * H : 0) + 16;
  Weights<T> weights(parts, call.packed);
  const size_t own = Products<T>::scratch(call, parts.longest(true));
  Scratch<T> state(3 * B * plan.ldh), totals(size_t(sums) * members_wanted), lowered(own * members_wanted);
  if (!padded.complete() || !weights.get(0) || !state.get() || !totals.get() || !lowered.get()) return 1;
  T *dh = state.get(), *unmasked = dh + B * plan.ldh, *dm = unmasked + B * plan.ldh;
  std::memset(totals.get(), 0, sums * members_wanted * sizeof(T));
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
    Products<T> products(call, parts.longest(true), lowered.get() + own * member);
    for (int p = 0; p < parts.count && !call.packed_ready; p++) {
      const Part<T>& part = parts.part[p];
      const long block = long(part.matrix.rows) * kPanel<T>;
      for (int j = member; part.matrix.weights && j < part.matrix.columns / kPanel<T>; j += members)
        for (int g = 0; g < part.products; g++)
          products.pack(weights.get(p), long(j) * part.products + g, block,
                        [&](T* to) { pack_columns(part.matrix, part.gates[g].weight_block, j, to); });
    }
    for (long q = member; q < B; q += members)
      std::memcpy(dh + q * plan.ldh, static_cast<const T*>(call.dh_state) + q * width, width * sizeof(T));
    if (members > 1) barrier.wait(round);
    for (long s = call.end - 1; s >= call.begin; s--) {
      Step<T> step = plan.share(s, member, members, by_rows);
      step.dh = dh;
      step.dm = dm;
      step.dbias = totals.get() + member * sums;
      step.dpeephole = step.dbias + row;
      step.dgain = step.dpeephole + 3 * H;
      step.memory = step.dgain + gains;
      T* gradients = static_cast<T*>(call.dgates) + (step.at + step.first) * call.ldg;
      for (int p = 0; p < parts.count; p++) {
        const Part<T>& part = parts.part[p];
        const Share units(part.matrix.columns / kPanel<T>, member, members, by_rows);
        const bool carried = part.target == kHidden, masked = mask && carried;
        T* target = part.target == kGates ? gradients : (masked ? unmasked : carried ? dh : dm) + step.first * plan.ldh;
        const long ldc = step.stride * (part.target == kGates ? call.ldg : plan.ldh), K = long(part.products) * part.matrix.rows;
        if (part.matrix.weights) products.left(step.rows, gradients + part.left_block * H, step.stride * call.ldg, K, K);
        for (int i = units.from; i < units.to; i++) {
          int j = s & 1 ? units.from + units.to - 1 - i : i;
          if (part.matrix.weights)
            products.into(target + j * kPanel<T>, ldc, weights.get(p), j, K * kPanel<T>, carried && parts.direct && !mask);
          if (part.matrix.weights && masked) through_mask(step, unmasked, mask, j, parts.direct);
          if (part.equations && !part.groups) part.equations(step, long(j) * kPanel<T>, long(j + 1) * kPanel<T>);
        }
        if (part.groups) {
          if (!by_rows && part.matrix.weights) barrier.wait(round);
          each_row(step, member, members, by_rows, [&](const Step<T>& one) {
            part.equations(one, 0, H);
            for (int g = 0; g < part.group_count; g++) normalise_backward(one, part.groups[g]);
          });
        }
        // None after the last, but for whole rows: the next step's first part reads only columns of dh that this thread wrote.
        if (!by_rows && (p + 1 < parts.count || parts.part[0].groups)) barrier.wait(round);
      }
    }
    if (members > 1) barrier.wait(round);
    for (long q = member; q < B; q += members)
      std::memcpy(static_cast<T*>(call.dh_state) + q * width, dh + q * plan.ldh, width * sizeof(T));
  };
  together(members_wanted, work);
  if (short_handed) return backward<T>(given, 1);
  for (int m = 1; m < members_wanted; m++)
    for (long u = 0; u < added; u++) totals.get()[u] += totals.get()[m * sums + u];
  padded.add_gradients(totals.get(), totals.get() + row, totals.get() + row + 3 * H);
  padded.give_states();
  return 0;
}

// Elements that the packed weights of a call take.
template <class T>
static int64_t packed(const tt_call& call, bool back) {
  return int64_t(Weights<T>::count(parts_of<T>(call, back)));
}

}  // namespace tt::THROUGHTIME_ISA

#define TT_JOIN_(a, b) a##_##b
#define TT_JOIN(a, b) TT_JOIN_(a, b)
#define TT_NAME(base) TT_JOIN(base, THROUGHTIME_ISA)

extern "C" {
int TT_NAME(tt_forward_f32)(const tt_call* call) { return tt::THROUGHTIME_ISA::forward<float>(*call, int(call->threads)); }
int TT_NAME(tt_forward_f64)(const tt_call* call) { return tt::THROUGHTIME_ISA::forward<double>(*call, int(call->threads)); }
int TT_NAME(tt_backward_f32)(const tt_call* call) { return tt::THROUGHTIME_ISA::backward<float>(*call, int(call->threads)); }
int TT_NAME(tt_backward_f64)(const tt_call* call) { return tt::THROUGHTIME_ISA::backward<double>(*call, int(call->threads)); }
int TT_NAME(tt_panel_f32)() { return tt::THROUGHTIME_ISA::kPanel<float>; }
int TT_NAME(tt_panel_f64)() { return tt::THROUGHTIME_ISA::kPanel<double>; }
int64_t TT_NAME(tt_packed_f32)(const tt_call* call, int back) { return tt::THROUGHTIME_ISA::packed<float>(*call, back); }
int64_t TT_NAME(tt_packed_f64)(const tt_call* call, int back) { return tt::THROUGHTIME_ISA::packed<double>(*call, back); }
}
