// The threads of one call: torch's own OpenMP pool, a barrier, and denormals flushed while it runs.
//
// On a machine with busy neighbours a thread may lose its core for milliseconds, and all others wait for it at the next barrier. So a
// thread that waits for long sleeps, which gives its core away, and then goes on alone; the next calls run on one thread for a while.
#pragma once
#include <atomic>
#include <chrono>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#else
#include <thread>
#endif

#include "simd.hpp"

namespace tt {
// Whether this process was forked: the threads of the pool are gone then, and OpenMP would wait for them for ever. See select.cpp.
bool forked();
}  // namespace tt

namespace tt::THROUGHTIME_ISA {

constexpr int64_t kSpin = 50'000;   // nanoseconds at a barrier before a thread sleeps
constexpr int64_t kLate = 300'000;  // after which the others go on without the one they wait for, if that is a quarter of their work
constexpr int64_t kStart = 4'000'000;  // at the first barrier, where it may still have to wake up: a core that sleeps takes long to come
constexpr int64_t kLost = 700'000;  // without a core, of the thread that waits for the others, if that is an eighth of its time
constexpr int64_t kFirstPause = 20'000'000, kLongestPause = 320'000'000;  // on one thread after that, doubled each time

static inline int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Whether threads of this process have to wait for a core. Found where one was late at a barrier, or lost its core for long: torch's
// own threads spin for milliseconds after their work, and may do so on the core that this thread needs.
class Contention {
 public:
  static bool now() {
    const int64_t until = until_.load(std::memory_order_relaxed);
    return until && nanoseconds() < until;
  }

  // Before and after the work of a team: `lost` says whether this thread has lost its core since then.
  struct Moment {
    int64_t wall = 0, running = 0, switches = 0;
  };
  static Moment moment() {
    Moment now;
#ifdef __linux__
    timespec running;
    rusage used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &running);
    getrusage(RUSAGE_THREAD, &used);
    now.running = running.tv_sec * 1'000'000'000 + running.tv_nsec;
    now.switches = used.ru_nivcsw;
#endif
    now.wall = nanoseconds();
    return now;
  }
  static bool lost(const Moment& from, const Moment& to) {
    const int64_t wall = to.wall - from.wall, off = wall - (to.running - from.running);
    return to.switches > from.switches && off > kLost && off > wall / 8;
  }

  static void found() {
    const int64_t pause = pause_.load(std::memory_order_relaxed);
    until_.store(nanoseconds() + pause, std::memory_order_relaxed);
    pause_.store(pause < kLongestPause ? 2 * pause : pause, std::memory_order_relaxed);
  }
  static void not_found() {
    if (!until_.load(std::memory_order_relaxed)) return;
    const int64_t pause = pause_.load(std::memory_order_relaxed);
    if (pause > kFirstPause)
      pause_.store(pause / 2, std::memory_order_relaxed);
    else
      until_.store(0, std::memory_order_relaxed);
  }

 private:
  inline static std::atomic<int64_t> until_{0}, pause_{kFirstPause};
};

class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}

  // Until all members have come. Returns -1, or the member that goes on alone while the others leave.
  int wait(int member) {
    const int round = passed_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      chosen_.store(late_.load(std::memory_order_relaxed), std::memory_order_relaxed);
      passed_.store(round + 1, std::memory_order_seq_cst);
      if (sleepers_.load(std::memory_order_seq_cst)) wake();
      return chosen_.load(std::memory_order_relaxed);
    }
    int64_t start = 0;
    for (int spins = 1; passed_.load(std::memory_order_acquire) == round; spins++) {
      pause();
      if (spins % 64) continue;
      const int64_t now = nanoseconds();
      if (!start) start = now;
      if (now - start < kSpin) continue;
      sleep(round);
      int none = -1;
      const int64_t usual = (start - begin_) / (round + 1);  // from barrier to barrier: work is never divided quite evenly
      if (nanoseconds() - start > (round ? kLate : kStart) + usual / 4) late_.compare_exchange_strong(none, member);
    }
    return chosen_.load(std::memory_order_relaxed);
  }

  bool was_late() const { return late_.load(std::memory_order_relaxed) >= 0; }

 private:
  static void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#endif
  }

  // For at most kLate, or until the last member has come.
  void sleep(int round) {
#ifdef __linux__
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const timespec most = {0, kLate};
    if (passed_.load(std::memory_order_seq_cst) == round)
      syscall(SYS_futex, reinterpret_cast<int*>(&passed_), FUTEX_WAIT_PRIVATE, round, &most, nullptr, 0);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
#else
    (void)round;
    std::this_thread::yield();
#endif
  }

  void wake() {
#ifdef __linux__
    syscall(SYS_futex, reinterpret_cast<int*>(&passed_), FUTEX_WAKE_PRIVATE, members_, nullptr, nullptr, 0);
#endif
  }

  const int members_;
  const int64_t begin_ = nanoseconds();
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> passed_{0};
  std::atomic<int> sleepers_{0}, late_{-1}, chosen_{-1};
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

// One of the threads that do a piece of work together. `slot` is its place in memory that each has for itself; the work is divided by
// `index` of `count`, which change when it goes on alone.
class Member {
 public:
  Member(int number, int members, Barrier* barrier) : index(number), count(members), slot(number), barrier_(barrier) {}

  int index, count;
  const int slot;

  // Until all have come here. False: this one leaves, and another does what is left to do.
  bool wait() {
    if (count == 1 || !barrier_) return true;
    const int chosen = barrier_->wait(slot);
    if (chosen < 0) return true;
    index = 0;
    count = 1;
    return chosen == slot;
  }

 private:
  Barrier* barrier_;
};

// Runs work(member) on `threads` threads, or on one where they cannot be had: `member.count` says which. After each wait the rest must be
// divided anew.
template <class Work>
void together([[maybe_unused]] int threads, Work&& work) {
#ifdef _OPENMP
  if (threads > 1 && !forked() && !Contention::now()) {
    Barrier barrier(threads);
    const Contention::Moment start = Contention::moment();
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
    if (barrier.was_late() || Contention::lost(start, Contention::moment()))
      Contention::found();
    else
      Contention::not_found();
    return;
  }
#endif
  FlushDenormals flush;
  Member alone(0, 1, nullptr);
  work(alone);
}

}  // namespace tt::THROUGHTIME_ISA
