// How a call may run: threads, scratch memory, progress; on CUDA the stream.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/progress.hpp>

#include <cstddef>

namespace espalier {

// The last argument of every computing call, = {}; never stored.
template <class B>
struct Context;

template <>
struct Context<Cpu> {
  int threads = 0;                         // 0: the cores this process may use; results do not depend on it
  std::size_t scratch_bytes = 256u << 20;  // bound on temporary memory that grows with the problem
  Progress* progress = nullptr;
};

template <>
struct Context<Cuda> {
  void* stream = nullptr;  // a cudaStream_t; work is enqueued on it and the call returns
  std::size_t scratch_bytes = 1u << 30;
  Progress* progress = nullptr;
};

}  // namespace espalier
