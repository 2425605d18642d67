// Runs independent tasks on threads: exceptions, cancellation, progress and the floating-point state in one place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>
#include <vector>

namespace espalier::backend {

// Flushes subnormal results and operands to zero while alive and gives the caller's state back on every way out.
// Why: exp(-0.1 d) is subnormal after 900 tokens, and arithmetic on subnormals costs 5 to 10 times more.
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  std::uint64_t saved_;
};

// The number of threads a context asks for (0: the cores this process may use), at least 1.
int thread_count(const Context<Cpu>& context);

// Calls task(i, worker) for i = 0 .. tasks - 1, worker = 0 .. thread_count - 1, in any order, each on one thread, inside
// FlushSubnormals. The first exception is thrown again on the calling thread after all threads have stopped. Between tasks
// the stop token is looked at (Cancelled), and the calling thread reports progress under `phase` when it is not empty.
// Results must not depend on the worker: it only names scratch memory.
void parallel_for(const Context<Cpu>& context, Index tasks, const std::function<void(Index task, int worker)>& task,
                  std::string_view phase = {});

// Where tasks that run at the same time wait for one another: numbers that rise.
class Gates {
 public:
  explicit Gates(Index count) : reached_(static_cast<std::size_t>(count)) {}
  Gates(const Gates&) = delete;
  Gates& operator=(const Gates&) = delete;

  // Until open() has been called for this gate with `number` or more. Throws where another task has failed.
  void wait(Index gate, Index number);
  // One task at a time, with rising numbers.
  void open(Index gate, Index number);
  // Nothing more will be opened: whoever waits throws.
  void fail();

 private:
  struct alignas(64) Gate {
    std::atomic<Index> number{0};
  };
  std::vector<Gate> reached_;
  std::atomic<bool> failed_{false};
  std::atomic<int> waiting_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// As parallel_for, for tasks that begin in the order of their numbers and of which later ones may wait at gates for earlier
// ones (never the other way round): a scan along a sequence whose stretches are tasks, all on one set of threads. Threads need
// not all come: whatever a task waits for has begun before it.
void parallel_in_order(const Context<Cpu>& context, Index tasks, Gates& gates,
                       const std::function<void(Index task, int worker)>& task, std::string_view phase = {});

// Throws Cancelled when the caller asked for a stop. For long loops outside parallel_for.
void check_cancelled(const Context<Cpu>& context);

}  // namespace espalier::backend
