// Streaming in the code of one instruction set: the function behind that of stream.h.
#pragma once
#include "stream.h"

namespace tt::THROUGHTIME_ISA {

int stream(const tt_stream* call) noexcept;  // tt_stream_chunks

}  // namespace tt::THROUGHTIME_ISA
