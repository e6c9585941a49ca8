// The loop of generation: draw, all layers, head, for many symbols in one call. Compiled once for every instruction set.
//
// With one row a step is a product of matrices and a vector, and its floor is reading the weights: threads divide the units,
// with a barrier after each layer, where that is worth a barrier. Many rows of a small model are divided instead.
//
// Nothing here throws: memory comes from calloc, and a call that finds none answers TT_NO_MEMORY.
#include "generate.hpp"

#include <atomic>
#include <cstdlib>
#include <memory>

#include "generate_layer.hpp"
#include "sampling.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

// Zeros, or null where there is no memory for them; of no numbers, too, there is an address.
template <class T>
Buffer<T> zeros(size_t count) {
  static_assert(std::is_trivial_v<T>);
  return Buffer<T>(static_cast<T*>(std::calloc(count + 1, sizeof(T))));
}

// The threads of a call, and what they divide.
struct ThreadPlan {
  int count = 1;
  bool by_rows = true;  // each runs some rows alone, without barriers; else each has some units of all rows

  static ThreadPlan of(const tt_generation& call) {
    // Of a row, in one step.
    const double each = products(call.layer, call.layers) + double(call.symbols) * call.layer[call.layers - 1].hidden;
    ThreadPlan plan;
    if (call.threads <= 1) return plan;
    // Rows alone need no barrier, but every thread then reads all weights; a row's stop must be seen by all.
    const bool by_rows = call.stop_count == 0 && call.batch >= 4 * call.threads && each <= 262144;
    if (by_rows ? each * call.batch * call.tokens < 1e6 : each * call.batch < 1.5e5) return plan;
    plan.count = int(call.threads);
    plan.by_rows = by_rows;
    return plan;
  }
};

// One call: its memory, and its loop.
template <class Weights>
class Generation {
 public:
  Generation(tt_generation& call, ThreadPlan threads)
      : call_(call),
        threads_(threads),
        padded_((call.symbols + kLogitBlock - 1) / kLogitBlock * kLogitBlock),
        features_(call.table ? 0 : call.layer[0].inputs) {
    long states = 0;
    for (int64_t l = 0; l < call.layers; l++) states += state_of(call.layer[l]);
    states_ = zeros<float>(states);
    inputs_ = zeros<float>(call.batch * features_);
    floats_ = zeros<float>(threads.count * Sampler::floats(padded_));
    doubles_ = zeros<double>(threads.count * Sampler::doubles(padded_));
    order_ = zeros<int64_t>(threads.count * padded_);
    ids_ = zeros<int64_t>(call.batch);
    layers_ = zeros<GenerationLayer>(call.layers);
    if (complete()) set_up_layers();
  }

  bool complete() const { return states_ && inputs_ && floats_ && doubles_ && order_ && ids_ && layers_; }

