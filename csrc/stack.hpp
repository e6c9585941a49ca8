// All layers and directions of a call: the products over all steps, and the loops over time between them.
//
// A long sequence runs in chunks: what the products write is still in the cache when the loop reads it, and the other way round.
#pragma once
#include <chrono>

#include "matmul.hpp"
#include "recurrence.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr long kChunkBytes = 4 << 20;  // of gates, without what layer norm keeps
constexpr long kChunkRows = 2048;      // at least: the products over a chunk pack all weights again

enum { kSecondsForward, kSecondsBackward, kSecondsOfProducts };

// Adds the time of its life to a counter, if there is one.
class Clock {
 public:
  Clock(void* seconds, int which) : to_(seconds ? static_cast<double*>(seconds) + which : nullptr) {
    if (to_) start_ = now();
  }
  ~Clock() {
    if (to_) *to_ += std::chrono::duration<double>(now() - start_).count();
  }

 private:
  using Time = std::chrono::steady_clock::time_point;
  static Time now() { return std::chrono::steady_clock::now(); }
  double* to_;
  Time start_;
};

static inline long up_to(long value, long multiple) { return (value + multiple - 1) / multiple * multiple; }

// The sizes of one layer in one direction.
template <class T>
struct Sizes {
  long inputs, units, columns, H, P;
  int gates, blocks;
  long ldg;         // of a row of gates that is kept for backward
  bool lstm, projected, normed, padded;

  Sizes(const tt_stack& stack, const tt_weights& weights) : inputs(weights.inputs), units(weights.units), columns(weights.columns) {
    H = up_to(units, kPanel<T>);
    P = up_to(columns, kPanel<T>);
    lstm = stack.cell == TT_LSTM;
    projected = weights.weight_hr;
    normed = weights.gain_hh;
    padded = columns != P;
    gates = gates_of(stack.cell);
    blocks = blocks_of(stack.cell, projected);
    ldg = row(normed);
  }

  // Not a multiple of a power of two: rows would compete for the same cache lines.
  long row(bool keep_hats) const { return (blocks + 2 * gates * keep_hats) * H + 16; }
  long saved() const { return ldg + (lstm ? H : 0) + (padded ? P : 0); }
};

// Outputs of all layers but the last are saved too.
template <class T>
static long row_of_outputs(const tt_stack& stack, int64_t layer) {
  return up_to(stack.directions * static_cast<tt_weights*>(stack.weights)[layer * stack.directions].columns, 16);
}

template <class T>
static int64_t saved_row(const tt_stack& stack) {
  int64_t all = 0;
  for (int64_t n = 0; n < stack.layers * stack.directions; n++) all += Sizes<T>(stack, static_cast<tt_weights*>(stack.weights)[n]).saved();
  for (int64_t layer = 0; layer + 1 < stack.layers; layer++) all += row_of_outputs<T>(stack, layer);
  return all;
}

// One layer in one direction in a call.
template <class T>
class Direction {
 public:
  Direction(const tt_call& call, int64_t number, const int64_t* offsets, Arena& arena)
      : call_(call), stack_(*static_cast<tt_stack*>(call.stack)), weights_(static_cast<tt_weights*>(stack_.weights)[number]),
        arena_(arena), size_(stack_, weights_), number_(number), total_(call.total) {
    loop_.cell = stack_.cell;
    loop_.activation = stack_.activation;
    loop_.reset_before = stack_.reset_before;
    loop_.bf16 = stack_.bf16;
    loop_.steps = call.steps;
    loop_.batch = call.batch;
    loop_.units = size_.units;
    loop_.columns = size_.columns;
    loop_.hidden = size_.H;
    loop_.width = size_.P;
    loop_.reverse = call.reverse || number % stack_.directions;
    loop_.training = call.training;
    loop_.threads = call.threads;
    loop_.split = call.split;
    loop_.zoneout = call.zoneout;
    loop_.fraction_h = T(call.fraction_h);
    loop_.fraction_c = T(call.fraction_c);
    loop_.offsets = offsets;
    loop_.carry_scale = static_cast<double*>(call.carry_scale);
    loop_.weight_hh = static_cast<T*>(weights_.weight_hh);
    loop_.weight_hr = static_cast<T*>(weights_.weight_hr);
    loop_.gain_ih = widen(weights_.gain_ih, size_.gates, size_.units, size_.H);
    loop_.gain_hh = widen(weights_.gain_hh, size_.gates, size_.units, size_.H);
    loop_.gain_c = widen(weights_.gain_c, 1, size_.units, size_.H);
    loop_.bias_c = widen(weights_.bias_c, 1, size_.units, size_.H);
    loop_.peephole = widen(weights_.weight_peephole, 3, size_.units, size_.H);
    if (call.masks) {
      const tt_masks& masks = static_cast<tt_masks*>(call.masks)[number];
      mask_ = static_cast<T*>(masks.h_mask);
      loop_.h_mask = widen(mask_, call.batch, size_.columns, size_.P);
      loop_.keep_h = widen(static_cast<uint8_t*>(masks.keep_h), total_, size_.columns, size_.P);
      loop_.keep_c = widen(static_cast<uint8_t*>(masks.keep_c), total_, size_.units, size_.H);
    }
    for (int64_t before = 0; before < number; before++) {
      const tt_weights& other = static_cast<tt_weights*>(stack_.weights)[before];
      h_at_ += call.batch * other.columns;
      c_at_ += call.batch * other.units;
    }
    find_chunks();
  }

