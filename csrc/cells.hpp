// Each cell as the parts of a step: which products it waits for, and the equations that follow them.
#pragma once
#include <algorithm>

#include "cells_gru.hpp"
#include "cells_lstm.hpp"
#include "cells_rnn.hpp"

namespace tt::THROUGHTIME_ISA {

// Which gate's columns a panel of recurrent weights feeds, and whether they hold the input projection already.
struct Gate {
  int weight_block;  // block of H rows in the weights
  int column_block;  // block of H columns in a row of gates
  bool accumulate;
};

static const Gate kRnnGates[] = {{0, 0, true}};
static const Gate kGruGates[] = {{2, 0, false}, {0, 1, true}, {1, 2, true}};  // hn, r, z
static const Gate kResetGates[] = {{0, 1, true}, {1, 2, true}};               // r, z
static const Gate kCandidateGates[] = {{2, 3, true}};
static const Gate kLstmGates[] = {{0, 0, true}, {1, 1, true}, {2, 2, true}, {3, 3, true}};
static const Gate kProjection[] = {{0, 0, false}};

// As in src/throughtime/cells: a GRU's candidate is normalised by itself.
static const Group kRnnNorm[] = {{0, 1, 0, 0}};
static const Group kGruNorm[] = {{0, 2, 1, 1}, {2, 1, 0, 3}};  // r and z, n
static const Group kResetNorm[] = {{0, 2, 1, 1}};
static const Group kCandidateNorm[] = {{2, 1, 3, 3}};
static const Group kLstmNorm[] = {{0, 4, 0, 0}};

enum Place {
  kHidden,      // forward: the recurrent input; backward: the gradient carried on
  kGates,       // a row of gates or dgates, from some block on
  kOutput,      // forward: y
  kProjected,   // backward: the gradient of what is projected
};

// Forward: for every gate, target = left W^T. Backward: target = left W, the gates' blocks side by side in `left`.
template <class T>
struct Part {
  Matrix matrix;           // of weights, a block for each gate; without weights for equations alone
  const Gate* gates;
  int products;
  Place left;
  int left_block;          // with kGates
  Place target;
  Equations<T> equations;  // or null
  // With layer norm: what is normalised before the equations, backward after them. They are then given whole rows.
  const Group* groups = nullptr;
  int group_count = 0;
};

template <class T>
struct Parts {
  Part<T> part[3];
  int count;
  int products;   // of H x H, for the cost of a step
  int blocks;     // of H numbers in a row of biases
  bool direct;    // backward: part of dh goes on without the weights

