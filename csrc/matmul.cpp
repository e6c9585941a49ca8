// The matrix products over all steps. Compiled once for every instruction set.
#include "matmul.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
static int multiply(const tt_product& product) {
  return product.rows && product.columns && product.depth && !Product<T>(product).run();
}

}  // namespace tt::THROUGHTIME_ISA

#define TT_JOIN_(a, b) a##_##b
#define TT_JOIN(a, b) TT_JOIN_(a, b)
#define TT_NAME(base) TT_JOIN(base, THROUGHTIME_ISA)

extern "C" {
int TT_NAME(tt_multiply_f32)(const tt_product* product) { return tt::THROUGHTIME_ISA::multiply<float>(*product); }
int TT_NAME(tt_multiply_f64)(const tt_product* product) { return tt::THROUGHTIME_ISA::multiply<double>(*product); }
}