  // From x [N][ldx] to its columns of `out` [N][ldo]; `saved` as backward gets it, or null.
  void forward(const T* x, long ldx, T* out, long ldo, T* saved) {
    out += number_ % stack_.directions * size_.columns;
    set_kept(saved, out, ldo);
    if (!saved && size_.padded) loop_.y = arena_.take<T>(total_ * size_.P);
    loop_.bias = bias();
    read_initial_state();
    loop_.h_state = state(call_.h_n, h_at_, size_.columns, size_.P, loop_.h0);
    if (size_.lstm) loop_.c_state = state(call_.c_n, c_at_, size_.units, size_.H, loop_.c0);
    T* gates = saved ? loop_.gates : arena_.take<T>(most_rows_ * loop_.ldg);
    Forward<T> steps(loop_, total_, arena_);
    for (long i = 0; i < num_chunks_ && arena_.complete(); i++) {
      const Chunk& chunk = chunks_[i];
      loop_.begin = chunk.begin;
      loop_.end = chunk.end;
      loop_.gates = saved ? gates : gates - chunk.first * loop_.ldg;
      project(x + chunk.first * ldx, ldx, loop_.gates + chunk.first * loop_.ldg + first_input() * size_.H, chunk.rows());
      if (!arena_.complete()) return;
      {
        Clock clock(call_.seconds, kSecondsForward);
        steps.run();
      }
      if (size_.padded) narrow(loop_.y + chunk.first * size_.P, size_.P, out + chunk.first * ldo, ldo, chunk.rows(), size_.columns);
    }
    if (!arena_.complete()) return;
    give_state(loop_.h_state, call_.h_n, h_at_, size_.columns, size_.P);
    if (size_.lstm) give_state(loop_.c_state, call_.c_n, c_at_, size_.units, size_.H);
  }

