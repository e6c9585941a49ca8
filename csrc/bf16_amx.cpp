// The products with AMX: tdpbf16ps, 16 x 16 sums of 32 products to an instruction. Compiled, never run: see bf16.h.
//
// In assembly, not with the compiler's intrinsics: theirs do not say that a tile is loaded from memory, so that what was
// written there just before may come too late, or be left out.
#include "bf16.h"
#include "bf16_tiles.hpp"

namespace tt::THROUGHTIME_ISA {

// What tileloadconfig reads: 8 tiles of 16 rows of 64 bytes.
struct Configuration {
  uint8_t palette = 1, start_row = 0, none[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Configuration) == 64 && TT_BF16_ROWS == 16 && THROUGHTIME_BYTES == 64);

class AmxTiles {
 public:
  template <int N>
  __attribute__((always_inline)) void load(const void* from, long stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(N) : "memory");
  }
  template <int N>
  __attribute__((always_inline)) void store(void* to, long stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(N) : "memory");
  }
  template <int N>
  __attribute__((always_inline)) void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(N));
  }
  template <int Sums, int A, int B>
  __attribute__((always_inline)) void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
  }
};

// A thread's tiles are configured once, before its products, and given back after: an idle processor sleeps deeper without them.
static void configure() {
  const Configuration configuration;
  asm volatile("ldtilecfg %0" ::"m"(configuration));
}

static void release() { asm volatile("tilerelease"); }

}  // namespace tt::THROUGHTIME_ISA

extern "C" tt_bf16_code tt_bf16_code_amx() {
  using namespace tt::THROUGHTIME_ISA;
  tt_bf16_code code{};
  code.product = tile_product<AmxTiles>;
  code.begin = configure;
  code.end = release;
  return code;
}
