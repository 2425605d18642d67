// Runs independent tasks on threads: exceptions, cancellation, progress and the floating-point state in one place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>

#include <cstdint>
#include <functional>
#include <string_view>

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

// Batches of tasks, begun in the order of their numbers on the same threads from beginning to end: what a scan along a sequence
// needs, whose phases are too small to wake and gather threads for each.
struct BatchOrder {
  Index batches;
  // Tasks of a batch; may be 0.
  std::function<Index(Index batch)> tasks;
  // Tasks of `batch` begin when batches 0 .. batch - lag have ended; lag >= 1. With more than 1, threads that are done with a
  // batch go on with the next while others still work.
  std::function<Index(Index batch)> lag;
};
// As parallel_for, for task(batch, i, worker). Progress counts batches.
void parallel_batches(const Context<Cpu>& context, const BatchOrder& order,
                      const std::function<void(Index batch, Index task, int worker)>& task, std::string_view phase = {});

// Throws Cancelled when the caller asked for a stop. For long loops outside parallel_for.
void check_cancelled(const Context<Cpu>& context);

}  // namespace espalier::backend