  // `dout` [N][lddo] or null is the gradient of `out`; dx [N][lddx] is added to if `add`, or null where it is not wanted.
  void backward(const T* x, long ldx, const T* out, long ldo, T* saved, const T* dout, long lddo, T* dx, long lddx, bool add) {
    const long side = number_ % stack_.directions * size_.columns;
    out += side;
    if (dout) dout += side;
    set_kept(saved, const_cast<T*>(out), ldo);
    read_initial_state();
    loop_.dh_state = state(call_.dh0, h_at_, size_.columns, size_.P, pointer(call_.dh_n, h_at_), size_.columns);
    if (size_.lstm) loop_.dc_state = state(call_.dc0, c_at_, size_.units, size_.H, pointer(call_.dc_n, c_at_), size_.units);
    const long most = most_rows_;
    T* dgates = arena_.take<T>(most * loop_.ldg);
    T* dy = dout && size_.padded ? arena_.take<T>(most * size_.P) : nullptr;
    const T** before = arena_.take<const T*>(most);
    T* masked = mask_ ? arena_.take<T>(most * size_.columns) : nullptr;
    const tt_weights& wanted = static_cast<tt_weights*>(call_.gradients)[number_];
    Backward<T> steps(loop_, total_, arena_);
    bool started = false;
    for (long i = num_chunks_ - 1; i >= 0 && arena_.complete(); i--) {
      const Chunk& chunk = chunks_[i];
      loop_.begin = chunk.begin;
      loop_.end = chunk.end;
      loop_.dgates = dgates - chunk.first * loop_.ldg;
      loop_.dy = dout;
      loop_.lddy = lddo;
      if (dy) {
        for (long r = 0; r < chunk.rows(); r++) fill(dy + r * size_.P, dout + (chunk.first + r) * lddo, size_.columns, size_.P);
        loop_.dy = dy - chunk.first * size_.P;
        loop_.lddy = size_.P;
      }
      {
        Clock clock(call_.seconds, kSecondsBackward);
        steps.run();
      }
      if (chunk.rows()) {
        if (wanted.weight_hh) find_before(chunk, out, ldo, before, masked);
        gradients_of_products(chunk, x, ldx, dgates, before, wanted, dx, lddx, add, started);
      }
      started = started || chunk.rows();
    }
    if (!arena_.complete()) return;
    if (!started) clear(wanted);
    scale_initial_gradient();
    give_state(loop_.dh_state, call_.dh0, h_at_, size_.columns, size_.P);
    if (size_.lstm) give_state(loop_.dc_state, call_.dc0, c_at_, size_.units, size_.H);
    give_sums(steps, wanted);
  }

 private:
  struct Chunk {
    long begin, end, first, last;  // steps in running order, and their rows
    long rows() const { return last - first; }
  };

  long step(long s) const { return loop_.reverse ? loop_.steps - 1 - s : s; }
  Chunk chunk(long begin, long end) const {
    const long a = loop_.reverse ? loop_.steps - end : begin, b = loop_.reverse ? loop_.steps - begin : end;
    return {begin, end, long(loop_.offsets[a]), long(loop_.offsets[b])};
  }
  long limit() const {
    return call_.chunk_rows ? long(call_.chunk_rows) : std::max(kChunkBytes / (size_.row(false) * long(sizeof(T))), kChunkRows);
  }
  // As many steps from `begin` on as have no more rows than the limit, or one.
  Chunk next(long begin) const {
    if (total_ <= limit()) return chunk(begin, loop_.steps);
    long end = begin + 1;
    while (end < loop_.steps && chunk(begin, end + 1).rows() <= limit()) end++;
    return chunk(begin, end);
  }
  void find_chunks() {
    for (long end = 0; end < loop_.steps; end = next(end).end) num_chunks_++;
    chunks_ = arena_.take<Chunk>(num_chunks_);
    for (long end = 0, i = 0; chunks_ && end < loop_.steps; i++) {
      chunks_[i] = next(end);
      end = chunks_[i].end;
      most_rows_ = std::max(most_rows_, chunks_[i].rows());
    }
  }

  // A GRU's row of gates has W_hn h, or r * h, before the input projection.
  int first_input() const { return stack_.cell == TT_GRU; }

  // Where the rows of gates, of an LSTM's cell states and of padded outputs lie in what is saved.
  void set_kept(T* saved, T* out, long ldo) {
    loop_.ldg = saved ? size_.ldg : size_.row(false);
    loop_.gates = saved;
    if (saved && size_.lstm) loop_.c = saved + total_ * size_.ldg;
    loop_.y = size_.padded ? (saved ? saved + total_ * (size_.ldg + (size_.lstm ? size_.H : 0)) : nullptr) : out;
    loop_.ldy = size_.padded ? size_.P : ldo;
  }

  // Gates without biases of `rows` rows of x.
  void project(const T* x, long ldx, T* gates, long rows) {
    Clock clock(call_.seconds, kSecondsOfProducts);
    const T* weights = static_cast<T*>(weights_.weight_ih);
    if (pays_to_pack(total_, size_.inputs) || loop_.bf16) {
      tt_product product{};
      product.rows = rows;
      product.columns = size_.gates * size_.units;
      product.depth = size_.inputs;
      set_a(product, x, ldx, false);
      set_b(product, weights, size_.inputs, true);
      set_c(product, gates, loop_.ldg, false);
      set_blocks(product, TT_COLUMNS_OF_C, size_.units, size_.H);
      run(product);
      return;
    }
    for (int g = 0; g < size_.gates; g++) {
      rows_times_rows(rows, x, ldx, weights + g * size_.units * size_.inputs, size_.inputs, size_.units, size_.inputs, gates + g * size_.H,
                      loop_.ldg, false);
      for (long r = 0; r < rows; r++) std::fill(gates + r * loop_.ldg + g * size_.H + size_.units, gates + r * loop_.ldg + (g + 1) * size_.H, T(0));
    }
  }

