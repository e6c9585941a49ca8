// One step of a layer, and of the head, from packed weights.
#pragma once
#include "activation.hpp"
#include "generate.h"
#include "generate_product.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr int kWidth = Simd<float>::width;

struct GenerationLayer {
  const tt_generation_layer* given;
  const float* table;  // of the first layer, when it is folded
  const float* x[2];   // [B][ldx] inputs of even and odd steps
  long ldx, ldh;
  float* h[2];         // [B][ldh] read by even and odd steps, written by the others
  float* c;            // [B][padded]

  static int vectors(int64_t cell) { return cell == TT_GRU ? 3 : 4; }
  long units() const { return given->cell == TT_RNN ? 4 * kWidth : kWidth; }  // of a panel
  long row() const { return given->padded / units() * vectors(given->cell) * kWidth; }
};

// Multiplications of one row in one step of some layers.
static inline double products(const tt_generation_layer* layer, int64_t layers) {
  double count = 0;
  for (int64_t l = 0; l < layers; l++) {
    const int gates = layer[l].cell == TT_RNN ? 1 : GenerationLayer::vectors(layer[l].cell);
    count += double(layer[l].inputs + layer[l].hidden) * layer[l].hidden * gates;
  }
  return count;
}

// The units of panel j for rows first .. first + R.
template <class Weights, int Cell, int R>
TT_INLINE void step_units(const GenerationLayer& layer, const int64_t* ids, int side, long j, long first) {
  constexpr int NV = Cell == TT_GRU ? 3 : 4;
  const tt_generation_layer& given = *layer.given;
  const long u = j * layer.units(), ldh = layer.ldh, panel = NV * kWidth;
  const float* h = layer.h[side] + first * ldh;
  float* h_new = layer.h[1 - side] + first * ldh + u;
  float* c = given.c ? layer.c + first * given.padded + u : nullptr;
  Vec<float> a[R][NV], input_n[R];
  for (int r = 0; r < R; r++) {
    const float* row = layer.table ? layer.table + ids[first + r] * layer.row() : given.bias;
    for (int v = 0; v < NV; v++) a[r][v] = load(row + j * panel + v * kWidth);
  }
  if (given.inputs)
    multiply<Weights, R, NV>(layer.x[side] + first * layer.ldx, layer.ldx, given.weight_ih, given.scale_ih, j, given.inputs, a);
  if constexpr (Cell == TT_GRU)
    for (int r = 0; r < R; r++) {
      input_n[r] = a[r][2];
      a[r][2] = load(given.bias_hn + u);
    }
  multiply<Weights, R, NV>(h, ldh, given.weight_hh, given.scale_hh, j, given.hidden, a);
  for (int r = 0; r < R; r++) {
    if constexpr (Cell == TT_LSTM) {
      Vec<float> memory = sigmoid<float>(a[r][1]) * load(c + r * given.padded) + sigmoid<float>(a[r][0]) * tanh<float>(a[r][2]);
      store(c + r * given.padded, memory);
      store(h_new + r * ldh, sigmoid<float>(a[r][3]) * tanh<float>(memory));
    }
    if constexpr (Cell == TT_GRU) {
      Vec<float> n = tanh<float>(input_n[r] + sigmoid<float>(a[r][0]) * a[r][2]);
      store(h_new + r * ldh, n + sigmoid<float>(a[r][1]) * (load(h + r * ldh + u) - n));
    }
    if constexpr (Cell == TT_RNN)
      for (int v = 0; v < NV; v++) {
        Vec<float> s = a[r][v];
        Vec<float> y = given.activation == kTanh      ? activate<kTanh, float>(s)
                       : given.activation == kRelu    ? activate<kRelu, float>(s)
                       : given.activation == kSigmoid ? activate<kSigmoid, float>(s)
                                                      : s;
        store(h_new + r * ldh + v * kWidth, y);
      }
  }
}

// What one thread does: some rows of all units, or some units of all rows.
struct Division {
  long first, count;    // rows
  int member, members;  // of those who divide the panels

  static Division rows(long first, long end) {
    Division division = units(end - first, 0, 1);
    division.first = first;
    return division;
  }
  static Division units(long rows, int member, int members) {
    Division division;
    division.first = 0;
    division.count = rows;
    division.member = member;
    division.members = members;
    return division;
  }

  long from(long panels) const { return panels * member / members; }
  long to(long panels) const { return panels * (member + 1) / members; }
};

template <class Weights, int Cell>
static void step_layer(const GenerationLayer& layer, const int64_t* ids, long step, const Division& division) {
  // Three sums for each row leave registers for more rows; rounded weights need some to be widened in.
  constexpr int most = Cell == TT_GRU && Weights::parts == 1 && kManyRegisters ? 8 : kStepRows;
  const long panels = layer.given->padded / layer.units(), from = division.from(panels), to = division.to(panels);
  for (long i = from; i < to; i++) {
    long j = step & 1 ? from + to - 1 - i : i;  // back and forth: the last panels are still in the cache
    in_tiles<most>(division.first, division.count, [&](auto rows, long first) __attribute__((always_inline)) {
      step_units<Weights, Cell, decltype(rows)::value>(layer, ids, int(step & 1), j, first);
    });
  }
}

template <class Weights>
static void step_head(const tt_generation& call, const GenerationLayer& last, long step, long padded, const Division& division) {
  constexpr long P = 4 * kWidth;
  const long K = last.given->hidden, panels = padded / P, from = division.from(panels), to = division.to(panels);
  for (long i = from; i < to; i++) {
    long j = step & 1 ? from + to - 1 - i : i;
    in_tiles(division.first, division.count, [&](auto rows, long first) __attribute__((always_inline)) {
      constexpr int R = decltype(rows)::value;
      Vec<float> sum[R][4];
      for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) sum[r][v] = load(call.head_bias + j * P + v * kWidth);
      const float* h = last.h[1 - (step & 1)] + first * last.ldh;
      multiply<Weights, R, 4>(h, last.ldh, call.head_weight, call.head_scale, j, K, sum);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) store(call.logits + (first + r) * padded + j * P + v * kWidth, sum[r][v]);
    });
  }
}

// All layers of a step, and `pause` after each, which may change the division; false as soon as it is false.
template <class Weights, class Pause>
static bool step_layers(const tt_generation& call, const GenerationLayer* layers, const int64_t* ids, long step,
                        const Division& division, Pause&& pause) {
  for (int64_t l = 0; l < call.layers; l++) {
    const int64_t cell = layers[l].given->cell;
    if (cell == TT_LSTM) step_layer<Weights, TT_LSTM>(layers[l], ids, step, division);
    if (cell == TT_GRU) step_layer<Weights, TT_GRU>(layers[l], ids, step, division);
    if (cell == TT_RNN) step_layer<Weights, TT_RNN>(layers[l], ids, step, division);
    if (!pause()) return false;
  }
  return true;
}

}  // namespace tt::THROUGHTIME_ISA
