// The entries of the library: each sends a call to the code for this processor's instructions.
//
// Chosen by CPUID feature bits, never by the processor's name. THROUGHTIME_ISA=avx512|avx2|portable asks for one of them;
// the portable code (SSE2, NEON or whatever the compiler makes of 16-byte vectors) runs everywhere.
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace {

const tt_kernels* const kAll[] = {
#ifdef THROUGHTIME_X86
    &tt::avx512::kernels,
    &tt::avx2::kernels,
#endif
    &tt::portable::kernels,
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

const tt_kernels* choose() {
  const char* wanted = std::getenv("THROUGHTIME_ISA");
  for (const tt_kernels* each : kAll)
    if ((!wanted || !*wanted || !std::strcmp(wanted, each->isa)) && runs_here(each->isa)) return each;
  return nullptr;  // asked for instructions that this processor does not have
}

// Null when THROUGHTIME_ISA asks for instructions that cannot run here: Python then calls nothing else.
const tt_kernels* kernels() {
  static const tt_kernels* chosen = choose();
  return chosen;
}

const tt_stack& stack(const tt_call* call) { return *static_cast<const tt_stack*>(call->stack); }

std::atomic<bool> is_forked{false};
const int kWatch = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

}  // namespace

namespace tt {
bool forked() { return is_forked && !kWatch; }
}  // namespace tt

extern "C" {

// The chosen instruction set, or null when THROUGHTIME_ISA asks for one that cannot run here.
const char* tt_isa() { return kernels() ? kernels()->isa : nullptr; }

int tt_forward(const tt_call* call) { return kernels()->forward[stack(call).wide != 0](*call); }
int tt_backward(const tt_call* call) { return kernels()->backward[stack(call).wide != 0](*call); }
int64_t tt_saved_row(const tt_stack* stack) { return kernels()->saved_row[stack->wide != 0](*stack); }
int tt_multiply(int wide, const tt_product* product) { return kernels()->multiply[wide != 0](*product); }
int tt_panel(int wide) { return kernels()->panel[wide != 0]; }

// Generation: see generate.h.
int tt_generate(tt_generation* call) { return kernels()->generate(call); }
int tt_generation_width() { return kernels()->generation_width(); }

// Streaming: see stream.h.
int tt_stream_chunks(const tt_stream* call) { return kernels()->stream(call); }

// Decoding: see decode.h.
int tt_decode_step(const tt_decode* call) { return kernels()->decode(call); }

// Frees the scratch memory that is kept from call to call.
void tt_release() {
  if (kernels()) kernels()->release();
}

#define TT_LINE_INTEGER(name) "integer " #name "\n"
#define TT_LINE_NUMBER(name) "number " #name "\n"
#define TT_LINE_POINTER(name) "pointer " #name "\n"
#define TT_LINE_ARRAY(_, name) TT_LINE_POINTER(name)
#define TT_LINES(name, fields) "struct " #name "\n" fields(TT_LINE_INTEGER, TT_LINE_NUMBER, TT_LINE_POINTER)
#define TT_ARRAY_LINES(name, fields) "struct " #name "\n" fields(TT_LINE_INTEGER, TT_LINE_NUMBER, TT_LINE_ARRAY)
#define TT_LINE_CELL(_, name) "cell " #name "\n"
#define TT_LINE_ACTIVATION(_, name) "activation " #name "\n"

const char* tt_describe() {
  return TT_LINES(weights, TT_WEIGHTS) TT_LINES(masks, TT_MASKS) TT_LINES(stack, TT_STACK) TT_LINES(call, TT_CALL)
      TT_LINES(product, TT_PRODUCT) TT_ARRAY_LINES(generation_layer, TT_GENERATION_LAYER)
          TT_ARRAY_LINES(generation, TT_GENERATION) TT_ARRAY_LINES(stream, TT_STREAM)
              TT_ARRAY_LINES(decode, TT_DECODE) TT_CELLS(TT_LINE_CELL) TT_ACTIVATIONS(TT_LINE_ACTIVATION);
}
}
