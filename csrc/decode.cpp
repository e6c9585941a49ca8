// One step of a decoder for many rows: layers, attention, logits, and the best symbols of each row. Compiled once for every
// instruction set.
//
// The states of the parents are gathered, so a search moves no memory itself. Threads divide the units of a product, and the rows of
// attention and of the choice.
#include "decode.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "arena.hpp"
#include "generate_layer.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {
namespace {

constexpr long kPanel = 4 * kWidth, kBlock = 64;  // logits whose largest stands for them while the best of all are looked for
constexpr float kNever = -std::numeric_limits<float>::infinity();

// A number and where it stands; the larger one is before the smaller, and of equal ones the first.
struct Place {
  float value;
  int32_t index;
  bool operator<(const Place& other) const { return value > other.value || (value == other.value && index < other.index); }
};

// The first n of a register's numbers, zeros behind them.
TT_INLINE Vec<float> load_first(const float* p, long n) {
  float values[kWidth] = {};
  std::memcpy(values, p, n * sizeof(float));
  return load(values);
}

// Calls with(first, load) for registers of n numbers, where load(p) reads p[first ...) and zeros behind the end.
template <class With>
TT_INLINE void registers(long n, With&& with) {
  long i = 0;
  for (; i + kWidth <= n; i += kWidth) with(i, [&](const float* p) __attribute__((always_inline)) { return load(p + i); });
  if (i < n) with(i, [&](const float* p) __attribute__((always_inline)) { return load_first(p + i, n - i); });
}

class Decoding {
 public:
  explicit Decoding(const tt_decode& call) : call_(call), rows_(call.rows), top_(call.layer[call.layers - 1]) {
    plan();
    given_ = arena_.take<tt_generation_layer>(call.layers);
    layers_ = arena_.take<GenerationLayer>(call.layers);
    x_ = arena_.take<float>(rows_ * ldx());
    query_ = call.attention == TT_ADDITIVE ? arena_.take<float>(rows_ * ldq()) : nullptr;
    scores_ = arena_.take<float>(threads_ * call.length);
    joined_ = call.attention ? arena_.take<float>(rows_ * ldj()) : nullptr;
    vectors_ = call.attention ? arena_.take<float>(rows_ * ldv()) : nullptr;
    logits_ = call.logits ? call.logits : arena_.take<float>(rows_ * padded());
    found_ = arena_.take<Place>(threads_ * room());
    if (!arena_.complete()) return;
    long place = 0;
    for (int64_t l = 0; l < call.layers && arena_.complete(); l++) place = set_up(l, place);
    fed_ = place;
  }

  bool complete() const { return arena_.complete(); }

  int run() {
    together(threads_, [this](Member& member) { run_member(member); });
    return diverged_.load() ? TT_DIVERGED : TT_DONE;
  }

 private:
  static long up(long count, long to) { return (count + to - 1) / to * to; }
  static void copy(const float* from, long count, float* to) { std::memcpy(to, from, count * sizeof(float)); }

  long ldx() const { return call_.embedded + call_.summarized + (call_.fed ? call_.features : 0) + 16; }
  long ldq() const { return up(call_.compared, kPanel); }
  long ldj() const { return call_.memory + top_.hidden + 16; }
  long ldv() const { return up(call_.features, kPanel); }
  long padded() const { return up(call_.symbols, kBlock); }
  long blocks() const { return padded() / kBlock; }
  long room() const { return blocks() + std::min(blocks(), call_.count) * kBlock; }

  void plan() {
    const double each = products(call_.layer, call_.layers) + double(call_.symbols) * call_.features;
    if (call_.threads > 1 && each * rows_ >= 1.5e5) threads_ = int(call_.threads);
  }

  long set_up(int64_t l, long place) {
    given_[l] = call_.layer[l];
    const tt_generation_layer& given = given_[l];
    GenerationLayer& layer = layers_[l];
    layer = {};
    layer.given = &given;
    layer.ldh = given.padded + 16;  // past a power of two: cache lines
    layer.h[0] = arena_.take<float>(rows_ * layer.ldh);
    layer.h[1] = arena_.take<float>(rows_ * layer.ldh);
    const bool memory = given.cell == TT_LSTM;
    layer.c = memory ? arena_.take<float>(rows_ * given.padded) : nullptr;
    given_[l].c = layer.c;  // which says that there is one
    layer.x[0] = l ? layers_[l - 1].h[1] : x_;
    layer.ldx = l ? layers_[l - 1].ldh : ldx();
    return place + given.padded * (memory ? 2 : 1);
  }

  struct Range {
    long first, end;
  };
  Range own_rows(const Member& member) const { return {rows_ * member.index / member.count, rows_ * (member.index + 1) / member.count}; }

