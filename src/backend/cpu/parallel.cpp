// OpenMP lives in this file (and nowhere else).
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/parallel.hpp"

#include <espalier/core/error.hpp>

#include <sched.h>

#include <atomic>
#include <exception>
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

void parallel_for(const Context<Cpu>& context, Index tasks, const std::function<void(Index, int)>& task,
                  std::string_view phase) {
  if (tasks <= 0) return;
  const Index wanted = thread_count(context);
  const int threads = static_cast<int>(wanted < tasks ? wanted : tasks);
  std::atomic<Index> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&](int worker) {
    const FlushSubnormals scope;
    try {
      while (!stop.load(std::memory_order_relaxed)) {
        const Index i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= tasks) break;
        check_cancelled(context);
        task(i, worker);
        if (worker == 0 && !phase.empty() && context.progress != nullptr && context.progress->callback) {
          context.progress->callback(phase, static_cast<double>(i + 1) / static_cast<double>(tasks));
        }
      }
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      stop.store(true, std::memory_order_relaxed);
    }
  };
  if (threads == 1) {
    work(0);
  } else {
#if defined(_OPENMP)
    // num_threads is a request: inside the caller's own parallel region one thread may come, and takes every task.
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num());
#else
    work(0);
#endif
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace espalier::backend
