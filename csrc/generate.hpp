// Generation in the code of one instruction set: the functions behind those of generate.h.
#pragma once
#include "generate.h"

namespace tt::THROUGHTIME_ISA {

int generate(tt_generation* call) noexcept;  // tt_generate
int generation_width() noexcept;             // tt_generation_width

}  // namespace tt::THROUGHTIME_ISA
