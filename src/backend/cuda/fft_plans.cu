// cuFFT plans: made, leased, enqueued.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/fft_plans.hpp"

#include <espalier/core/error.hpp>

#include "backend/cuda/device.hpp"

#include <algorithm>
#include <string>

namespace espalier::backend {

void check_fft(cufftResult status, const char* call) {
  if (status == CUFFT_SUCCESS) return;
  const char* name = "an error";
  switch (status) {
    case CUFFT_ALLOC_FAILED:
      name = "CUFFT_ALLOC_FAILED";
      break;
    case CUFFT_INTERNAL_ERROR:
      name = "CUFFT_INTERNAL_ERROR";
      break;
    case CUFFT_EXEC_FAILED:
      name = "CUFFT_EXEC_FAILED";
      break;
    case CUFFT_SETUP_FAILED:
      name = "CUFFT_SETUP_FAILED";
      break;
    case CUFFT_INVALID_SIZE:
      name = "CUFFT_INVALID_SIZE";
      break;
    default:
      break;
  }
  throw BackendError(std::string(call) + ": " + name + " (cuFFT result " + std::to_string(static_cast<int>(status)) + ")");
}

namespace {

// Idle plans that a grid keeps: a product needs two (whole chunks and the rest), its spectrum one.
constexpr std::size_t kIdlePlans = 8;

cufftResult execute(cufftHandle plan, float* arrays, int direction) {
  auto* z = reinterpret_cast<cufftComplex*>(arrays);
  return cufftExecC2C(plan, z, z, direction);
}
cufftResult execute(cufftHandle plan, double* arrays, int direction) {
  auto* z = reinterpret_cast<cufftDoubleComplex*>(arrays);
  return cufftExecZ2Z(plan, z, z, direction);
}

}  // namespace

FftPlans::~FftPlans() {
  for (const Plan& plan : idle_) (void)cufftDestroy(plan.handle);
}

FftPlans::Plan FftPlans::make(cufftType type, Index count) const {
  Plan plan{type, count, 0, 0};
  check_fft(cufftCreate(&plan.handle), "cufftCreate");
  try {
    check_fft(cufftSetAutoAllocation(plan.handle, 0), "cufftSetAutoAllocation");
    std::vector<int> axes = axes_;
    int distance = 1;
    for (const int n : axes) distance *= n;
    check_fft(cufftMakePlanMany(plan.handle, static_cast<int>(axes.size()), axes.data(), nullptr, 1, distance, nullptr, 1,
                                distance, type, static_cast<int>(count), &plan.work_bytes),
              "cufftMakePlanMany");
  } catch (...) {
    (void)cufftDestroy(plan.handle);
    throw;
  }
  return plan;
}

class FftPlans::Lease {
 public:
  Lease(FftPlans& plans, cufftType type, Index count) : plans_(plans) {
    {
      const std::lock_guard lock(plans.mutex_);
      auto& idle = plans.idle_;
      const auto found =
          std::find_if(idle.begin(), idle.end(), [&](const Plan& p) { return p.type == type && p.count == count; });
      if (found != idle.end()) {
        plan_ = *found;
        idle.erase(found);
        return;
      }
    }
    plan_ = plans.make(type, count);
  }
  ~Lease() {
    cufftHandle spare = plan_.handle;
    {
      const std::lock_guard lock(plans_.mutex_);
      try {
        plans_.idle_.push_back(plan_);
      } catch (...) {  // no room to remember it
        (void)cufftDestroy(spare);
        return;
      }
      if (plans_.idle_.size() <= kIdlePlans) return;
      spare = plans_.idle_.front().handle;
      plans_.idle_.erase(plans_.idle_.begin());
    }
    (void)cufftDestroy(spare);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  const Plan& plan() const { return plan_; }

 private:
  FftPlans& plans_;
  Plan plan_{};
};

template <class T>
void FftPlans::transform(T* arrays, Index count, int direction, const Context<Cuda>& context) {
  const Lease lease(*this, sizeof(T) == sizeof(float) ? CUFFT_C2C : CUFFT_Z2Z, count);
  const cufftHandle plan = lease.plan().handle;
  Buffer<double, Cuda> work(static_cast<Index>((lease.plan().work_bytes + sizeof(double) - 1) / sizeof(double)), context);
  check_fft(cufftSetStream(plan, stream_of(context)), "cufftSetStream");
  if (work.size() > 0) check_fft(cufftSetWorkArea(plan, work.data()), "cufftSetWorkArea");
  check_fft(execute(plan, arrays, direction), "cufftExec");
}

template void FftPlans::transform(float*, Index, int, const Context<Cuda>&);
template void FftPlans::transform(double*, Index, int, const Context<Cuda>&);

}  // namespace espalier::backend
