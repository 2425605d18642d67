// What is left at the end of a program is listed and makes its status 99; injected failures find host code that leaks.
// SPDX-License-Identifier: Apache-2.0
#include "device_vector.hpp"
#include "fake/child.hpp"
#include "fake/control.hpp"

#include <cufft.h>
#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

using espalier::BackendError;
using espalier::test::DeviceVector;
using espalier::test::Ending;
using espalier::test::in_a_child;
using espalier::test::Stream;
namespace fake = espalier::fake;
namespace gpu = espalier::gpu;

namespace {

__global__ void scale(float2* spectrum, const float* factors, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) spectrum[i].x *= factors[i], spectrum[i].y *= factors[i];
}

void check_fft(cufftResult result) {
  if (result != CUFFT_SUCCESS) throw BackendError("cuFFT: " + std::to_string(result));
}

class Plan {
 public:
  Plan(int n, cufftType type, cudaStream_t stream, void* area) {
    check_fft(cufftCreate(&handle_));
    try {
      std::size_t bytes = 0;
      check_fft(cufftSetAutoAllocation(handle_, 0));
      check_fft(cufftMakePlanMany(handle_, 1, &n, nullptr, 1, 0, nullptr, 1, 0, type, 1, &bytes));
      check_fft(cufftSetWorkArea(handle_, area));
      check_fft(cufftSetStream(handle_, stream));
    } catch (...) {
      cufftDestroy(handle_);
      throw;
    }
  }
  ~Plan() { cufftDestroy(handle_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  cufftHandle get() const { return handle_; }

 private:
  cufftHandle handle_ = 0;
};

// A small piece of host code with everything: filters x in the frequency domain. careful: releases what it holds, whatever
// fails; otherwise one buffer is freed on the good way only.
std::vector<float> filter(const std::vector<float>& x, const std::vector<float>& factors, bool careful) {
  const int n = static_cast<int>(x.size()), half = n / 2 + 1;
  const Stream stream;
  const DeviceVector<float> data(x, stream), device_factors(factors, stream);
  const DeviceVector<float2> area(half, stream);
  std::unique_ptr<DeviceVector<float2>> spectrum;
  float2* raw = nullptr;
  if (careful) {
    spectrum = std::make_unique<DeviceVector<float2>>(half, stream);
    raw = spectrum->data();
  } else {
    gpu::check(cudaMalloc(&raw, static_cast<std::size_t>(half) * sizeof(float2)), "cudaMalloc");
  }
  std::vector<float> result;
  {
    const Plan forward(n, CUFFT_R2C, stream.get(), area.data()), backward(n, CUFFT_C2R, stream.get(), area.data());
    check_fft(cufftExecR2C(forward.get(), data.data(), raw));
    gpu::launch(scale, dim3(static_cast<unsigned>(half + 31) / 32), dim3(32), 0, stream.get(), raw, device_factors.data(),
                half);
    check_fft(cufftExecC2R(backward.get(), raw, data.data()));
    result = data.copy_to_host();
  }
  if (!careful) gpu::check(cudaFree(raw), "cudaFree");
  return result;
}

// Lets each call fail in turn until none is left to fail; returns how often something was left, and counts the failures.
int leaks_in_sweep(bool careful, int& failures) {
  const std::vector<float> x{1, 2, 3, 4, 5, 6}, halves(4, 0.5f / 6);
  int leaking = 0;
  for (long long n = 1;; ++n) {
    fake::fail_call(n);
    bool threw = false;
    try {
      const auto y = filter(x, halves, careful);
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == doctest::Approx(0.5 * x[i]));
    } catch (const BackendError&) {
      threw = true;
    }
    const bool failed = !fake::failed_call().empty();
    // Calls that only release may fail without anybody's hearing of it; others may not.
    if (failed && !threw) {
      const std::string name = fake::failed_call();
      const bool releases = name == "cudaFree" || name == "cudaStreamDestroy" || name == "cufftDestroy";
      CAPTURE(name);
      CHECK(releases);
    }
    leaking += !fake::leaks().empty();
    fake::reset();
    if (!failed) return leaking;
    failures += threw;
  }
}

}  // namespace

