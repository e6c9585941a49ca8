// The products with AVX-512-BF16: vdpbf16ps, 32 products to an instruction.
#include <immintrin.h>

#include "bf16.h"
#include "bf16_registers.hpp"

namespace tt::THROUGHTIME_ISA {

struct Instruction {
  TT_INLINE Floats dot(Floats sum, Ints a, Ints b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

}  // namespace tt::THROUGHTIME_ISA

extern "C" tt_bf16_code tt_bf16_code_avx512() {
  using namespace tt::THROUGHTIME_ISA;
  tt_bf16_code code{};
  code.product = pair_product<Instruction>;
  return code;
}
