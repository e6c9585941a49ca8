// The matrix products over all steps: input projection, dx and dW, without a copy of what is padded or transposed.
//
// Both matrices are packed block by block so that each part stays where it is read from: a tile of C in registers, a panel of B in the first
// cache, a block of A in the second, all panels of a block of B in the third. This order is Goto and van de Geijn's (2008),
// https://doi.org/10.1145/1356052.1356053. Threads share the panels of B and divide the rows of C. The order of every sum is the
// same for any number of threads.
#pragma once
#include <algorithm>

#include "arena.hpp"
#include "matmul.h"
#include "products.hpp"
#include "team.hpp"

namespace tt::THROUGHTIME_ISA {

constexpr long kDepth = 256;     // of a block: its panel of B takes half of a first cache of 32 KB, or all of it with wide registers
constexpr long kRows = 144;      // of a block of A: 144 KB
constexpr long kColumns = 4096;  // of a block of B: 4 MB

template <class T>
class Product {
 public:
  explicit Product(const tt_product& given) : p_(given) {
    block_ = p_.blocked == TT_COLUMNS_OF_C ? p_.block : p_.columns;
    panels_of_block_ = (block_ + P - 1) / P;
    panels_ = p_.columns / block_ * panels_of_block_;
    const long cuts = (p_.depth + kDepth - 1) / kDepth;  // of about the same size
    depth_ = (p_.depth + cuts - 1) / cuts;
    tiles_ = (p_.rows + R - 1) / R;
    // More threads are woken, and wait for each other once for each block: not for little.
    const double cost = 2.0 * p_.rows * p_.columns * p_.depth;
    threads_ = cost < 4e6 ? 1 : int(std::min<long>(p_.threads, tiles_));
    if constexpr (std::is_same_v<T, float>)
      if (p_.bf16 && p_.depth > 1) code_ = bf16_code(p_.bf16);  // an outer product has no sums: it is left in float32
  }

  bool run(Arena& arena) {
    const auto mark = arena.mark();
    const long at_once = std::min<long>(panels_, kColumns / P), own = code_.product ? kLowered : depth_ * kRows;
    T* memory = arena.take<T>(whole(depth_) * at_once * P + own * threads_);
    if (memory) together(threads_, [&](Member& member) { work(member, memory + own * member.slot, memory + own * threads_, at_once); });
    arena.rewind(mark);
    return memory;
  }

 private:
  static constexpr int P = kPanel<T>, R = kTileRows;
  // In bfloat16: a block of A as rows of bfloat16, one row or panel as float32 on its way there, and a block of C that is not whole panels.
  static constexpr long kLowRows = (kRows + TT_BF16_ROWS) / TT_BF16_ROWS * TT_BF16_ROWS, kLowRow = kDepth + 64;
  static constexpr long kWide = kLowRow * (P > R ? P : R), kLowered = kLowRows * kLowRow / 2 + kWide + kLowRows * P;

  // In bfloat16 the depth is padded with zeros to what the products read at a time.
  long whole(long depth) const { return code_.product ? (depth + P - 1) / P * P : depth; }

  void work(Member& member, T* rows, T* panels, long at_once) const {
    if (code_.begin) code_.begin();
    blocks(member, rows, panels, at_once);
    if (code_.end) code_.end();
  }

  void blocks(Member& member, T* rows, T* panels, long at_once) const {
    for (long j = 0; j < panels_; j += at_once)
      for (long k = 0; k < p_.depth; k += depth_) {
        const long count = std::min<long>(at_once, panels_ - j), depth = std::min<long>(depth_, p_.depth - k), size = whole(depth) * P;
        if ((j || k) && !member.wait()) return;  // the panels of before are still read
        for (long i = member.index; i < count; i += member.count) {
          if (code_.product)
            lower_panel(j + i, k, depth, rows, reinterpret_cast<uint16_t*>(panels) + i * size);
          else
            pack_panel(j + i, k, depth, panels + i * size);
        }
        if (!member.wait()) return;
        const long first = tiles_ * member.index / member.count, last = tiles_ * (member.index + 1) / member.count;
        multiply(first, last, j, count, k, depth, rows, panels);
      }
    member.wait();
  }

