// The matrix products of one thread inside a step, in the arithmetic that the call asks for: float32 and float64 as they lie, or
// bfloat16 factors with float32 sums (bf16.h), whose left factor is rounded once for all panels.
//
// The weights are packed into panels (gemm.hpp) once per call. Packing costs as much as some dozen rows of a product, so a call of few
// rows reads the weights as the caller has them.
#pragma once
#include "bf16.h"
#include "bf16_registers.hpp"
#include "bf16_tiles.hpp"
#include "cells.hpp"
#include "unpacked.hpp"

namespace tt::THROUGHTIME_ISA {

// Without a product for TT_BF16_OFF, and for instructions that this code was built without.
static tt_bf16_code bf16_code(int64_t which) {
  switch (which) {
    case TT_BF16_EMULATED: return {pair_product<EmulatedDot>, nullptr, nullptr};
    case TT_BF16_TILES: return {tile_product<MemoryTiles>, nullptr, nullptr};
#if THROUGHTIME_BYTES == 64 && defined(THROUGHTIME_AVX512_BF16)
    case TT_BF16_AVX512: return tt_bf16_code_avx512();
#endif
#if THROUGHTIME_BYTES == 64 && defined(THROUGHTIME_AMX)
    case TT_BF16_AMX: return tt_bf16_code_amx();
#endif
    default: return {nullptr, nullptr, nullptr};
  }
}

template <class T>
class Products {
 public:
  // What a thread needs besides: numbers of T. `longest`: the largest K of a product.
  static size_t scratch(const Loop<T>& loop, long longest) {
    if (!lowers(loop)) return 0;
    const size_t rows = (loop.batch + TT_BF16_ROWS - 1) / TT_BF16_ROWS * TT_BF16_ROWS;
    return longest * kPanel<T> + rows * row(longest);
  }

  Products(const Loop<T>& loop, long longest, T* scratch) : code_(lowers(loop) ? bf16_code(loop.bf16) : tt_bf16_code{}) {
    if (!code_.product) return;
    panel_ = scratch;
    rows_ = reinterpret_cast<uint16_t*>(scratch + longest * kPanel<T>);
    ldr_ = row(longest);
    // The rows behind the last are multiplied too, and what comes of them is thrown away.
    std::memset(rows_, 0, (Products::scratch(loop, longest) - longest * kPanel<T>) * sizeof(T));
    if (code_.begin) code_.begin();
  }
  ~Products() {
    if (code_.end) code_.end();
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Packs what `pack` writes as panel number `index` of `packed`, `size` numbers each.
  template <class Pack>
  void pack(T* packed, long index, long size, Pack&& pack) {
    if constexpr (std::is_same_v<T, float>) {
      if (code_.product) {
        pack(panel_);
        return panel_to_bf16(panel_, size / kPanel<T>, reinterpret_cast<uint16_t*>(packed) + index * size);
      }
    }
    pack(packed + index * size);
  }

  // The left factor of the next products, [rows][K]. Of its columns `real` count: what lies behind them may be infinite, and times
  // the zeros behind the weights that is no number. In bfloat16 all K are multiplied.
  void left(int rows, const T* A, long lda, long K, long real) {
    count_ = rows;
    A_ = A;
    lda_ = lda;
    K_ = code_.product ? K : real;
    if constexpr (std::is_same_v<T, float>)
      if (code_.product) rows_to_bf16(rows, A, lda, K, rows_, ldr_);
  }

  // C (+)= left * panel number `index` of `packed`, `size` numbers each.
  void into(T* C, long ldc, const T* packed, long index, long size, bool accumulate) const {
    if constexpr (std::is_same_v<T, float>)
      if (code_.product)
        return code_.product(count_, rows_, ldr_, reinterpret_cast<const uint16_t*>(packed) + index * size, K_, C, ldc, accumulate);
    product(count_, A_, lda_, packed + index * size, int(K_), C, ldc, accumulate);
  }

  // Forward, from weights that are not packed: C (+)= left * W^T for the units of panel j of a block.
  void into_forward(T* C, long ldc, const Part<T>& part, int gate, long j, bool accumulate) const {
    const Matrix& matrix = part.matrix;
    const long first = j * kPanel<T>, count = std::min<long>(kPanel<T>, matrix.real_rows - first);
    const T* weights = matrix.block<T>(part.gates[gate].weight_block) + first * matrix.real_columns;
    rows_times_rows(count_, A_, lda_, weights, matrix.real_columns, std::max<long>(count, 0), matrix.real_columns, C, ldc, accumulate);
    for (long r = 0; r < count_ && !accumulate; r++)
      for (long u = std::max<long>(count, 0); u < kPanel<T>; u++) C[r * ldc + u] = 0;
  }

  // Backward, likewise: C (+)= left * W for the columns of panel j, where all columns are real; the gates lie side by side in `left`.
  void into_backward(T* C, long ldc, const Part<T>& part, long j, bool accumulate) const {
    const Matrix& matrix = part.matrix;
    for (int g = 0; g < part.products; g++) {
      const T* weights = matrix.block<T>(part.gates[g].weight_block) + j * kPanel<T>;
      rows_times_columns(count_, A_ + g * matrix.rows, lda_, weights, matrix.real_columns, matrix.real_rows, C, ldc, accumulate || g);
    }
  }

 private:
  static bool lowers(const Loop<T>& loop) { return std::is_same_v<T, float> && loop.bf16 != TT_BF16_OFF; }
  // Past a power of two, whose multiples would compete for the same cache lines.
  static long row(long K) { return K + 32; }

  tt_bf16_code code_;
  T* panel_ = nullptr;
  uint16_t* rows_ = nullptr;
  long ldr_ = 0;
  int count_ = 0;
  const T* A_ = nullptr;
  long lda_ = 0, K_ = 0;
};

}  // namespace tt::THROUGHTIME_ISA
