// OpenMP lives in this file (and nowhere else).
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/parallel.hpp"

#include <espalier/core/error.hpp>

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <deque>
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

// Hands out tasks of batches in order.
class BatchQueue {
 public:
  explicit BatchQueue(const BatchOrder& order) : order_(order) {
    open_.push_back(0);
    if (order.batches > 0) size_ = open_.front() = order.tasks(0);
    skip_ended();
  }

  struct Task {
    Index batch = -1, index = 0;  // batch < 0: no more
  };
  // The next task, when it may begin.
  Task take() {
    for (;;) {
      const std::uint32_t seen = changes_.load(std::memory_order_acquire);
      {
        const std::lock_guard lock(mutex_);
        if (stopped_ || batch_ >= order_.batches) return {};
        if (batch_ - order_.lag(batch_) < ended_) {
          const Task task{batch_, given_++};
          skip_ended();
          return task;
        }
      }
      wait(seen);
    }
  }
  // Returns the number of leading batches that have ended.
  Index finish(Index batch) {
    const std::lock_guard lock(mutex_);
    --open_[static_cast<std::size_t>(batch - ended_)];
    skip_ended();
    return ended_;
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    change();
  }

 private:
  // Goes on to the next batch with tasks left, and forgets leading ones that have ended.
  void skip_ended() {
    const Index batch = batch_, ended = ended_;
    while (batch_ < order_.batches && given_ == size_) {
      ++batch_;
      given_ = 0;
      size_ = batch_ < order_.batches ? order_.tasks(batch_) : 0;
      open_.push_back(size_);
      forget_ended();
    }
    forget_ended();
    if (batch_ != batch || ended_ != ended) change();
  }
  void forget_ended() {
    for (; ended_ < batch_ && open_.front() == 0; ++ended_) open_.pop_front();
  }
  void change() {
    changes_.fetch_add(1, std::memory_order_release);
    changes_.notify_all();
  }
  void wait(std::uint32_t seen) const {
    for (int k = 0; k < 4000; ++k) {
      if (changes_.load(std::memory_order_acquire) != seen) return;
      pause();
    }
    changes_.wait(seen, std::memory_order_acquire);
  }

  const BatchOrder& order_;
  std::mutex mutex_;
  std::atomic<std::uint32_t> changes_{0};
  bool stopped_ = false;
  Index batch_ = 0, given_ = 0, size_ = 0;  // the next task's batch, how many of its tasks are given out, how many it has
  Index ended_ = 0;                         // batches before this one have ended
  std::deque<Index> open_;                  // of batches ended_ .. batch_: tasks that have not ended
};

}  // namespace

void parallel_for(const Context<Cpu>& context, Index tasks, const std::function<void(Index, int)>& task,
                  std::string_view phase) {
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
  on_threads(static_cast<int>(std::min<Index>(thread_count(context), tasks)), work,
             [&] { stop.store(true, std::memory_order_relaxed); });
}

void parallel_batches(const Context<Cpu>& context, const BatchOrder& order, const std::function<void(Index, Index, int)>& task,
                      std::string_view phase) {
  BatchQueue queue(order);
  const auto work = [&](int worker) {
    for (BatchQueue::Task t = queue.take(); t.batch >= 0; t = queue.take()) {
      check_cancelled(context);
      task(t.batch, t.index, worker);
      const Index ended = queue.finish(t.batch);
      if (worker == 0 && !phase.empty() && context.progress != nullptr && context.progress->callback) {
        context.progress->callback(phase, static_cast<double>(ended) / static_cast<double>(order.batches));
      }
    }
  };
  on_threads(thread_count(context), work, [&] { queue.stop(); });
}

}  // namespace espalier::backend