  void run_member(Member& member) {
    gather(own_rows(member));
    if (!member.wait()) return;
    for (int64_t l = 0; l < call_.layers; l++) {
      layer_step(layers_[l], Division::units(rows_, member.index, member.count));
      if (!member.wait()) return;
    }
    const GenerationLayer& last = layers_[call_.layers - 1];
    const float* vectors = last.h[1];
    long ld = last.ldh;
    if (call_.attention) {
      if (call_.attention == TT_ADDITIVE) {
        product<false>(last.h[1], last.ldh, top_.hidden, call_.query_weight, call_.query_bias, call_.compared, query_, ldq(), member);
        if (!member.wait()) return;
      }
      const Range range = own_rows(member);
      for (long r = range.first; r < range.end; r++) attend(r, scores_ + member.slot * call_.length);
      if (!member.wait()) return;
      product<true>(joined_, ldj(), call_.memory + top_.hidden, call_.combine_weight, nullptr, call_.features, vectors_, ldv(), member);
      if (!member.wait()) return;
      vectors = vectors_;
      ld = ldv();
    }
    product<false>(vectors, ld, call_.features, call_.head_weight, call_.head_bias, padded(), logits_, padded(), member);
    if (!member.wait()) return;
    const Range range = own_rows(member);
    for (long r = range.first; r < range.end; r++) {
      keep(r, vectors + r * ld);
      if (call_.count) choose(r, found_ + member.slot * room());
    }
    member.wait();
  }

  // What rows read, and the states that they continue.
  void gather(Range range) {
    for (long r = range.first; r < range.end; r++) {
      float* x = x_ + r * ldx();
      copy(call_.embedding + call_.symbol[r] * call_.embedded, call_.embedded, x);
      x += call_.embedded;
      if (call_.summarized) copy(call_.summary + call_.source[r] * call_.summarized, call_.summarized, x);
      x += call_.summarized;
      const float* state = call_.states + call_.parent[r] * call_.width;
      if (call_.fed) copy(state + fed_, call_.features, x);
      for (int64_t l = 0; l < call_.layers; l++) {
        const long size = layers_[l].given->padded;
        copy(state, size, layers_[l].h[0] + r * layers_[l].ldh);
        state += size;
        if (!layers_[l].c) continue;
        copy(state, size, layers_[l].c + r * size);
        state += size;
      }
    }
  }

  // The states after the step, and the attentional vector where the next step reads it.
  void keep(long r, const float* vector) {
    float* state = call_.new_states + r * call_.width;
    for (int64_t l = 0; l < call_.layers; l++) {
      const long size = layers_[l].given->padded;
      copy(layers_[l].h[1] + r * layers_[l].ldh, size, state);
      state += size;
      if (!layers_[l].c) continue;
      copy(layers_[l].c + r * size, size, state);
      state += size;
    }
    if (call_.fed) copy(vector, call_.features, state);
  }

  static void layer_step(const GenerationLayer& layer, const Division& division) {
    const int64_t cell = layer.given->cell;
    if (cell == TT_LSTM) step_layer<OneOrder, TT_LSTM>(layer, nullptr, 0, division);
    if (cell == TT_GRU) step_layer<OneOrder, TT_GRU>(layer, nullptr, 0, division);
    if (cell == TT_RNN) step_layer<OneOrder, TT_RNN>(layer, nullptr, 0, division);
  }

  // y [rows][ldy] = W x + bias, or its tanh; `outputs` in whole panels are written.
  template <bool Tanh>
  void product(const float* x, long ldx, long K, const float* weight, const float* bias, long outputs, float* y, long ldy,
               const Member& member) const {
    const long panels = (outputs + kPanel - 1) / kPanel;
    const Division division = Division::units(rows_, member.index, member.count);
    const long from = division.from(panels), to = division.to(panels);
    for (long i = from; i < to; i++) {
      const long j = call_.step & 1 ? from + to - 1 - i : i;  // back and forth: the last panels are still in the cache
      in_tiles(0, rows_, [&](auto rows, long first) __attribute__((always_inline)) {
        constexpr int R = decltype(rows)::value;
        Vec<float> sum[R][4];
        for (int r = 0; r < R; r++)
          for (int v = 0; v < 4; v++) sum[r][v] = bias ? load(bias + j * kPanel + v * kWidth) : Vec<float>{};
        multiply<OneOrder, R, 4>(x + first * ldx, ldx, weight, nullptr, j, K, sum);
        for (int r = 0; r < R; r++)
          for (int v = 0; v < 4; v++) store(y + (first + r) * ldy + j * kPanel + v * kWidth, Tanh ? tanh<float>(sum[r][v]) : sum[r][v]);
      });
    }
  }