  // The status of the call. Unless it failed the state goes back to the caller.
  int run() {
    together(threads_.count, [this](Member& member) { run_member(member); });
    const int64_t failure = failure_.load();
    call_.done = failure == kNone ? steps_ : failure / 4;
    if (failure != kNone) return int(failure % 4);
    for (int64_t l = 0; l < call_.layers; l++) {
      const GenerationLayer& layer = layers_[l];
      const tt_generation_layer& given = *layer.given;
      for (long r = 0; r < call_.batch; r++)
        copy(layer.h[steps_ & 1] + r * layer.ldh, given.padded, given.h + r * given.padded);
      if (given.c) copy(layer.c, call_.batch * given.padded, given.c);
    }
    return TT_DONE;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  static void copy(const float* from, long count, float* to) { std::memcpy(to, from, count * sizeof(float)); }

  static long row_of(const tt_generation_layer& layer) { return layer.padded + 16; }  // past a power of two: cache lines
  long state_of(const tt_generation_layer& layer) const { return call_.batch * (2 * row_of(layer) + layer.padded); }

  // Each layer reads the state of the caller, and what the layer below it writes.
  void set_up_layers() {
    float* place = states_.get();
    for (int64_t l = 0; l < call_.layers; l++) {
      const tt_generation_layer& given = call_.layer[l];
      GenerationLayer& layer = layers_[l];
      layer.given = &given;
      layer.ldh = row_of(given);
      layer.h[0] = place;
      layer.h[1] = place + call_.batch * layer.ldh;
      layer.c = place + 2 * call_.batch * layer.ldh;
      if (l == 0) {
        layer.table = call_.table;
        layer.x[0] = layer.x[1] = inputs_.get();
        layer.ldx = features_;
      } else {  // a step reads what the layer below has just written
        layer.x[0] = layers_[l - 1].h[1];
        layer.x[1] = layers_[l - 1].h[0];
        layer.ldx = layers_[l - 1].ldh;
      }
      for (long r = 0; r < call_.batch; r++) copy(given.h + r * given.padded, given.padded, layer.h[0] + r * layer.ldh);
      if (given.c) copy(given.c, call_.batch * given.padded, layer.c);
      place += state_of(given);
    }
  }

  // All steps, as one of the threads runs them.
  void run_member(Member& member) {
    const int slot = member.slot;
    Sampler sampler(call_, padded_, floats_.get() + slot * Sampler::floats(padded_),
                    doubles_.get() + slot * Sampler::doubles(padded_), order_.get() + slot * padded_);
    long first = 0, end = 0;
    Division division;
    auto divide = [&] {
      first = call_.batch * member.index / member.count;
      end = call_.batch * (member.index + 1) / member.count;
      division = threads_.by_rows ? Division::rows(first, end) : Division::units(call_.batch, member.index, member.count);
    };
    divide();
    // False when this thread leaves the others; one that goes on alone does everything.
    auto pause = [&] {
      if (threads_.by_rows) return true;
      const bool stays = member.wait();
      divide();
      return stays;
    };
    bool last = false;
    long step = 0;
    for (; step < call_.tokens && !last; step++) {
      take_symbols(sampler, step, first, end);
      if (!pause()) return;
      if (failure_.load() / 4 <= step) break;  // not at another thread's failure in a later step: the first one counts
      last = all_finished();
      if (!step_layers<Weights>(call_, layers_.get(), ids_.get(), step, division, pause)) return;
      if (step + 1 < call_.num_read) continue;  // nothing is drawn from what would follow
      step_head<Weights>(call_, layers_[call_.layers - 1], step, padded_, division);
      if (!pause()) return;
    }
    if (member.index == 0) steps_ = step;
  }

  // The symbols of a step for the rows [first, end), and their embeddings.
  void take_symbols(Sampler& sampler, long step, long first, long end) {
    for (long r = first; r < end; r++) {
      const int64_t id = symbol(sampler, step, r);
      if (id < 0) return fail(step, -id);
      ids_[r] = id;
      if (features_) copy(call_.embedding + id * features_, features_, inputs_.get() + r * features_);
    }
  }

  // One that is read, or one that is drawn; minus the status where none can be drawn.
  int64_t symbol(Sampler& sampler, long step, long row) {
    int64_t& place = call_.ids[step * call_.batch + row];
    if (step < call_.num_read) return place;
    const int64_t id = sampler.draw(call_.logits + row * padded_, call_.position + step, row);
    if (id < 0) return id;
    place = call_.finished[row] ? -1 : id;
    for (int64_t i = 0; i < call_.stop_count; i++)
      if (call_.stops[i] == id) call_.finished[row] = 1;
    return id;
  }

  // Of several failures the one of the first step counts.
  void fail(long step, int64_t status) {
    const int64_t code = 4 * step + status;
    for (int64_t other = failure_.load(); code < other && !failure_.compare_exchange_weak(other, code);) {
    }
  }

  bool all_finished() const { return call_.stop_count && !std::memchr(call_.finished, 0, size_t(call_.batch)); }

  tt_generation& call_;
  const ThreadPlan threads_;
  const long padded_, features_;  // logits of a row; numbers of an embedding, 0 where there is a table
  Buffer<float> states_, inputs_, floats_;
  Buffer<double> doubles_;
  Buffer<int64_t> order_, ids_;
  Buffer<GenerationLayer> layers_;
  std::atomic<int64_t> failure_{kNone};  // 4 * step + status
  int64_t steps_ = 0;
};

template <class Weights>
int generate_by(tt_generation& call, ThreadPlan threads) {
  Generation<Weights> generation(call, threads);
  if (!generation.complete()) return TT_NO_MEMORY;
  return generation.run();
}

}  // namespace

int generate(tt_generation* call) noexcept {
  const ThreadPlan threads = ThreadPlan::of(*call);
  if (call->weights == TT_INT8) return generate_by<Int8>(*call, threads);
  if (call->weights == TT_BFLOAT16) return generate_by<BFloat16>(*call, threads);
  return generate_by<Float32>(*call, threads);
}

int generation_width() noexcept { return kWidth; }

}  // namespace tt::THROUGHTIME_ISA
