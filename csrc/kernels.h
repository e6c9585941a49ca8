// The functions of the library for one instruction set: a table each, of which select.cpp chooses one.
#pragma once
#include "call.h"
#include "decode.h"
#include "generate.h"
#include "matmul.h"
#include "stream.h"

struct tt_kernels {
  const char* isa;
  int (*forward[2])(const tt_call&);  // float32, float64; 0, or 1 when there is no memory
  int (*backward[2])(const tt_call&);
  int64_t (*saved_row[2])(const tt_stack&);
  int (*multiply[2])(const tt_product&);
  int panel[2];  // numbers of a panel, to whose multiples sizes are padded
  int (*generate)(tt_generation*);
  int (*generation_width)();
  int (*stream)(const tt_stream*);
  int (*decode)(const tt_decode*);
  void (*release)();
};

namespace tt::avx512 {
extern const tt_kernels kernels;
}
namespace tt::avx2 {
extern const tt_kernels kernels;
}
namespace tt::portable {
extern const tt_kernels kernels;
}