  // joined = [context, h] of a row.
  void attend(long r, float* scores) const {
    const GenerationLayer& last = layers_[call_.layers - 1];
    const float* h = last.h[1] + r * last.ldh;
    const long source = call_.source[r], steps = call_.lengths[source], A = call_.compared, M = call_.memory;
    const float* keys = call_.keys + source * call_.length * A;
    const float* outputs = call_.outputs + source * call_.length * M;
    const bool additive = call_.attention == TT_ADDITIVE;
    const float* query = additive ? query_ + r * ldq() : h;
    float most = kNever;
    for (long s = 0; s < steps; s++) {
      Vec<float> sum{};
      if (additive)
        registers(A, [&](long, auto of) __attribute__((always_inline)) {
          sum += tanh<float>(of(query) + of(keys + s * A)) * of(call_.score_weight);
        });
      else
        registers(A, [&](long, auto of) __attribute__((always_inline)) { sum += of(query) * of(keys + s * A); });
      scores[s] = total<float>(sum);
      most = std::max(most, scores[s]);
    }
    float all = 0;
    for (long s = 0; s < steps; s++) all += scores[s] = std::exp(scores[s] - most);
    for (long s = 0; s < steps; s++) scores[s] /= all;
    if (call_.weights) {
      copy(scores, steps, call_.weights + r * call_.length);
      std::fill(call_.weights + r * call_.length + steps, call_.weights + (r + 1) * call_.length, 0.0f);
    }
    float* joined = joined_ + r * ldj();
    registers(M, [&](long first, auto of) __attribute__((always_inline)) {
      Vec<float> sum{};
      for (long s = 0; s < steps; s++) sum += splat<float>(scores[s]) * of(outputs + s * M);
      copy(reinterpret_cast<const float*>(&sum), std::min<long>(kWidth, M - first), joined + first);
    });
    copy(h, top_.hidden, joined + M);
  }

  // The best symbols of a row. The best lie in the blocks with the largest maxima, so only so many blocks are searched.
  void choose(long r, Place* found) {
    float* z = logits_ + r * padded();
    const long count = call_.count, whole = std::min(blocks(), count);
    Place* maxima = found;
    float most = kNever;
    for (long b = 0; b < blocks(); b++) {
      maxima[b] = {largest(z + b * kBlock), int32_t(b)};
      most = std::max(most, maxima[b].value);
    }
    Vec<float> sums{};
    for (long i = 0; i < padded(); i += kWidth) {
      Vec<float> p, scale;
      exp_parts<float>(clamp<float>(load(z + i) - most, ExpConstants<float>::limit), p, scale);
      sums += scale + scale * p;
    }
    const float sum = most + std::log(total<float>(sums));
    if (!std::isfinite(sum)) {
      diverged_.store(true);
      return;
    }
    const int rule = call_.rules ? int(call_.rules[r]) : int(TT_FREE);
    call_.ends[r] = z[call_.end] == most && std::find(z, z + call_.end, most) == z + call_.end;
    float* values = call_.values + r * count;
    int64_t* places = call_.places + r * count;
    std::fill(values, values + count, kNever);
    std::fill(places, places + count, call_.end);
    if (rule == TT_ONLY_END) {
      values[0] = z[call_.end] - sum;
      return;
    }
    exclude(z, maxima, rule);
    std::partial_sort(maxima, maxima + whole, maxima + blocks());
    Place* candidates = found + blocks();
    long size = 0;
    for (long i = 0; i < whole; i++) {
      if (maxima[i].value == kNever) break;
      const long first = maxima[i].index * kBlock;
      for (long j = first; j < std::min(first + kBlock, call_.symbols); j++)
        if (allowed(j, rule)) candidates[size++] = {z[j], int32_t(j)};
    }
    const long best = std::min(size, count);
    std::partial_sort(candidates, candidates + best, candidates + size);
    for (long i = 0; i < best; i++) {
      values[i] = candidates[i].value - sum;
      places[i] = candidates[i].index;
    }
  }

  bool allowed(long symbol, int rule) const {
    if (symbol == call_.end) return rule != TT_NOT_END;
    return !call_.excluded || !call_.excluded[symbol];
  }

  // The maxima of the blocks without what may not be chosen.
  void exclude(const float* z, Place* maxima, int rule) const {
    for (long b = 0; b < blocks(); b++) {
      if (!call_.excluded && (rule != TT_NOT_END || b != call_.end / kBlock)) continue;
      float most = kNever;
      for (long j = b * kBlock; j < std::min((b + 1) * kBlock, call_.symbols); j++)
        if (allowed(j, rule)) most = std::max(most, z[j]);
      maxima[b].value = most;
    }
  }

  static float largest(const float* z) {
    Vec<float> most = load(z);
    for (long i = kWidth; i < kBlock; i += kWidth) {
      const Vec<float> next = load(z + i);
      most = next > most ? next : most;
    }
    float found = most[0];
    for (int i = 1; i < kWidth; i++) found = std::max(found, most[i]);
    return found;
  }

  const tt_decode& call_;
  const long rows_;
  const tt_generation_layer& top_;
  int threads_ = 1;
  long fed_ = 0;
  Arena arena_;
  tt_generation_layer* given_ = nullptr;
  GenerationLayer* layers_ = nullptr;
  float *x_ = nullptr, *query_ = nullptr, *scores_ = nullptr, *joined_ = nullptr, *vectors_ = nullptr, *logits_ = nullptr;
  Place* found_ = nullptr;
  std::atomic<bool> diverged_{false};
};

}  // namespace

int decode(const tt_decode* call) noexcept {
  Decoding decoding(*call);
  if (!decoding.complete()) return TT_NO_MEMORY;
  return decoding.run();
}

}  // namespace tt::THROUGHTIME_ISA
