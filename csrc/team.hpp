// The threads of one call: torch's own OpenMP pool, a barrier that spins, and denormals flushed while it runs.
#pragma once
#include <atomic>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#include <thread>

#include "simd.hpp"

namespace tt {
// Whether this process was forked: the threads of the pool are gone then, and OpenMP would wait for them for ever. See select.cpp.
bool forked();
}  // namespace tt

namespace tt::THROUGHTIME_ISA {

class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}

  // `round` is the caller's own count of barriers passed.
  void wait(int& round) {
    int mine = round++;
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      passed_.store(mine + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; passed_.load(std::memory_order_acquire) != mine + 1;) {
#if defined(__x86_64__) || defined(_M_X64)
      _mm_pause();
#endif
      if (++spins > 2000) {  // the other thread has lost its core: give it ours
        std::this_thread::yield();
        spins = 0;
      }
    }
  }

 private:
  const int members_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> passed_{0};
};

// A vanishing gradient is made of denormal numbers, on which arithmetic is up to a hundred times slower.
class FlushDenormals {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(before_ | (1ull << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
  unsigned long long before_;
#else
  FlushDenormals() {}
#endif
};

// One of the threads that do a piece of work together.
class Member {
 public:
  Member(int number, int members, Barrier* barrier) : index(number), count(members), barrier_(barrier) {}

  const int index, count;

  // Until all have come here.
  void wait() {
    if (count > 1) barrier_->wait(round_);
  }

 private:
  Barrier* barrier_;
  int round_ = 0;
};

// Runs work(member) on `threads` threads, or on one where they cannot be had: `member.count` says which.
template <class Work>
void together(int threads, Work&& work) {
#ifdef _OPENMP
  if (threads > 1 && !forked()) {
    Barrier barrier(threads);
#pragma omp parallel num_threads(threads)
    {
      FlushDenormals flush;
      const int index = omp_get_thread_num();
      if (omp_get_num_threads() == threads) {
        Member member(index, threads, &barrier);
        work(member);
      } else if (index == 0) {  // a nested region
        Member alone(0, 1, nullptr);
        work(alone);
      }
    }
    return;
  }
#endif
  FlushDenormals flush;
  Member alone(0, 1, nullptr);
  work(alone);
}

}  // namespace tt::THROUGHTIME_ISA