  // Where each row of a chunk has what W_hh was multiplied by: the h before, times the mask of recurrent dropout.
  void find_before(const Chunk& chunk, const T* out, long ldo, const T** before, T* masked) const {
    const T* initial = call_.h0 ? pointer(call_.h0, h_at_) : zero_;
    for (long s = chunk.begin, row; s < chunk.end; s++) {
      const long t = step(s), at = loop_.offsets[t], count = loop_.offsets[t + 1] - at;
      const long earlier = s ? step(s - 1) : 0, at_before = s ? loop_.offsets[earlier] : 0;
      const long count_before = s ? loop_.offsets[earlier + 1] - at_before : 0;
      for (long q = 0; q < count; q++) {
        row = at + q - chunk.first;
        before[row] = q < count_before ? out + (at_before + q) * ldo : initial + (call_.h0 ? q * size_.columns : 0);
        if (!masked) continue;
        for (long u = 0; u < size_.columns; u++) masked[row * size_.columns + u] = before[row][u] * mask_[q * size_.columns + u];
        before[row] = masked + row * size_.columns;
      }
    }
  }

  // dx, and the gradients of all matrices of weights.
  void gradients_of_products(const Chunk& chunk, const T* x, long ldx, const T* dgates, const T** before, const tt_weights& wanted,
                             T* dx, long lddx, bool add, bool started) {
    Clock clock(call_.seconds, kSecondsOfProducts);
    const long H = size_.H, n = chunk.rows();
    // Layer norm's backward separates the two maps: the gradient of W_ih x lies behind the row.
    const T* d_inputs = dgates + (size_.normed ? size_.blocks : first_input()) * H;
    x += chunk.first * ldx;
    if (dx) input_gradient(d_inputs, n, dx + chunk.first * lddx, lddx, add);
    if (wanted.weight_ih) weight_gradient(d_inputs, size_.gates, n, x, ldx, nullptr, size_.inputs, static_cast<T*>(wanted.weight_ih), started);
    if (T* dw = static_cast<T*>(wanted.weight_hh)) {
      const long columns = size_.columns;
      if (stack_.cell != TT_GRU) {
        weight_gradient(dgates, size_.gates, n, nullptr, 0, before, columns, dw, started);
      } else {  // hn | r | z | n, or q | r | z | n
        weight_gradient(dgates + H, 2, n, nullptr, 0, before, columns, dw, started);
        T* dw_n = dw + 2 * size_.units * columns;
        if (stack_.reset_before)
          weight_gradient(dgates + 3 * H, 1, n, loop_.gates + chunk.first * loop_.ldg, loop_.ldg, nullptr, columns, dw_n, started);
        else
          weight_gradient(dgates, 1, n, nullptr, 0, before, columns, dw_n, started);
      }
    }
    if (wanted.weight_hr) {  // the last block: d of W_hr m, and m
      const long m_block = size_.blocks - 1;
      tt_product product{};
      product.rows = size_.columns;
      product.columns = size_.units;
      product.depth = n;
      set_a(product, dgates + m_block * H, loop_.ldg, true);
      set_b(product, loop_.gates + chunk.first * loop_.ldg + m_block * H, loop_.ldg, false);
      set_c(product, static_cast<T*>(wanted.weight_hr), size_.units, started);
      set_blocks(product, TT_ROWS_OF_A, size_.columns, size_.P);
      run(product);
    }
  }

