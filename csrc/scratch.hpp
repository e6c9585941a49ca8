// Memory of one call: aligned, uninitialised, freed at the end.
#pragma once
#include <cstdlib>
#include <memory>

#include "simd.hpp"

namespace tt::THROUGHTIME_ISA {

template <class T>
class Scratch {
 public:
  explicit Scratch(size_t count) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, count * sizeof(T) + 64) == 0) data_.reset(static_cast<T*>(p));
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace tt::THROUGHTIME_ISA
