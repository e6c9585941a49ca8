// Which arithmetic the matrix products inside a step use when a call wants bfloat16, and the code that does it.
//
// A factor is bfloat16, the sum is float32. The left factor (rows of state, or of gradients) is rounded once for every step,
// [rows][K]; the weights are rounded once per call into panels of pairs, [panel][K/2][columns][2]: what vdpbf16ps reads as a
// register of pairs, tdpbf16ps reads as a tile of them.
//
// TT_BF16_AVX512 is tested on a processor that has it: bit for bit what TT_BF16_EMULATED computes in plain code. TT_BF16_AMX has been
// compiled and read, and has never run: no machine at hand had it. So it is used only where it is asked for by name; what is
// tested is the order of the loops around its instructions, which TT_BF16_TILES shares and computes in plain code.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tt_bf16 { TT_BF16_OFF = 0, TT_BF16_EMULATED = 1, TT_BF16_TILES = 2, TT_BF16_AVX512 = 3, TT_BF16_AMX = 4 };

typedef struct {
  // C[r][0..columns) (+)= A[r][0..K) * panel, for one panel; lda and ldc in elements. A has rows up to a multiple of
  // TT_BF16_ROWS, the last ones finite; K is a multiple of half the panel's columns.
  void (*product)(long rows, const uint16_t *A, long lda, const uint16_t *panel, long K, float *C, long ldc, int accumulate);
  void (*begin)(void);  // on each thread before its products, and after them; or null
  void (*end)(void);
} tt_bf16_code;

enum { TT_BF16_ROWS = 16 };  // of a tile

tt_bf16_code tt_bf16_code_avx512(void);
tt_bf16_code tt_bf16_code_amx(void);

#ifdef __cplusplus
}
#endif