  // dx (+)= d W for n rows d of gate gradients.
  void input_gradient(const T* dgates, long n, T* dx, long lddx, bool add) {
    const T* weights = static_cast<T*>(weights_.weight_ih);
    if (size_.inputs == 1 && !loop_.bf16) {  // a product with one column would compute a panel
      for (long r = 0; r < n; r++) {
        T sum = 0;
        for (int g = 0; g < size_.gates; g++) {
          const T *d = dgates + r * loop_.ldg + g * size_.H, *w = weights + g * size_.units;
          Vec<T> sums{};
          long u = 0;
          for (; u + Simd<T>::width <= size_.units; u += Simd<T>::width) sums += load(d + u) * load(w + u);
          sum += total<T>(sums);
          for (; u < size_.units; u++) sum += d[u] * w[u];
        }
        dx[r * lddx] = add ? dx[r * lddx] + sum : sum;
      }
      return;
    }
    tt_product product{};
    product.rows = n;
    product.columns = size_.inputs;
    product.depth = size_.gates * size_.units;
    set_a(product, dgates, loop_.ldg, false);
    set_b(product, weights, size_.inputs, false);
    set_c(product, dx, lddx, add);
    set_blocks(product, TT_DEPTH_OF_A, size_.units, size_.H);
    run(product);
  }

  // dW [blocks * units][columns] (+)= d^T r, for n rows of gate gradients and of what the weights were multiplied by.
  void weight_gradient(const T* dgates, int blocks, long n, const T* read, long ld, const T** rows, long columns, T* dw, bool add) {
    if (columns == 1 && !loop_.bf16) {
      for (int g = 0; g < blocks; g++) {
        T* to = dw + g * size_.units;
        if (!add) std::fill(to, to + size_.units, T(0));
        for (long r = 0; r < n; r++) {
          const T factor = rows ? rows[r][0] : read[r * ld], *d = dgates + r * loop_.ldg + g * size_.H;
          for (long u = 0; u < size_.units; u++) to[u] += d[u] * factor;
        }
      }
      return;
    }
    tt_product product{};
    product.rows = blocks * size_.units;
    product.columns = columns;
    product.depth = n;
    set_a(product, dgates, loop_.ldg, true);
    set_b(product, read, ld, false);
    product.rows_of_b = rows;
    set_c(product, dw, columns, add);
    set_blocks(product, TT_ROWS_OF_A, size_.units, size_.H);
    run(product);
  }

  static void set_a(tt_product& product, const T* a, long ld, bool transposed) {
    product.a = const_cast<T*>(a);
    product.lda = ld;
    product.transposed_a = transposed;
  }
  static void set_b(tt_product& product, const T* b, long ld, bool transposed) {
    product.b = const_cast<T*>(b);
    product.ldb = ld;
    product.transposed_b = transposed;
  }
  static void set_c(tt_product& product, T* c, long ld, bool accumulate) {
    product.c = c;
    product.ldc = ld;
    product.accumulate = accumulate;
  }
  static void set_blocks(tt_product& product, int dimension, long block, long padded) {
    product.blocked = dimension;
    product.block = block;
    product.padded = padded;
  }
  void run(tt_product& product) {
    product.threads = loop_.threads;
    product.bf16 = loop_.bf16;
    if (product.rows && !Product<T>(product).run(arena_)) return;
  }

  // Of a call without rows: nothing was added to anything.
  void clear(const tt_weights& wanted) const {
    auto zero = [](void* to, long count) {
      if (to) std::memset(to, 0, count * sizeof(T));
    };
    zero(wanted.weight_ih, size_.gates * size_.units * size_.inputs);
    zero(wanted.weight_hh, size_.gates * size_.units * size_.columns);
    zero(wanted.weight_hr, size_.columns * size_.units);
  }

  // One row of gates of both biases together; a GRU's b_hn by itself where it is inside the reset. Null without biases.
  const T* bias() {
    if (!weights_.bias_ih) return nullptr;
    const long units = size_.units, H = size_.H;
    T* row = arena_.zeros<T>(4 * H);
    const T *ih = static_cast<T*>(weights_.bias_ih), *hh = static_cast<T*>(weights_.bias_hh);
    for (int g = 0; row && g < size_.gates; g++)
      for (long u = 0; u < units; u++) row[block_of_bias(g) * H + u] = ih[g * units + u] + (apart(g) ? T(0) : hh[g * units + u]);
    for (long u = 0; row && apart(2) && u < units; u++) row[u] = hh[2 * units + u];
    return row;
  }
  int block_of_bias(int gate) const { return gate + first_input(); }
  bool apart(int gate) const { return gate == 2 && stack_.cell == TT_GRU && !stack_.reset_before; }

