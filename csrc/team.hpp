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

// Runs work(member, members) on up to `threads` threads.
template <class Work>
void together(int threads, Work&& work) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      FlushDenormals flush;
      work(omp_get_thread_num(), omp_get_num_threads());
    }
    return;
  }
#endif
  FlushDenormals flush;
  work(0, 1);
}

}  // namespace tt::THROUGHTIME_ISA
