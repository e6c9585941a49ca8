// The scratch memory of a call: one block, taken from the front, reused by the next call.
//
// Fresh pages cost as much as a small product, so idle blocks are kept (at most kIdle of them, kMostKept bytes each) until tt_release.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "simd.hpp"

namespace tt::THROUGHTIME_ISA {

class Arena {
 public:
  Arena() {
    for (auto& slot : idle_)
      if ((first_ = slot.exchange(nullptr))) break;
    place_ = first_ ? first_->memory() : nullptr;
    room_ = first_ ? first_->size : 0;
  }

  // Blocks that were added become one: the next call of this size needs no other.
  ~Arena() {
    if (more_) {
      free_list(more_);
      free_list(first_);
      first_ = most_ <= kMostKept ? block(most_) : nullptr;
    }
    if (!first_) return;
    for (auto& slot : idle_) {
      Block* none = nullptr;
      if (slot.compare_exchange_strong(none, first_)) return;
    }
    free_list(first_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised, aligned to a cache line; null, and `complete` is false from then on, when there is no memory.
  template <class T>
  T* take(size_t count) {
    static_assert(std::is_trivial_v<T>);
    const size_t size = (count * sizeof(T) + 127) / 64 * 64;
    if (size > room_ && !add(size)) return nullptr;
    taken_ += size;
    if (taken_ > most_) most_ = taken_;
    char* found = place_;
    place_ += size;
    room_ -= size;
    return reinterpret_cast<T*>(found);
  }

  template <class T>
  T* zeros(size_t count) {
    T* found = take<T>(count);
    if (found) std::memset(static_cast<void*>(found), 0, count * sizeof(T));
    return found;
  }

  bool complete() const { return complete_; }

  // What is taken after a mark can be given back at once.
  struct Mark {
    void* last;
    char* place;
    size_t room, taken;
  };
  Mark mark() const { return {more_, place_, room_, taken_}; }
  void rewind(const Mark& to) {
    if (more_ == to.last) {
      place_ = to.place;
      room_ = to.room;
    }
    taken_ = to.taken;
  }

  // Frees the idle blocks.
  static void release() {
    for (auto& slot : idle_) free_list(slot.exchange(nullptr));
  }

 private:
  static constexpr size_t kMostKept = size_t(1) << 29, kHugePage = size_t(2) << 20;
  static constexpr int kIdle = 8;

  struct Block {
    Block* next;
    size_t size;
    char* memory() { return reinterpret_cast<char*>(this) + 64; }
  };

  static Block* block(size_t size) {
    void* p = nullptr;
    if (posix_memalign(&p, size >= kHugePage ? kHugePage : 64, size + 64)) return nullptr;
#ifdef __linux__
    if (size >= kHugePage) madvise(p, (size + 64) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    Block* made = static_cast<Block*>(p);
    made->next = nullptr;
    made->size = size;
    return made;
  }

  static void free_list(Block* one) {
    while (one) {
      Block* next = one->next;
      std::free(one);
      one = next;
    }
  }

  bool add(size_t size) {
    Block* made = block(size > kLeast ? size : kLeast);
    if (!made) return complete_ = false;
    made->next = more_;
    more_ = made;
    place_ = made->memory();
    room_ = made->size;
    return true;
  }

  static constexpr size_t kLeast = 1 << 16;
  inline static std::atomic<Block*> idle_[kIdle] = {};

  Block *first_ = nullptr, *more_ = nullptr;
  char* place_ = nullptr;
  size_t room_ = 0, taken_ = 0, most_ = 0;
  bool complete_ = true;
};

}  // namespace tt::THROUGHTIME_ISA