  // The tiles [first, last) of rows times some panels, in blocks of A of about the same size.
  void multiply(long first, long last, long panel, long count, long k, long depth, T* rows, const T* panels) const {
    const long blocks = ((last - first) * R + kRows - 1) / kRows;
    for (long b = 0; b < blocks; b++) {
      const long from = first + (last - first) * b / blocks, to = first + (last - first) * (b + 1) / blocks;
      if (code_.product) {
        lowered(from * R, std::min<long>(to * R, p_.rows), panel, count, k, depth, rows, panels);
        continue;
      }
      for (long i = from; i < to; i++) {
        T* tile = rows + (i - from) * R * depth;
        p_.transposed_a ? pack_transposed(i * R, k, depth, tile) : pack_tile(i * R, k, depth, tile);
      }
      for (long j = 0; j < count; j++)
        for (long i = from; i < to; i++)
          one_tile(i * R, panel + j, rows + (i - from) * R * depth, panels + j * P * depth, depth, p_.accumulate || k);
    }
  }

  void one_tile(long row, long panel, const T* rows, const T* columns, long depth, bool accumulate) const {
    const long inside = panel % panels_of_block_ * P;
    const long count = std::min<long>(R, p_.rows - row), width = std::min<long>(P, block_ - inside);
    T* c = static_cast<T*>(p_.c) + row * p_.ldc + panel / panels_of_block_ * p_.padded + inside;
    if (count == R && width == P) return tile<T, R>(rows, 1, R, columns, int(depth), c, p_.ldc, accumulate);
    alignas(64) T sums[R * P];
    tile<T, R>(rows, 1, R, columns, int(depth), sums, P, false);
    add(c, sums, count, width, accumulate);
  }

  // Rows [from, to) of A, at most a block, times some panels, in bfloat16.
  void lowered(long from, long to, long panel, long count, long k, long depth, T* scratch, const T* panels) const {
    if constexpr (std::is_same_v<T, float>) {
      uint16_t* rows = reinterpret_cast<uint16_t*>(scratch);
      float *wide = scratch + kLowRows * kLowRow / 2, *sums = wide + kWide;
      const long padded = whole(depth);
      for (long r = from; r < to; r += R) {  // as tiles first, [k][R]: as packed for float32
        const long tile = std::min<long>(R, to - r);
        p_.transposed_a ? pack_transposed(r, k, depth, wide) : pack_tile(r, k, depth, wide);
        alignas(64) float row[kLowRow];
        for (long i = 0; i < tile; i++) {
          for (long n = 0; n < depth; n++) row[n] = wide[n * R + i];
          for (long n = depth; n < padded; n++) row[n] = 0;
          rows_to_bf16(1, row, 0, padded, rows + (r - from + i) * kLowRow, kLowRow);
        }
      }
      const long all = (to - from + TT_BF16_ROWS - 1) / TT_BF16_ROWS * TT_BF16_ROWS;
      for (long r = to - from; r < all; r++) std::memset(rows + r * kLowRow, 0, padded * sizeof *rows);
      for (long j = 0; j < count; j++) {
        const uint16_t* pairs = reinterpret_cast<const uint16_t*>(panels) + j * padded * P;
        const long inside = (panel + j) % panels_of_block_ * P;
        float* c = static_cast<float*>(p_.c) + from * p_.ldc + (panel + j) / panels_of_block_ * p_.padded + inside;
        if (block_ - inside >= P) {
          code_.product(to - from, rows, kLowRow, pairs, padded, c, p_.ldc, p_.accumulate || k);
          continue;
        }
        code_.product(to - from, rows, kLowRow, pairs, padded, sums, P, false);
        add(c, sums, to - from, block_ - inside, p_.accumulate || k);
      }
    }
  }

