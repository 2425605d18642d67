// How attention's work is spread over batches and heads, and what gradients of grouped heads share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/error.hpp>

#include "attention/checks.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <functional>
#include <string_view>

namespace espalier {

// How many tasks of over_tasks run at once: the distance from one task of a thread to its next, as far as it can be told.
inline Index tasks_at_once(Index tasks, const Context<Cpu>& context, bool serial = false) {
  const int threads = backend::thread_count(context);
  return !serial && tasks >= threads ? threads : 1;
}

// Calls work(task, inner) for task = 0 .. tasks - 1: tasks in parallel when there are enough of them, otherwise one after the
// other with the threads inside. inner carries the stop token but no progress callback (reports come from here).
inline void over_tasks(Index tasks, const Context<Cpu>& context, std::string_view phase,
                       const std::function<void(Index task, const Context<Cpu>& inner)>& work, bool serial = false) {
  const int threads = backend::thread_count(context);
  const bool outside = tasks_at_once(tasks, context, serial) == threads;
  Context<Cpu> inner = context, outer = context;
  Progress stop_only;
  if (context.progress != nullptr) {
    stop_only.stop = context.progress->stop;
    inner.progress = &stop_only;
  }
  (outside ? inner : outer).threads = 1;
  if (outside) inner.scratch_bytes = context.scratch_bytes / static_cast<std::size_t>(threads);
  backend::parallel_for(
      outer, tasks, [&](Index t, int) { work(t, inner); }, phase);
}

inline Index tasks_at_once(Index, const Context<Cuda>&, bool = true) {
  return 1;
}
// On a device: every task enqueued on the context's stream, in order.
inline void over_tasks(Index tasks, const Context<Cuda>& context, std::string_view phase,
                       const std::function<void(Index task, const Context<Cuda>& inner)>& work, bool = true) {
  for (Index t = 0; t < tasks; ++t) {
    if (context.progress != nullptr && context.progress->stop.stop_requested()) throw Cancelled();
    work(t, context);
    if (context.progress != nullptr && context.progress->callback) {
      context.progress->callback(phase, static_cast<double>(t + 1) / static_cast<double>(tasks));
    }
  }
}

// The same context for a small piece of work inside a call.
inline Context<Cpu> on_one_thread(const Context<Cpu>&) {
  return {.threads = 1};
}
inline Context<Cuda> on_one_thread(const Context<Cuda>& context) {
  return context;
}

}  // namespace espalier
