// OpenMP lives in this file (and nowhere else).
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/parallel.hpp"

#include <espalier/core/error.hpp>

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <mutex>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace espalier::backend {

#if defined(__SSE__)
FlushSubnormals::FlushSubnormals() : saved_(_mm_getcsr()) {
  _mm_setcsr(static_cast<unsigned>(saved_) | 0x8040u);
}
FlushSubnormals::~FlushSubnormals() {
  _mm_setcsr(static_cast<unsigned>(saved_));
}
#elif defined(__aarch64__)
FlushSubnormals::FlushSubnormals() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(saved_ | (std::uint64_t{1} << 24)));
}
FlushSubnormals::~FlushSubnormals() {
  asm volatile("msr fpcr, %0" : : "r"(saved_));
}
#else
FlushSubnormals::FlushSubnormals() : saved_(0) {}
FlushSubnormals::~FlushSubnormals() = default;
#endif

int thread_count(const Context<Cpu>& context) {
  if (context.threads > 0) return context.threads;
  // Asked at every call: a process may change its affinity, and the library keeps no state.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
  return 1;
}

void check_cancelled(const Context<Cpu>& context) {
  if (context.progress != nullptr && context.progress->stop.stop_requested()) throw Cancelled();
}

namespace {

// A short wait of a thread that expects its turn within microseconds.
void pause() {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Calls work(worker), worker = 0 .. threads - 1, each on a thread of its own, with subnormals flushed; throws the first
// exception again when all have returned. stop() is called once at that exception: the others should return soon.
void on_threads(int threads, const std::function<void(int)>& work, const std::function<void()>& stop) {
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto guarded = [&](int worker) {
    const FlushSubnormals scope;
    try {
      work(worker);
    } catch (...) {
      {
        const std::lock_guard lock(error_mutex);
        if (error) return;
        error = std::current_exception();
      }
      stop();
    }
  };
  if (threads == 1) {
    guarded(0);
  } else {
#if defined(_OPENMP)
    // num_threads is a request: inside the caller's own parallel region one thread may come, and takes every task.
#pragma omp parallel num_threads(threads)
    guarded(omp_get_thread_num());
#else
    guarded(0);
#endif
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace

void Gates::wait(Index gate, Index number) {
  const std::atomic<Index>& reached = reached_[static_cast<std::size_t>(gate)].number;
  const auto over = [&] { return reached.load() >= number || failed_.load(); };
  // Most waits are for what another thread is about to do.
  for (int k = 0; k < 4000 && !over(); ++k) pause();
  if (!over()) {
    std::unique_lock lock(mutex_);
    // Whoever opens a gate after this sees that somebody waits; whatever was opened before is seen by over().
    waiting_.fetch_add(1);
    changed_.wait(lock, over);
    waiting_.fetch_sub(1);
  }
  if (failed_.load()) throw Cancelled();
}

void Gates::open(Index gate, Index number) {
  reached_[static_cast<std::size_t>(gate)].number.store(number);
  if (waiting_.load() == 0) return;
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void Gates::fail() {
  failed_.store(true);
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

namespace {

void run_tasks(const Context<Cpu>& context, Index tasks, const std::function<void(Index, int)>& task, std::string_view phase,
               const std::function<void()>& failed) {
  if (tasks <= 0) return;
  std::atomic<Index> next{0};
  std::atomic<bool> stop{false};
  const auto work = [&](int worker) {
    while (!stop.load(std::memory_order_relaxed)) {
      const Index i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= tasks) break;
      check_cancelled(context);
      task(i, worker);
      if (worker == 0 && !phase.empty() && context.progress != nullptr && context.progress->callback) {
        context.progress->callback(phase, static_cast<double>(i + 1) / static_cast<double>(tasks));
      }
    }
  };
  on_threads(static_cast<int>(std::min<Index>(thread_count(context), tasks)), work, [&] {
    stop.store(true, std::memory_order_relaxed);
    failed();
  });
}

}  // namespace

void parallel_for(const Context<Cpu>& context, Index tasks, const std::function<void(Index, int)>& task,
                  std::string_view phase) {
  run_tasks(context, tasks, task, phase, [] {});
}

void parallel_in_order(const Context<Cpu>& context, Index tasks, Gates& gates, const std::function<void(Index, int)>& task,
                       std::string_view phase) {
  run_tasks(context, tasks, task, phase, [&] { gates.fail(); });
}

}  // namespace espalier::backend
