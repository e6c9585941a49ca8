// Chunks of many sequences through all layers, from packed weights and a slab of states. Compiled once for every instruction set.
//
// The states of the call's rows are gathered, the steps run, and the states written back: after a call that found no memory the slab is
// as it was. Rows are sorted by their steps, so at each step those that still have one are the first. Many rows are dealt out to
// the threads, which then need no barrier; of a few rows of a large model the units are divided, as in generation.
#include "stream.hpp"

#include <algorithm>
#include <numeric>

#include "arena.hpp"
#include "generate_layer.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {
namespace {

constexpr long kHeadPanel = 4 * kWidth;

// Some rows of a call that run together, [first, end) of the order.
struct Part {
  long first, end;
};

template <class Weights>
class Streaming {
 public:
  explicit Streaming(const tt_stream& call) : call_(call), rows_(call.rows) {
    plan();
    order_ = arena_.take<int64_t>(rows_);
    layers_ = arena_.take<GenerationLayer>(call.layers);
    x_ = arena_.zeros<float>(rows_ * ldx());
    if (!arena_.complete()) return;
    sort();
    for (int64_t l = 0; l < call.layers && arena_.complete(); l++) set_up(l);
  }

  bool complete() const { return arena_.complete(); }

  void run() {
    together(threads_, [this](Member& member) { run_member(member); });
    for (int64_t l = 0; l < call_.layers; l++)
      for (long i = 0; i < rows_; i++) {
        const GenerationLayer& layer = layers_[l];
        const tt_generation_layer& given = *layer.given;
        const long slot = call_.slots[order_[i]];
        copy(layer.h[steps(i) & 1] + i * layer.ldh, given.padded, given.h + slot * given.padded);
        if (given.c) copy(layer.c + i * given.padded, given.padded, given.c + slot * given.padded);
      }
  }

 private:
  static void copy(const float* from, long count, float* to) { std::memcpy(to, from, count * sizeof(float)); }

  long ldx() const { return call_.inputs + 16; }
  long steps(long i) const { return call_.offsets[order_[i] + 1] - call_.offsets[order_[i]]; }

  void plan() {
    const double each = products(call_.layer, call_.layers) + double(call_.outputs) * (call_.head_weight ? call_.layer[call_.layers - 1].hidden : 0);
    if (call_.threads <= 1) return;
    by_rows_ = rows_ >= 2 * kStepRows * call_.threads;
    if (by_rows_ ? each * call_.offsets[rows_] < 1e6 : each * rows_ < 1.5e5) return;
    threads_ = int(call_.threads);
  }

  // Longest first; each thread's rows one behind the other.
  void sort() {
    std::iota(order_, order_ + rows_, int64_t(0));
    auto longer = [this](int64_t a, int64_t b) {
      return call_.offsets[a + 1] - call_.offsets[a] > call_.offsets[b + 1] - call_.offsets[b];
    };
    if (!std::is_sorted(order_, order_ + rows_, longer)) std::sort(order_, order_ + rows_, [&](int64_t a, int64_t b) {
      return longer(a, b) || (!longer(b, a) && a < b);
    });
    if (threads_ == 1 || !by_rows_) return;
    int64_t* dealt = arena_.take<int64_t>(rows_);
    if (!dealt) return;
    long place = 0;
    for (int p = 0; p < threads_; p++)
      for (long i = p; i < rows_; i += threads_) dealt[place++] = order_[i];
    order_ = dealt;
  }

  Part part(int p) const {
    if (threads_ == 1 || !by_rows_) return {0, rows_};
    const long whole = rows_ / threads_, more = rows_ % threads_;
    const long first = p * whole + std::min<long>(p, more);
    return {first, first + whole + (p < more)};
  }

  void set_up(int64_t l) {
    const tt_generation_layer& given = call_.layer[l];
    GenerationLayer& layer = layers_[l];
    layer = {};
    layer.given = &given;
    layer.ldh = given.padded + 16;  // past a power of two: cache lines
    layer.h[0] = arena_.take<float>(rows_ * layer.ldh);
    layer.h[1] = arena_.take<float>(rows_ * layer.ldh);
    layer.c = given.c ? arena_.take<float>(rows_ * given.padded) : nullptr;
    if (!arena_.complete()) return;
    if (l == 0) {
      layer.x[0] = layer.x[1] = x_;
      layer.ldx = ldx();
    } else {  // a step reads what the layer below has just written
      layer.x[0] = layers_[l - 1].h[1];
      layer.x[1] = layers_[l - 1].h[0];
      layer.ldx = layers_[l - 1].ldh;
    }
    for (long i = 0; i < rows_; i++) {
      const long slot = call_.slots[order_[i]];
      copy(given.h + slot * given.padded, given.padded, layer.h[0] + i * layer.ldh);
      if (given.c) copy(given.c + slot * given.padded, given.padded, layer.c + i * given.padded);
    }
  }