  // The largest K of a product.
  long longest(bool back) const {
    long most = 0;
    for (int p = 0; p < count; p++) {
      const Part<T>& it = part[p];
      most = std::max(most, back ? long(it.products) * it.matrix.rows : long(it.matrix.columns));
    }
    return most;
  }
};

template <bool Zone, class T>
static Equations<T> rnn_equations(int64_t activation, bool back) {
  static const Equations<T> all[2][4] = {
      {rnn_forward<kTanh, Zone, T>, rnn_forward<kRelu, Zone, T>, rnn_forward<kSigmoid, Zone, T>, rnn_forward<kIdentity, Zone, T>},
      {rnn_backward<kTanh, Zone, T>, rnn_backward<kRelu, Zone, T>, rnn_backward<kSigmoid, Zone, T>,
       rnn_backward<kIdentity, Zone, T>}};
  return all[back][activation];
}

template <bool Zone, bool Project, bool Norm, class T>
static Equations<T> lstm_equations(bool peepholes, bool back) {
  if (back) return peepholes ? lstm_backward<true, Zone, Project, Norm, T> : lstm_backward<false, Zone, Project, Norm, T>;
  return peepholes ? lstm_forward<true, Zone, Project, Norm, T> : lstm_forward<false, Zone, Project, Norm, T>;
}

template <bool Zone, bool Project, class T>
static Equations<T> lstm_equations(const Loop<T>& loop, bool back) {
  return loop.gain_hh ? lstm_equations<Zone, Project, true, T>(loop.peephole, back)
                      : lstm_equations<Zone, Project, false, T>(loop.peephole, back);
}

template <bool Zone, class T>
static Parts<T> forward_parts(const Loop<T>& loop) {
  const int H = int(loop.hidden), width = int(loop.width), units = int(loop.units), columns = int(loop.columns);
  const Matrix w{loop.weight_hh, H, width, units, columns}, w_hr{loop.weight_hr, width, H, columns, units};
  if (loop.cell == TT_LSTM && loop.weight_hr)
    return {{{w, kLstmGates, 4, kHidden, 0, kGates, lstm_equations<Zone, true, T>(loop, false)},
             {w_hr, kProjection, 1, kGates, 4, kOutput, projection_forward<Zone, T>}},
            2, 5, 4, Zone};
  if (loop.cell == TT_LSTM)
    return {{{w, kLstmGates, 4, kHidden, 0, kGates, lstm_equations<Zone, false, T>(loop, false)}}, 1, 4, 4, Zone};
  if (loop.cell == TT_GRU && loop.reset_before)
    return {{{w, kResetGates, 2, kHidden, 0, kGates, gru_reset_forward<T>},
             {w, kCandidateGates, 1, kGates, 0, kGates, gru_candidate_forward<Zone, T>}},
            2, 3, 4, true};
  if (loop.cell == TT_GRU) return {{{w, kGruGates, 3, kHidden, 0, kGates, gru_forward<Zone, T>}}, 1, 3, 4, true};
  return {{{w, kRnnGates, 1, kHidden, 0, kGates, rnn_equations<Zone, T>(loop.activation, false)}}, 1, 1, 1, Zone};
}

template <bool Zone, class T>
static Parts<T> backward_parts(const Loop<T>& loop) {
  const int H = int(loop.hidden), width = int(loop.width), units = int(loop.units), columns = int(loop.columns);
  const Matrix w{loop.weight_hh, H, width, units, columns}, w_hr{loop.weight_hr, width, H, columns, units};
  if (loop.cell == TT_LSTM && loop.weight_hr)
    return {{{{nullptr, 0, width, 0, 0}, nullptr, 0, kHidden, 0, kHidden, projection_backward<Zone, T>},
             {w_hr, kProjection, 1, kGates, 4, kProjected, lstm_equations<Zone, true, T>(loop, true)},
             {w, kLstmGates, 4, kGates, 0, kHidden, nullptr}},
            3, 5, 4, Zone};
  if (loop.cell == TT_LSTM)
    return {{{{nullptr, 0, H, 0, 0}, nullptr, 0, kHidden, 0, kHidden, lstm_equations<Zone, false, T>(loop, true)},
             {w, kLstmGates, 4, kGates, 0, kHidden, nullptr}},
            2, 4, 4, Zone};
  if (loop.cell == TT_GRU && loop.reset_before)
    return {{{{nullptr, 0, H, 0, 0}, nullptr, 0, kHidden, 0, kHidden, gru_candidate_backward<Zone, T>},
             {w, kCandidateGates, 1, kGates, 3, kGates, gru_reset_backward<T>},
             {w, kResetGates, 2, kGates, 1, kHidden, nullptr}},
            3, 3, 4, true};
  if (loop.cell == TT_GRU)
    return {{{{nullptr, 0, H, 0, 0}, nullptr, 0, kHidden, 0, kHidden, gru_backward<Zone, T>},
             {w, kGruGates, 3, kGates, 0, kHidden, nullptr}},
            2, 3, 4, true};
  return {{{{nullptr, 0, H, 0, 0}, nullptr, 0, kHidden, 0, kHidden, rnn_equations<Zone, T>(loop.activation, true)},
           {w, kRnnGates, 1, kGates, 0, kHidden, nullptr}},
          2, 1, 1, Zone};
}

// Layer norm's place in the parts of a step.
template <class T>
static void normalised(Parts<T>& parts, const Loop<T>& loop, bool back) {
  auto add = [&](int p, const Group* groups, int count = 1) {
    parts.part[p].groups = groups;
    parts.part[p].group_count = count;
  };
  if (loop.cell == TT_RNN) add(0, kRnnNorm);
  if (loop.cell == TT_LSTM) add(back && loop.weight_hr ? 1 : 0, kLstmNorm);
  if (loop.cell == TT_GRU && !loop.reset_before) add(0, kGruNorm, 2);
  if (loop.cell == TT_GRU && loop.reset_before) {
    add(back ? 1 : 0, kResetNorm);
    add(back ? 0 : 1, kCandidateNorm);
  }
}

template <class T>
static Parts<T> parts_of(const Loop<T>& loop, bool back) {
  Parts<T> parts = loop.zoneout ? (back ? backward_parts<true, T>(loop) : forward_parts<true, T>(loop))
                                : (back ? backward_parts<false, T>(loop) : forward_parts<false, T>(loop));
  if (loop.gain_hh) normalised(parts, loop, back);
  return parts;
}

}  // namespace tt::THROUGHTIME_ISA
