// The loop of generation: draw, all layers, head, for many symbols in one call. Compiled once for every instruction set.
//
// With one row a step is a product of matrices and a vector, and its floor is reading the weights: threads divide the units,
// with a barrier after each layer, where that is worth a barrier. Many rows of a small model are divided instead.
#include <atomic>
#include <memory>
#include <new>

#include "generate_product.hpp"
#include "sampling.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr int kWidth = Simd<float>::width;
constexpr int64_t kFine = std::numeric_limits<int64_t>::max();

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

template <int R>
TT_INLINE void store_rows(float* out, long ld, const Vec<float> (&values)[R]) {
  for (int r = 0; r < R; r++) store(out + r * ld, values[r]);
}

// The units of panel j for rows first .. first + R.
template <int Cell, int R>
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
    multiply<R, NV>(layer.x[side] + first * layer.ldx, layer.ldx, given.weight_ih + j * given.inputs * panel, given.inputs, a);
  if constexpr (Cell == TT_GRU)
    for (int r = 0; r < R; r++) {
      input_n[r] = a[r][2];
      a[r][2] = load(given.bias_hn + u);
    }
  multiply<R, NV>(h, ldh, given.weight_hh + j * given.hidden * panel, given.hidden, a);
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
struct Share {
  long first, rows;
  int member, members;  // of those who divide the panels

  long from(long panels) const { return panels * member / members; }
  long to(long panels) const { return panels * (member + 1) / members; }
};

template <int Cell>
static void step_layer(const GenerationLayer& layer, const int64_t* ids, long step, const Share& share) {
  const long panels = layer.given->padded / layer.units(), from = share.from(panels), to = share.to(panels);
  for (long i = from; i < to; i++) {
    long j = step & 1 ? from + to - 1 - i : i;  // back and forth: the last panels are still in the cache
    in_tiles(share.first, share.rows, [&](auto rows, long first) __attribute__((always_inline)) {
      step_units<Cell, decltype(rows)::value>(layer, ids, int(step & 1), j, first);
    });
  }
}

static void step_head(const tt_generation& call, const GenerationLayer& last, long step, long padded, const Share& share) {
  constexpr long P = 4 * kWidth;
  const long K = last.given->hidden, panels = padded / P, from = share.from(panels), to = share.to(panels);
  for (long i = from; i < to; i++) {
    long j = step & 1 ? from + to - 1 - i : i;
    in_tiles(share.first, share.rows, [&](auto rows, long first) __attribute__((always_inline)) {
      constexpr int R = decltype(rows)::value;
      Vec<float> sum[R][4];
      for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) sum[r][v] = load(call.head_bias + j * P + v * kWidth);
      multiply<R, 4>(last.h[1 - (step & 1)] + first * last.ldh, last.ldh, call.head_weight + j * K * P, K, sum);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) store(call.logits + (first + r) * padded + j * P + v * kWidth, sum[r][v]);
    });
  }
}

template <class T>
using Buffer = std::unique_ptr<T[]>;

template <class T>
static Buffer<T> zeros(size_t count) {
  return Buffer<T>(new (std::nothrow) T[count]());
}

static double products_of_a_step(const tt_generation& call) {
  double count = double(call.symbols) * call.layer[call.layers - 1].hidden;
  for (int64_t l = 0; l < call.layers; l++)
    count += double(call.layer[l].inputs + call.layer[l].hidden) * call.layer[l].hidden *
             (call.layer[l].cell == TT_RNN ? 1 : GenerationLayer::vectors(call.layer[l].cell));
  return count;
}

