// The caller's small tensors padded to whole panels, and the gradients on their way back.
//
// What has one row for every sequence or for every gate is copied; where nothing must be padded, states are used where they lie.
#pragma once
#include <cstring>
#include <deque>

#include "call.h"
#include "scratch.hpp"
#include "step.hpp"

namespace tt::THROUGHTIME_ISA {

// Where in a row of gates (in blocks) each gate of the two biases goes: GRU r | z | n, the others as they come.
static inline int bias_block(const tt_call& call, int gate) { return call.cell == TT_GRU ? gate + 1 : gate; }

template <class T>
class Padded {
 public:
  tt_call call;  // with padded tensors

  explicit Padded(const tt_call& given) : call(given), given_(given) {
    const long B = call.batch, units = call.units, columns = call.columns, H = call.hidden, P = call.width;
    call.h0 = widen(given.h0, B, columns, P);
    call.c0 = widen(given.c0, B, units, H);
    call.h_mask = widen(given.h_mask, B, columns, P);
    call.peephole = widen(given.peephole, 3, units, H);
    call.gain_ih = widen(given.gain_ih, gates_of(call), units, H);
    call.gain_hh = widen(given.gain_hh, gates_of(call), units, H);
    call.gain_c = widen(given.gain_c, 1, units, H);
    call.bias_c = widen(given.bias_c, 1, units, H);
    call.h_state = state(given.h_state, given.h0, call.begin == 0, B, columns, P);
    call.c_state = state(given.c_state, given.c0, call.begin == 0, B, units, H);
    call.dh_state = state(given.dh_state, given.dh_final, call.end == call.steps, B, columns, P);
    call.dc_state = state(given.dc_state, given.dc_final, call.end == call.steps, B, units, H);
    if (given.y_before) std::memcpy(given.y_before, call.h0, sizeof(T) * B * P);
  }

  bool complete() const { return complete_; }

  // One row of gates of both biases together; a GRU's b_hn stays apart where it is inside the reset. Null without biases.
  const T* bias() {
    if (!given_.bias_ih) return nullptr;
    const long units = call.units, H = call.hidden;
    T* row = fresh(4 * H);
    if (!row) return nullptr;
    std::memset(row, 0, sizeof(T) * 4 * H);
    const T *ih = static_cast<const T*>(given_.bias_ih), *hh = static_cast<const T*>(given_.bias_hh);
    for (int g = 0; g < gates_of(call); g++)
      for (long u = 0; u < units; u++) row[bias_block(call, g) * H + u] = ih[g * units + u] + (apart(g) ? T(0) : hh[g * units + u]);
    for (long u = 0; apart(2) && u < units; u++) row[u] = hh[2 * units + u];
    return row;
  }

  // Final states go back to the caller.
  void give_states() const {
    narrow(call.h_state, given_.h_state, call.columns, call.width);
    narrow(call.c_state, given_.c_state, call.units, call.hidden);
    narrow(call.dh_state, given_.dh_state, call.columns, call.width);
    narrow(call.dc_state, given_.dc_state, call.units, call.hidden);
  }

  // `row` holds the sums of one row of gates, `peephole` those of its weights, `gains` those of layer norm (Step::dgain).
  void add_gradients(const T* row, const T* peephole, const T* gains) const {
    const long units = call.units, H = call.hidden;
    T *ih = static_cast<T*>(given_.dbias_ih), *hh = static_cast<T*>(given_.dbias_hh);
    for (int g = 0; ih && g < gates_of(call); g++)
      for (long u = 0; u < units; u++) {
        ih[g * units + u] += row[bias_block(call, g) * H + u];
        hh[g * units + u] += row[(apart(g) ? 0 : bias_block(call, g) * H) + u];
      }
    auto add = [&](void* to, const T* from, int blocks) {
      for (int g = 0; to && g < blocks; g++)
        for (long u = 0; u < units; u++) static_cast<T*>(to)[g * units + u] += from[g * H + u];
    };
    const int gates = gates_of(call);
    add(given_.dpeephole, peephole, 3);
    add(given_.dgain_hh, gains, gates);
    add(given_.dgain_ih, gains + gates * H, gates);
    add(given_.dgain_c, gains + 2 * gates * H, 1);
    add(given_.dbias_c, gains + (2 * gates + 1) * H, 1);
  }

 private:
  bool apart(int gate) const { return gate == 2 && call.cell == TT_GRU && !call.reset_before; }

  T* fresh(size_t count) {
    memory_.emplace_back(count);
    complete_ = complete_ && memory_.back().get();
    return memory_.back().get();
  }

  const void* widen(const void* from, long rows, long columns, long padded) {
    if (!from || columns == padded) return from;
    T* to = fresh(rows * padded);
    if (to) fill(to, from, rows, columns, padded);
    return to;
  }

  // What is carried from piece to piece: at the first one it starts from `initial`, or from zero.
  void* state(void* carried, const void* initial, bool first, long rows, long columns, long padded) {
    if (!carried) return nullptr;
    T* to = columns == padded ? static_cast<T*>(carried) : fresh(rows * padded);
    if (to && first && !initial)
      std::memset(to, 0, sizeof(T) * rows * padded);
    else if (to && (first || to != carried))
      fill(to, first ? initial : carried, rows, columns, padded);
    return to;
  }

  static void fill(T* to, const void* from, long rows, long columns, long padded) {
    for (long r = 0; r < rows; r++) {
      std::memcpy(to + r * padded, static_cast<const T*>(from) + r * columns, sizeof(T) * columns);
      std::memset(to + r * padded + columns, 0, sizeof(T) * (padded - columns));
    }
  }

  void narrow(const void* from, void* to, long columns, long padded) const {
    for (long r = 0; to && to != from && r < call.batch; r++)
      std::memcpy(static_cast<T*>(to) + r * columns, static_cast<const T*>(from) + r * padded, sizeof(T) * columns);
  }

  const tt_call& given_;
  std::deque<Scratch<T>> memory_;
  bool complete_ = true;
};

}  // namespace tt::THROUGHTIME_ISA