  void run_member(Member& member) {
    if (!by_rows_) return run_part({0, rows_}, member);
    for (int p = threads_ * member.index / member.count; p < threads_ * (member.index + 1) / member.count; p++) {
      Member alone(0, 1, nullptr);
      run_part(part(p), alone);
    }
  }

  // All steps of some rows. Members that share them have each some of the units, and wait for each other after each layer.
  void run_part(const Part& rows, Member& member) {
    const long most = rows.end > rows.first ? steps(rows.first) : 0;
    long active = rows.end - rows.first;
    for (long t = 0; t < most; t++) {
      while (steps(rows.first + active - 1) <= t) active--;
      auto divided = [&] {
        Division division = Division::units(active, member.index, member.count);
        division.first = rows.first;
        return division;
      };
      if (member.index == 0)
        for (long i = rows.first; i < rows.first + active; i++)
          copy(call_.x + (call_.offsets[order_[i]] + t) * call_.inputs, call_.inputs, x_ + i * ldx());
      if (!member.wait()) return;
      for (int64_t l = 0; l < call_.layers; l++) {
        step(layers_[l], t, divided());
        if (!member.wait()) return;
      }
      finish(t, divided());
    }
    member.wait();
  }

  static void step(const GenerationLayer& layer, long t, const Division& division) {
    const int64_t cell = layer.given->cell;
    if (cell == TT_LSTM) step_layer<Weights, TT_LSTM>(layer, nullptr, t, division);
    if (cell == TT_GRU) step_layer<Weights, TT_GRU>(layer, nullptr, t, division);
    if (cell == TT_RNN) step_layer<Weights, TT_RNN>(layer, nullptr, t, division);
  }

  float* output(long i, long t) { return call_.y + (call_.offsets[order_[i]] + t) * call_.outputs; }

  // The outputs of a step: the last layer's, or the head's.
  void finish(long t, const Division& division) {
    const GenerationLayer& last = layers_[call_.layers - 1];
    const float* h = last.h[1 - (t & 1)];
    if (!call_.head_weight) {
      if (division.member == 0)
        for (long i = division.first; i < division.first + division.count; i++) copy(h + i * last.ldh, call_.outputs, output(i, t));
      return;
    }
    const long K = last.given->hidden, panels = (call_.outputs + kHeadPanel - 1) / kHeadPanel;
    for (long j = division.from(panels); j < division.to(panels); j++)
      in_tiles(division.first, division.count, [&](auto rows, long first) __attribute__((always_inline)) {
        constexpr int R = decltype(rows)::value;
        Vec<float> sum[R][4];
        for (int r = 0; r < R; r++)
          for (int v = 0; v < 4; v++) sum[r][v] = load(call_.head_bias + j * kHeadPanel + v * kWidth);
        multiply<Weights, R, 4>(h + first * last.ldh, last.ldh, call_.head_weight, call_.head_scale, j, K, sum);
        const long whole = std::min(kHeadPanel, call_.outputs - j * kHeadPanel);
        for (int r = 0; r < R; r++) copy(reinterpret_cast<const float*>(sum[r]), whole, output(first + r, t) + j * kHeadPanel);
      });
  }

  const tt_stream& call_;
  const long rows_;
  int threads_ = 1;
  bool by_rows_ = true;
  Arena arena_;
  int64_t* order_ = nullptr;
  GenerationLayer* layers_ = nullptr;
  float* x_ = nullptr;
};

template <class Weights>
int stream_by(const tt_stream& call) {
  Streaming<InOneOrder<Weights>> streaming(call);
  if (!streaming.complete()) return TT_NO_MEMORY;
  streaming.run();
  return TT_DONE;
}

}  // namespace

int stream(const tt_stream* call) noexcept {
  if (call->weights == TT_INT8) return stream_by<Int8>(*call);
  if (call->weights == TT_BFLOAT16) return stream_by<BFloat16>(*call);
  return stream_by<Float32>(*call);
}

}  // namespace tt::THROUGHTIME_ISA
