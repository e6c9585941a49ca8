// Which bfloat16 arithmetic this processor, this system and this build can run: see bf16.h.
#include <cstring>

#include "bf16.h"

#ifdef THROUGHTIME_X86
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern "C" const char* tt_isa();

namespace {

const char* const kNames[] = {"off", "emulated", "tiles", "avx512", "amx"};  // by the numbers of tt_bf16

#ifdef THROUGHTIME_X86
// One bit of CPUID leaf 7: the registers are eax, ebx, ecx, edx.
bool has(unsigned leaf, int number, int bit) {
  unsigned found[4] = {};
  return __get_cpuid_count(7, leaf, &found[0], &found[1], &found[2], &found[3]) && (found[number] >> bit & 1);
}

// Tiles are 8 KiB of state for each thread: Linux wants to be asked before it keeps them. Asking again costs little and is
// harmless, and threads that run already are meant too.
bool system_keeps_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  const long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}
#endif

bool runs_here(int which) {
  if (which <= TT_BF16_TILES) return true;
  // Panels as wide as the instructions need are those of the AVX-512 code; its choice asked the system for its registers.
  if (!tt_isa() || std::strcmp(tt_isa(), "avx512")) return false;
#ifdef THROUGHTIME_AVX512_BF16
  if (which == TT_BF16_AVX512) return has(1, 0, 5);
#endif
#ifdef THROUGHTIME_AMX
  if (which == TT_BF16_AMX) return has(0, 3, 24) && has(0, 3, 22) && system_keeps_tiles();
#endif
  return false;
}

}  // namespace

extern "C" {

// The number of the arithmetic of that name, or of the fastest for null or ""; -1 when it cannot run here, -2 for no name of any.
int tt_bf16_choose(const char* wanted) {
  if (!wanted || !*wanted) return runs_here(TT_BF16_AMX) ? TT_BF16_AMX : runs_here(TT_BF16_AVX512) ? TT_BF16_AVX512 : TT_BF16_OFF;
  for (int which = TT_BF16_OFF; which <= TT_BF16_AMX; which++)
    if (!std::strcmp(wanted, kNames[which])) return runs_here(which) ? which : -1;
  return -2;
}

const char* tt_bf16_name(int which) { return kNames[which]; }
}