  // The first `width` columns of a panel of sums to C, and zeros behind them where C is in blocks.
  void add(T* c, const T* sums, long count, long width, bool accumulate) const {
    for (long r = 0; r < count; r++, c += p_.ldc) {
      for (long u = 0; u < width; u++) c[u] = accumulate ? c[u] + sums[r * P + u] : sums[r * P + u];
      for (long u = width; u < P && p_.blocked == TT_COLUMNS_OF_C; u++) c[u] = 0;
    }
  }

  void lower_panel(long panel, long k, long depth, T* scratch, uint16_t* to) const {
    if constexpr (std::is_same_v<T, float>) {
      float* wide = scratch + kLowRows * kLowRow / 2;
      pack_panel(panel, k, depth, wide);
      std::memset(wide + depth * P, 0, (whole(depth) - depth) * P * sizeof *wide);
      panel_to_bf16(wide, whole(depth), to);
    }
  }

  // Where index i of the blocked dimension lies.
  long at(long i) const { return i / p_.block * p_.padded + i % p_.block; }

  // R rows of A, [k][R]; zeros behind the last row.
  void pack_tile(long row, long k, long depth, T* to) const {
    const long count = std::min<long>(R, p_.rows - row);
    if (count < R) std::memset(to, 0, sizeof(T) * R * depth);
    for (long i = 0, next; i < depth; i = next) {  // as far as the depth lies in one piece
      next = p_.blocked == TT_DEPTH_OF_A ? std::min(depth, ((k + i) / p_.block + 1) * p_.block - k) : depth;
      const T* from = static_cast<const T*>(p_.a) + row * p_.lda + (p_.blocked == TT_DEPTH_OF_A ? at(k + i) : k + i) - i;
      if (count == R)
        for (long n = i; n < next; n++)
          for (long r = 0; r < R; r++) to[n * R + r] = from[r * p_.lda + n];
      else
        for (long r = 0; r < count; r++)
          for (long n = i; n < next; n++) to[n * R + r] = from[r * p_.lda + n];
    }
  }

  void pack_transposed(long row, long k, long depth, T* to) const {
    const long count = std::min<long>(R, p_.rows - row), end = row + count - 1;
    const T* a = static_cast<const T*>(p_.a) + k * p_.lda;
    if (count == R && (p_.blocked != TT_ROWS_OF_A || row / p_.block == end / p_.block)) {  // side by side
      a += p_.blocked == TT_ROWS_OF_A ? at(row) : row;
      for (long i = 0; i < depth; i++)
        for (long r = 0; r < R; r++) to[i * R + r] = a[i * p_.lda + r];
      return;
    }
    if (count < R) std::memset(to, 0, sizeof(T) * R * depth);
    long place[R];
    for (long r = 0; r < count; r++) place[r] = p_.blocked == TT_ROWS_OF_A ? at(row + r) : row + r;
    for (long i = 0; i < depth; i++)
      for (long r = 0; r < count; r++) to[i * R + r] = a[i * p_.lda + place[r]];
  }

  // P columns of B, [k][P]; zeros behind the last column.
  void pack_panel(long panel, long k, long depth, T* to) const {
    const long inside = panel % panels_of_block_ * P;
    const long column = panel / panels_of_block_ * block_ + inside, width = std::min<long>(P, block_ - inside);
    const T* b = static_cast<const T*>(p_.b);
    const T* const* apart = static_cast<const T* const*>(p_.rows_of_b);
    if (width < P) std::memset(to, 0, sizeof(T) * P * depth);
    if (!p_.transposed_b) {
      for (long i = 0; i < depth; i++)
        std::memcpy(to + i * P, (apart ? apart[k + i] : b + (k + i) * p_.ldb) + column, sizeof(T) * width);
      return;
    }
    transposed(b + column * p_.ldb + k, p_.ldb, width, depth, to, P);
  }

  tt_product p_;
  long block_;  // columns of B in a block of C: all of them where C is not the one in blocks
  long panels_, panels_of_block_, depth_, tiles_;
  int threads_;
  tt_bf16_code code_ = {};
};

}  // namespace tt::THROUGHTIME_ISA