  void give_sums(Backward<T>& steps, const tt_weights& wanted) const {
    const long units = size_.units, H = size_.H;
    const T *row = steps.totals(), *peephole = row + steps.sums().row, *gains = peephole + steps.sums().peephole;
    auto give = [&](void* to, const T* from, int blocks) {
      for (int g = 0; to && g < blocks; g++) std::memcpy(static_cast<T*>(to) + g * units, from + g * H, units * sizeof(T));
    };
    for (int g = 0; g < size_.gates; g++) {
      if (T* to = static_cast<T*>(wanted.bias_ih)) std::memcpy(to + g * units, row + block_of_bias(g) * H, units * sizeof(T));
      if (T* to = static_cast<T*>(wanted.bias_hh)) std::memcpy(to + g * units, row + (apart(g) ? 0 : block_of_bias(g) * H), units * sizeof(T));
    }
    give(wanted.weight_peephole, peephole, 3);
    if (!size_.normed) return;
    give(wanted.gain_hh, gains, size_.gates);
    give(wanted.gain_ih, gains + size_.gates * H, size_.gates);
    give(wanted.gain_c, gains + 2 * size_.gates * H, 1);
    give(wanted.bias_c, gains + (2 * size_.gates + 1) * H, 1);
  }

  static const T* pointer(const void* base, long at) { return base ? static_cast<const T*>(base) + at : nullptr; }

  void read_initial_state() {
    const long most = std::max(size_.H, size_.P);
    zero_ = call_.h0 && (!size_.lstm || call_.c0) ? nullptr : arena_.zeros<T>(call_.batch * most);
    loop_.h0 = call_.h0 ? widen(pointer(call_.h0, h_at_), call_.batch, size_.columns, size_.P) : zero_;
    if (size_.lstm) loop_.c0 = call_.c0 ? widen(pointer(call_.c0, c_at_), call_.batch, size_.units, size_.H) : zero_;
  }

  // Memory for a state that is carried, where the caller wants it if nothing must be padded, with its first value.
  T* state(void* result, long at, long columns, long padded, const T* initial, long ld = 0) {
    T* to = columns == padded && result ? static_cast<T*>(result) + at : arena_.take<T>(call_.batch * padded);
    for (long q = 0; to && q < call_.batch; q++)
      if (initial)
        fill(to + q * padded, initial + q * (ld ? ld : padded), columns, padded);
      else
        std::memset(to + q * padded, 0, padded * sizeof(T));
    return to;
  }

  void give_state(const T* state, void* result, long at, long columns, long padded) const {
    T* to = result ? static_cast<T*>(result) + at : nullptr;
    if (to && to != state) narrow(state, padded, to, columns, call_.batch, columns);
  }

  // What leaves through the initial state: backward in time a shorter sequence enters at a later one of the steps.
  void scale_initial_gradient() const {
    for (long s = 0, first = 0; loop_.carry_scale && s < loop_.steps; s++) {
      const long t = step(s), last = std::max(first, long(loop_.offsets[t + 1] - loop_.offsets[t]));
      const T factor = T(loop_.carry_scale[t]);
      scale(loop_.dh_state + first * size_.P, (last - first) * size_.P, factor);
      if (size_.lstm) scale(loop_.dc_state + first * size_.H, (last - first) * size_.H, factor);
      first = last;
    }
  }

  static void scale(T* gradient, long count, T factor) {
    for (long i = 0; i < count; i++) gradient[i] = factor == T(0) ? T(0) : gradient[i] * factor;
  }

  template <class U>
  static void fill(U* to, const U* from, long columns, long padded) {
    std::memcpy(to, from, columns * sizeof(U));
    std::memset(to + columns, 0, (padded - columns) * sizeof(U));
  }

  static void narrow(const T* from, long ld_from, T* to, long ld_to, long rows, long columns) {
    for (long r = 0; r < rows; r++) std::memcpy(to + r * ld_to, from + r * ld_from, columns * sizeof(T));
  }

  const T* widen(const void* from, long rows, long columns, long padded) { return widen(static_cast<const T*>(from), rows, columns, padded); }

  // With zeros behind the columns of each row, where there is room for more.
  template <class U>
  const U* widen(const U* from, long rows, long columns, long padded) {
    if (!from || columns == padded) return from;
    U* to = arena_.take<U>(rows * padded);
    for (long r = 0; to && r < rows; r++) fill(to + r * padded, from + r * columns, columns, padded);
    return to;
  }

