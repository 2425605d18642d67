// cuFFT plans of one grid, leased for the time of an enqueue; their work areas are memory in the stream's order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>

#include "backend/cuda/gpu.hpp"
#include "backend/elementwise.hpp"

#include <cufft.h>

#include <mutex>
#include <vector>

namespace espalier::backend {

// Throws BackendError with the call's name and cuFFT's name of the failure.
void check_fft(cufftResult status, const char* call);

// Complex transforms of `axes` (at most three lengths), in place, of any number of arrays one behind the other.
class FftPlans {
 public:
  explicit FftPlans(std::vector<int> axes) : axes_(std::move(axes)) {}
  ~FftPlans();
  FftPlans(const FftPlans&) = delete;
  FftPlans& operator=(const FftPlans&) = delete;

  // direction: CUFFT_FORWARD or CUFFT_INVERSE (not normalised). A plan belongs to one host thread while it enqueues; since
  // every enqueue brings its own work area, the same plan may then be enqueued on another stream at once.
  template <class T>
  void transform(T* arrays, Index count, int direction, const Context<Cuda>& context);

 private:
  struct Plan {
    cufftType type;
    Index count;
    cufftHandle handle;
    std::size_t work_bytes;
  };
  class Lease;
  Plan make(cufftType type, Index count) const;

  std::vector<int> axes_;
  std::mutex mutex_;
  std::vector<Plan> idle_;  // the most recently used last
};

}  // namespace espalier::backend
