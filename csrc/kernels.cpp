// Everything of one instruction set, compiled once for each.
#include "kernels.h"

#include "decode.hpp"
#include "generate.hpp"
#include "stack.hpp"
#include "stream.hpp"

namespace tt::THROUGHTIME_ISA {
namespace {

template <class T>
int forward(const tt_call& call) {
  return Stack<T>(call).forward();
}

template <class T>
int backward(const tt_call& call) {
  return Stack<T>(call).backward();
}

template <class T>
int multiply(const tt_product& product) {
  Arena arena;
  return !Product<T>(product).run(arena);
}

#define TT_TEXT_(name) #name
#define TT_TEXT(name) TT_TEXT_(name)

constexpr tt_kernels table() {
  tt_kernels all{};
  all.isa = TT_TEXT(THROUGHTIME_ISA);
  all.forward[0] = forward<float>;
  all.forward[1] = forward<double>;
  all.backward[0] = backward<float>;
  all.backward[1] = backward<double>;
  all.saved_row[0] = saved_row<float>;
  all.saved_row[1] = saved_row<double>;
  all.multiply[0] = multiply<float>;
  all.multiply[1] = multiply<double>;
  all.panel[0] = kPanel<float>;
  all.panel[1] = kPanel<double>;
  all.generate = tt::THROUGHTIME_ISA::generate;
  all.generation_width = tt::THROUGHTIME_ISA::generation_width;
  all.stream = tt::THROUGHTIME_ISA::stream;
  all.decode = tt::THROUGHTIME_ISA::decode;
  all.release = Arena::release;
  return all;
}

}  // namespace

extern const tt_kernels kernels = table();

}  // namespace tt::THROUGHTIME_ISA