TEST_CASE("the sweep over failing calls: careful code leaves nothing, careless code is found") {
  int failures = 0;
  CHECK(leaks_in_sweep(true, failures) == 0);
  // 3 uploads with two calls each, 4 buffers, 2 plans of 5 calls, a stream, 2 transforms, a launch, the way back.
  CHECK(failures >= 20);
  CHECK(fake::leaks().empty());
  const Ending ending = in_a_child([] {
    int ignored = 0;
    if (leaks_in_sweep(false, ignored) == 0) std::_Exit(1);
  });
  CHECK(ending.status == 99);
  CHECK(ending.messages.find("device buffer of 32 bytes, cudaMalloc") != std::string::npos);
}

TEST_CASE("the n-th call fails, as that call would, once") {
  const long long before = fake::calls();
  fake::fail_call(2);
  void *a = nullptr, *b = nullptr, *c = nullptr;
  CHECK(cudaMalloc(&a, 8) == cudaSuccess);
  CHECK(cudaMalloc(&b, 8) == cudaErrorMemoryAllocation);
  CHECK(fake::failed_call() == "cudaMalloc");
  CHECK(cudaMalloc(&c, 8) == cudaSuccess);
  CHECK(fake::calls() - before == 3);
  // Releasing calls release and fail.
  fake::fail_call(1);
  CHECK(cudaFree(a) != cudaSuccess);
  CHECK(cudaFree(c) == cudaSuccess);
  CHECK(fake::memory().buffers == 0);
  fake::reset();
  fake::fail_call(1);
  CHECK_THROWS_AS(Stream(), BackendError);
  const Stream stream;
  fake::fail_call(1);
  CHECK_THROWS_WITH_AS(gpu::launch(scale, dim3(1), dim3(1), 0, stream.get(), nullptr, nullptr, 0),
                       "kernel launch: cudaErrorLaunchOutOfResources: too many resources requested for launch", BackendError);
  fake::fail_call(1);
  cufftHandle plan = 0;
  CHECK(cufftPlan1d(&plan, 8, CUFFT_C2C, 1) == CUFFT_ALLOC_FAILED);
  fake::reset();
}

TEST_CASE("what is left at the end: buffers, plans, streams, events, each listed; status 99") {
  const Ending clean = in_a_child([] {
    const Stream stream;
    const DeviceVector<float> x(4, stream);
  });
  CHECK(clean.status == 0);
  CHECK(clean.messages.empty());
  const Ending ending = in_a_child([] {
    void* p = nullptr;
    cudaMalloc(&p, 123);
    cudaMallocHost(&p, 77);
    cudaStream_t stream = nullptr;
    cudaStreamCreate(&stream);
    cudaMallocAsync(&p, 45, stream);
    cudaEvent_t event = nullptr;
    cudaEventCreate(&event);
    cufftHandle plan = 0;
    int n[2] = {4, 6};
    cufftPlanMany(&plan, 2, n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_R2C, 3);
  });
  CHECK(ending.status == 99);
  for (const char* const words : {"device buffer of 123 bytes, cudaMalloc, call ",
                                  "device buffer of 45 bytes, cudaMallocAsync, call ", "pinned host buffer of 77 bytes",
                                  ": size 4 x 6, batch 3", "stream, 1 pieces of work waiting", "event", "cuFFT's work area"}) {
    CAPTURE(words);
    CAPTURE(ending.messages);
    CHECK(ending.messages.find(words) != std::string::npos);
  }
}

TEST_CASE("an error that nobody forgot ends the program with status 99") {
  const Ending ending = in_a_child([] {
    const Stream stream;
    gpu::launch(scale, dim3(1), dim3(32), 0, stream.get(), nullptr, nullptr, 0);
    gpu::launch(scale, dim3(1), dim3(32), 0, stream.get(), nullptr, nullptr, 0);
    cudaLaunchHostFunc(
        stream.get(), [](void*) { throw BackendError("from a host function"); }, nullptr);
    cudaStreamSynchronize(stream.get());
  });
  CHECK(ending.status == 99);
  CHECK(ending.messages.find("an error that nobody forgot: from a host function") != std::string::npos);
}

namespace {

// Released after main, by a destructor of the program: that is no leak.
struct AtTheEnd {
  void* memory = nullptr;
  ~AtTheEnd() { cudaFree(memory); }
};
AtTheEnd at_the_end;

}  // namespace

TEST_CASE("objects of the program may release after main") {
  CHECK(in_a_child([] { cudaMalloc(&at_the_end.memory, 8); }).status == 0);
}
