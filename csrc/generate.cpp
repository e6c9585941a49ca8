// The loop of generation: draw, all layers, head, for many symbols in one call. Compiled once for every instruction set.
//
// With one row a step is a product of matrices and a vector, and its floor is reading the weights: threads divide the units,
// with a barrier after each layer, where that is worth a barrier. Many rows of a small model are divided instead.
#include <atomic>
#include <memory>
#include <new>

#include "generate_layer.hpp"
#include "sampling.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr int64_t kFine = std::numeric_limits<int64_t>::max();

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

template <class Weights>
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
    const tt_generation_layer& source = call.layer[l];
    const long ldh = source.padded + 16;
    float* h[2] = {place, place + B * ldh};
    layers[l] = {&source, nullptr, {x, x}, features, ldh, {h[0], h[1]}, place + 2 * B * ldh};
    if (l == 0)
      layers[l].table = call.table;
    else {  // a step reads what the layer before has just written
      layers[l].x[0] = layers[l - 1].h[1];
      layers[l].x[1] = layers[l - 1].h[0];
      layers[l].ldx = layers[l - 1].ldh;
    }
    for (long r = 0; r < B; r++) std::copy_n(source.h + r * source.padded, source.padded, h[0] + r * ldh);
    if (source.c) std::copy_n(source.c, B * source.padded, layers[l].c);
    place += B * (2 * ldh + source.padded);
  }
  std::atomic<int64_t> failure{kFine};  // 4 * step + status of the first
  int64_t done = 0;

  auto work = [&](Member& thread) {
    const int member = thread.index, members = thread.count;
    const bool rows_apart = by_rows || members == 1;
    const long first = B * member / members, end = B * (member + 1) / members;
    const Share share = rows_apart ? Share{first, end - first, 0, 1} : Share{0, B, member, members};
    Sampler sampler(call, padded, scratch + member * Sampler::floats(padded), wide.get() + member * Sampler::doubles(padded),
                    order.get() + member * padded);
    const int64_t* stops_end = call.stops + call.stop_count;
    long step = 0;
    for (; step < call.tokens; step++) {
      for (long r = first; r < end; r++) {
        int64_t& out = call.ids[step * B + r];
        int64_t id = step < call.num_read ? out : sampler.draw(call.logits + r * padded, call.position + step, r);
        if (id < 0) {
          int64_t code = 4 * step - id, other = failure.load();
          while (code < other && !failure.compare_exchange_weak(other, code)) {
          }
          break;
        }
        if (step >= call.num_read) {
          out = call.finished[r] ? -1 : id;
          call.finished[r] |= std::find(call.stops, stops_end, id) != stops_end;
        }
        ids[r] = id;
        if (features) std::copy_n(call.embedding + id * features, features, x + r * features);
      }
      if (!rows_apart) thread.meet();
      if (failure.load() / 4 <= step) break;  // not at another thread's failure in a later step: the first one counts
      const bool last = call.stop_count && std::find(call.finished, call.finished + B, 0) == call.finished + B;
      step_layers<Weights>(call, layers.get(), ids.get(), step, share, [&] {
        if (!rows_apart) thread.meet();
      });
      if (step + 1 >= call.num_read) {
        step_head<Weights>(call, layers[call.layers - 1], step, padded, share);
        if (!rows_apart) thread.meet();
      }
      if (last) {
        step++;
        break;
      }
    }
    if (member == 0) done = step;
  };
  together(wanted, work);
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
int TT_NAME(tt_generate)(tt_generation* call) {
  using namespace tt::THROUGHTIME_ISA;
  if (call->weights == TT_INT8) return generate<Int8>(*call);
  if (call->weights == TT_BFLOAT16) return generate<BFloat16>(*call);
  return generate<Float32>(*call);
}
int TT_NAME(tt_generation_width)() { return tt::THROUGHTIME_ISA::kWidth; }
}
