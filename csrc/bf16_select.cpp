// Which bfloat16 arithmetic this processor, this system and this build can run: see bf16.h.
#include <cstring>

#include "bf16.h"

#if defined(THROUGHTIME_AVX512_BF16) || defined(THROUGHTIME_AMX)
#include <cpuid.h>
#endif
#if defined(THROUGHTIME_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern "C" const char* tt_isa();

namespace {

const char* const kNames[] = {"off", "emulated", "tiles", "avx512", "amx"};  // by the numbers of tt_bf16

#if defined(THROUGHTIME_AVX512_BF16) || defined(THROUGHTIME_AMX)
// One bit of CPUID leaf 7: the registers are eax, ebx, ecx, edx.
bool has(unsigned leaf, int number, int bit) {
  unsigned found[4] = {};
  return __get_cpuid_count(7, leaf, &found[0], &found[1], &found[2], &found[3]) && (found[number] >> bit & 1);
}
#endif

#ifdef THROUGHTIME_AMX
#ifdef __linux__
constexpr long kTileData = 18;  // XFEATURE_XTILE_DATA

// Whether Linux can keep tiles, 8 KiB of state for each thread: it answers without giving any.
bool system_knows_tiles() {
  unsigned long known = 0;
  const long ask = 0x1021;  // ARCH_GET_XCOMP_SUPP
  return syscall(SYS_arch_prctl, ask, &known) == 0 && (known >> kTileData & 1);
}

// Linux wants to be asked before it keeps them. Asking again costs little and is harmless, and threads that run already
// are meant too.
bool system_keeps_tiles() {
  const long request = 0x1023;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request, kTileData) == 0;
}
#else
bool system_knows_tiles() { return false; }
bool system_keeps_tiles() { return false; }
#endif
#endif

bool can_run(int which) {
  if (which < TT_BF16_OFF || which > TT_BF16_AMX) return false;
  if (which <= TT_BF16_TILES) return true;
  // Panels as wide as the instructions need are those of the AVX-512 code; its choice asked the system for its registers.
  const char* isa = tt_isa();
  if (!isa || std::strcmp(isa, "avx512")) return false;
#ifdef THROUGHTIME_AVX512_BF16
  if (which == TT_BF16_AVX512) return has(1, 0, 5);
#endif
#ifdef THROUGHTIME_AMX
  if (which == TT_BF16_AMX) return has(0, 3, 24) && has(0, 3, 22) && system_knows_tiles();
#endif
  return false;
}

// Whether it can, once the system was asked for what it needs.
bool ready(int which) {
#ifdef THROUGHTIME_AMX
  if (which == TT_BF16_AMX) return can_run(which) && system_keeps_tiles();
#endif
  return can_run(which);
}

}  // namespace

extern "C" {

// Whether this processor, this system and this build can run the arithmetic of that number; asks the system for nothing.
int tt_bf16_can_run(int which) { return can_run(which); }

// The number of the arithmetic of that name, or for null or "" of the fastest that has been tested on a processor; -1 when it
// cannot run here, -2 for no name of any. AMX is chosen by name alone: see bf16.h.
int tt_bf16_choose(const char* wanted) {
  if (!wanted || !*wanted) return ready(TT_BF16_AVX512) ? TT_BF16_AVX512 : TT_BF16_OFF;
  for (int which = TT_BF16_OFF; which <= TT_BF16_AMX; which++)
    if (!std::strcmp(wanted, kNames[which])) return ready(which) ? which : -1;
  return -2;
}
}