  const tt_call& call_;
  const tt_stack& stack_;
  const tt_weights& weights_;
  Arena& arena_;
  const Sizes<T> size_;
  const int64_t number_;
  const long total_;
  Loop<T> loop_;
  Chunk* chunks_ = nullptr;
  long num_chunks_ = 0, most_rows_ = 0;
  const T *mask_ = nullptr, *zero_ = nullptr;
  long h_at_ = 0, c_at_ = 0;  // where its states lie in the caller's
};

// What every layer reads and writes.
template <class T>
class Stack {
 public:
  explicit Stack(const tt_call& call) : call_(call), stack_(*static_cast<tt_stack*>(call.stack)), place_(static_cast<T*>(call.saved)) {
    offsets_ = static_cast<const int64_t*>(call.offsets);
    if (offsets_) return;
    int64_t* full = arena_.take<int64_t>(call.steps + 1);
    for (int64_t t = 0; full && t <= call.steps; t++) full[t] = t * call.batch;
    offsets_ = full;
  }

  int forward() {
    const T* x = static_cast<T*>(call_.x);
    long ldx = weights(0).inputs;
    for (int64_t layer = 0; layer < stack_.layers && arena_.complete(); layer++) {
      const long ldo = row(layer);
      T* out = is_last(layer) ? static_cast<T*>(call_.y) : call_.training ? saved(ldo) : arena_.take<T>(call_.total * ldo);
      for (int64_t side = 0; side < stack_.directions && arena_.complete(); side++) {
        const int64_t number = layer * stack_.directions + side;
        const auto mark = arena_.mark();
        Direction<T>(call_, number, offsets_, arena_).forward(x, ldx, out, ldo, call_.training ? saved(kept(number)) : nullptr);
        arena_.rewind(mark);
      }
      x = out;
      ldx = ldo;
    }
    return !arena_.complete();
  }

  int backward() {
    const T* dout = static_cast<T*>(call_.dy);
    T* kept_of[kMost];
    const T* outputs[kMost];
    if (stack_.layers * stack_.directions > kMost) return 1;
    for (int64_t layer = 0; layer < stack_.layers; layer++) {
      outputs[layer] = is_last(layer) ? static_cast<T*>(call_.y) : saved(row(layer));
      for (int64_t side = 0; side < stack_.directions; side++) kept_of[layer * stack_.directions + side] = saved(kept(layer * stack_.directions + side));
    }
    for (int64_t layer = stack_.layers - 1; layer >= 0 && arena_.complete(); layer--) {
      const T* x = layer ? outputs[layer - 1] : static_cast<T*>(call_.x);
      const long ldx = layer ? row(layer - 1) : weights(0).inputs;
      T* dx = layer ? arena_.take<T>(call_.total * ldx) : static_cast<T*>(call_.dx);
      for (int64_t side = 0; side < stack_.directions && arena_.complete(); side++) {
        const int64_t number = layer * stack_.directions + side;
        const auto mark = arena_.mark();
        Direction<T>(call_, number, offsets_, arena_)
            .backward(x, ldx, outputs[layer], row(layer), kept_of[number], dout, row(layer), dx, ldx, side);
        arena_.rewind(mark);
      }
      dout = dx;
    }
    return !arena_.complete();
  }

 private:
  static constexpr int kMost = 1024;

  const tt_weights& weights(int64_t number) const { return static_cast<tt_weights*>(stack_.weights)[number]; }
  bool is_last(int64_t layer) const { return layer + 1 == stack_.layers; }
  long row(int64_t layer) const {
    return is_last(layer) ? stack_.directions * weights(layer * stack_.directions).columns : row_of_outputs<T>(stack_, layer);
  }
  long kept(int64_t number) const { return Sizes<T>(stack_, weights(number)).saved(); }

  // The next `row` numbers of all rows of what is saved.
  T* saved(long row) {
    T* found = place_;
    place_ += call_.total * row;
    return found;
  }

  const tt_call& call_;
  const tt_stack& stack_;
  Arena arena_;
  const int64_t* offsets_ = nullptr;
  T* place_;
};

}  // namespace tt::THROUGHTIME_ISA
