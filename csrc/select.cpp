// The doors of the library: each sends a call to the code for this processor's instructions.
//
// Chosen by CPUID feature bits, never by the processor's name. THROUGHTIME_ISA=avx512|avx2|portable asks for one of them;
// the portable code (SSE2, NEON or whatever the compiler makes of 16-byte vectors) runs everywhere.
#include <cstdlib>
#include <cstring>

#include "call.h"
#include "generate.h"
#include "matmul.h"
#include "team.hpp"

#define TT_DECLARE(isa)                         \
  int tt_forward_f32_##isa(const tt_call*);     \
  int tt_forward_f64_##isa(const tt_call*);     \
  int tt_backward_f32_##isa(const tt_call*);    \
  int tt_backward_f64_##isa(const tt_call*);    \
  int tt_panel_f32_##isa();                     \
  int tt_panel_f64_##isa();                     \
  int64_t tt_packed_f32_##isa(const tt_call*, int); \
  int64_t tt_packed_f64_##isa(const tt_call*, int); \
  int tt_multiply_f32_##isa(const tt_product*); \
  int tt_multiply_f64_##isa(const tt_product*);

#define TT_TABLE(isa)                                                                          \
  {#isa, {tt_forward_f32_##isa, tt_forward_f64_##isa}, {tt_backward_f32_##isa, tt_backward_f64_##isa}, \
   {tt_panel_f32_##isa, tt_panel_f64_##isa}, {tt_packed_f32_##isa, tt_packed_f64_##isa},               \
   {tt_multiply_f32_##isa, tt_multiply_f64_##isa}}

// Generation.
#define TT_DECLARE_GENERATION(isa)            \
  int tt_generate_##isa(tt_generation*);      \
  int tt_generation_width_##isa();

extern "C" {
TT_DECLARE(portable)
TT_DECLARE_GENERATION(portable)
#ifdef THROUGHTIME_X86
TT_DECLARE(avx2)
TT_DECLARE(avx512)
TT_DECLARE_GENERATION(avx2)
TT_DECLARE_GENERATION(avx512)
#endif
}

namespace {

struct Code {
  const char* isa;
  tt_run forward[2], backward[2];  // float32, float64
  int (*panel[2])();
  int64_t (*packed[2])(const tt_call*, int);
  tt_multiply_run multiply[2];
};

const Code kCodes[] = {
#ifdef THROUGHTIME_X86
    TT_TABLE(avx512),
    TT_TABLE(avx2),
#endif
    TT_TABLE(portable),
};

bool runs_here(const char* isa) {
#ifdef THROUGHTIME_X86
  __builtin_cpu_init();
#ifdef THROUGHTIME_NARROW  // its AVX-512 code is made of AVX2's instructions
  if (!std::strcmp(isa, "avx512")) isa = "avx2";
#endif
  if (!std::strcmp(isa, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw");
  if (!std::strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return !std::strcmp(isa, "portable");
}

const Code* choose() {
  const char* wanted = std::getenv("THROUGHTIME_ISA");
  for (const Code& code : kCodes)
    if ((!wanted || !*wanted || !std::strcmp(wanted, code.isa)) && runs_here(code.isa)) return &code;
  return nullptr;  // asked for instructions that this processor does not have
}

const Code* code() {
  static const Code* chosen = choose();
  return chosen;
}

// Generation: the same choice.
struct Generation {
  const char* isa;
  tt_generate_run run;
  int (*width)();
};

const Generation kGenerations[] = {
#ifdef THROUGHTIME_X86
    {"avx512", tt_generate_avx512, tt_generation_width_avx512},
    {"avx2", tt_generate_avx2, tt_generation_width_avx2},
#endif
    {"portable", tt_generate_portable, tt_generation_width_portable},
};

const Generation* generation() {
  const Generation* found = kGenerations;
  while (std::strcmp(found->isa, code()->isa)) found++;
  return found;
}

}  // namespace

extern "C" {

// Generation: see generate.h.
int tt_generate(tt_generation* call) { return generation()->run(call); }
int tt_generation_width() { return generation()->width(); }
int tt_size_of_generation() { return int(sizeof(tt_generation)); }

// The chosen instruction set, or null when THROUGHTIME_ISA asks for one that cannot run here.
const char* tt_isa() { return code() ? code()->isa : nullptr; }

// H must be padded to a multiple of this many numbers; `wide` is 1 for float64.
int tt_panel(int wide) { return code()->panel[wide != 0](); }

// Elements of scratch that the packed weights of a call take; `back` is 1 for backward.
int64_t tt_packed(int wide, const tt_call* call, int back) { return code()->packed[wide != 0](call, back); }

int tt_forward(int wide, const tt_call* call) { return code()->forward[wide != 0](call); }
int tt_backward(int wide, const tt_call* call) { return code()->backward[wide != 0](call); }

int tt_multiply(int wide, const tt_product* product) { return code()->multiply[wide != 0](product); }

int tt_size_of_product() { return int(sizeof(tt_product)); }
int tt_size_of_call() { return int(sizeof(tt_call)); }

// Sets flush-to-zero on every thread of the pool that torch shares; returns whether the caller's was set before.
int tt_flush_denormals(int threads, int on) {
#if defined(__x86_64__) || defined(_M_X64)
  int before = (_mm_getcsr() & 0x8040) == 0x8040;
  auto set = [&] { _mm_setcsr(on ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040u); };
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  set();
#else
  (void)threads;
  set();
#endif
  return before;
#else
  (void)threads;
  (void)on;
  return 0;
#endif
}
}
