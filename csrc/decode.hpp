// Decoding in the code of one instruction set: the function behind that of decode.h.
#pragma once
#include "decode.h"

namespace tt::THROUGHTIME_ISA {

int decode(const tt_decode* call) noexcept;  // tt_decode_step

}  // namespace tt::THROUGHTIME_ISA