static int generate(tt_generation& call) {
  const long B = call.batch, padded = (call.symbols + kLogitBlock - 1) / kLogitBlock * kLogitBlock;
  const double products = products_of_a_step(call);
  // Rows alone need no barrier, but every thread then reads all weights; a row's stop must be seen by all.
  const bool by_rows = call.stop_count == 0 && B >= 4 * call.threads && products <= 262144;
  const bool worth = by_rows ? products * B * call.tokens >= 1e6 : products * B >= 1.5e5;
  const int wanted = call.threads > 1 && worth ? int(call.threads) : 1;

  long state = 0;
  for (int64_t l = 0; l < call.layers; l++) state += B * (2 * (call.layer[l].padded + 16) + call.layer[l].padded);
  const long features = call.table ? 0 : call.layer[0].inputs;
  auto numbers = zeros<float>(size_t(state) + B * features + wanted * Sampler::floats(padded));
  auto wide = zeros<double>(size_t(wanted) * Sampler::doubles(padded));
  auto order = zeros<int64_t>(size_t(wanted) * padded), ids = zeros<int64_t>(B);
  auto layers = zeros<GenerationLayer>(call.layers);
  if (!numbers || !wide || !order || !ids || !layers) return TT_NO_MEMORY;

  float *place = numbers.get(), *x = place + state, *scratch = x + B * features;
  for (int64_t l = 0; l < call.layers; l++) {
    const tt_generation_layer& given = call.layer[l];
    const long ldh = given.padded + 16;
    float* h[2] = {place, place + B * ldh};
    layers[l] = {&given, nullptr, {x, x}, features, ldh, {h[0], h[1]}, place + 2 * B * ldh};
    if (l == 0)
      layers[l].table = call.table;
    else {  // a step reads what the layer before has just written
      layers[l].x[0] = layers[l - 1].h[1];
      layers[l].x[1] = layers[l - 1].h[0];
      layers[l].ldx = layers[l - 1].ldh;
    }
    for (long r = 0; r < B; r++) std::copy_n(given.h + r * given.padded, given.padded, h[0] + r * ldh);
    if (given.c) std::copy_n(given.c, B * given.padded, layers[l].c);
    place += B * (2 * ldh + given.padded);
  }
  std::atomic<int64_t> failure{kFine};  // 4 * step + status of the first
  std::atomic<bool> short_handed{false};
  Barrier barrier(wanted);
  int64_t done = 0;

  auto work = [&](int member, int members) {
    if (members != wanted) {  // a nested region: fewer threads than the barrier waits for
      short_handed = true;
      return;
    }
    const bool rows_apart = by_rows || members == 1;
    const long first = B * member / members, end = B * (member + 1) / members;
    const Share share = rows_apart ? Share{first, end - first, 0, 1} : Share{0, B, member, members};
    Sampler sampler(call, padded, scratch + member * Sampler::floats(padded), wide.get() + member * Sampler::doubles(padded),
                    order.get() + member * padded);
    const int64_t* stops_end = call.stops + call.stop_count;
    int round = 0;
    long step = 0;
    for (; step < call.tokens; step++) {
      for (long r = first; r < end; r++) {
        int64_t& out = call.ids[step * B + r];
        int64_t id = step < call.given ? out : sampler.draw(call.logits + r * padded, call.position + step, r);
        if (id < 0) {
          int64_t code = 4 * step - id, other = failure.load();
          while (code < other && !failure.compare_exchange_weak(other, code)) {
          }
          break;
        }
        if (step >= call.given) {
          out = call.finished[r] ? -1 : id;
          call.finished[r] |= std::find(call.stops, stops_end, id) != stops_end;
        }
        ids[r] = id;
        if (features) std::copy_n(call.embedding + id * features, features, x + r * features);
      }
      if (!rows_apart) barrier.wait(round);
      if (failure.load() / 4 <= step) break;  // not at another thread's failure in a later step: the first one counts
      const bool last = call.stop_count && std::find(call.finished, call.finished + B, 0) == call.finished + B;
      for (int64_t l = 0; l < call.layers; l++) {
        const int64_t cell = layers[l].given->cell;
        if (cell == TT_LSTM) step_layer<TT_LSTM>(layers[l], ids.get(), step, share);
        if (cell == TT_GRU) step_layer<TT_GRU>(layers[l], ids.get(), step, share);
        if (cell == TT_RNN) step_layer<TT_RNN>(layers[l], ids.get(), step, share);
        if (!rows_apart) barrier.wait(round);
      }
      if (step + 1 >= call.given) {
        step_head(call, layers[call.layers - 1], step, padded, share);
        if (!rows_apart) barrier.wait(round);
      }
      if (last) {
        step++;
        break;
      }
    }
    if (member == 0) done = step;
  };
  together(wanted, work);
  if (short_handed) {
    call.threads = 1;
    return generate(call);
  }
  if (failure != kFine) {
    call.done = failure / 4;
    return int(failure % 4);
  }
  call.done = done;
  for (int64_t l = 0; l < call.layers; l++) {
    const GenerationLayer& layer = layers[l];
    const long H = layer.given->padded;
    for (long r = 0; r < B; r++) std::copy_n(layer.h[done & 1] + r * layer.ldh, H, layer.given->h + r * H);
    if (layer.given->c) std::copy_n(layer.c, B * H, layer.given->c);
  }
  return TT_DONE;
}

}  // namespace tt::THROUGHTIME_ISA

#define TT_JOIN_(a, b) a##_##b
#define TT_JOIN(a, b) TT_JOIN_(a, b)
#define TT_NAME(base) TT_JOIN(base, THROUGHTIME_ISA)

extern "C" {
int TT_NAME(tt_generate)(tt_generation* call) { return tt::THROUGHTIME_ISA::generate(*call); }
int TT_NAME(tt_generation_width)() { return tt::THROUGHTIME_ISA::kWidth; }
}
