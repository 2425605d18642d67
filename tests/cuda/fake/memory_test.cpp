// The fake's device memory: out of the host's reach, NaN at first, guarded, counted, limited; copies are checked.
// SPDX-License-Identifier: Apache-2.0
#include "device_vector.hpp"
#include "emulation/sanitizer.hpp"
#include "fake/child.hpp"
#include "fake/control.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

using espalier::test::DeviceVector;
using espalier::test::Ending;
using espalier::test::in_a_child;
using espalier::test::Stream;
namespace fake = espalier::fake;
namespace gpu = espalier::gpu;

namespace {

__global__ void write_at(char* where, long offset) {
  where[offset] = 1;
}

std::string text_of(cudaError_t error) {
  return cudaGetErrorString(error);
}
bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("device memory starts as NaN and is aligned to 256 bytes") {
  const Stream stream;
  for (const int n : {1, 63, 64, 65, 1024, 5000}) {
    const DeviceVector<float> f(n, stream);
    const DeviceVector<double> d(n, stream);
    CHECK(reinterpret_cast<std::uintptr_t>(f.data()) % 256 == 0);
    for (const float v : f.copy_to_host()) CHECK(std::isnan(v));
    for (const double v : d.copy_to_host()) CHECK(std::isnan(v));
  }
}

TEST_CASE("host code that touches device memory ends with a fault that is explained") {
  const Stream stream;
  const DeviceVector<float> x(std::vector<float>{1, 2, 3}, stream);
  const Ending wrote = in_a_child([&] { x.data()[1] = 1; });
  CHECK(wrote.fault);
  CHECK(has(wrote.messages, "host code touched byte 4 of a device buffer of 12 bytes (cudaMalloc, call "));
  const Ending read = in_a_child([&] {
    volatile float sink = x.data()[2];
    (void)sink;
  });
  CHECK(read.fault);
  CHECK(has(read.messages, "host code touched byte 8 of a device buffer of 12 bytes"));
  float* gone = nullptr;
  gpu::check(cudaMalloc(&gone, 12), "cudaMalloc");
  gpu::check(cudaFree(gone), "cudaFree");
  const Ending late = in_a_child([&] { *gone = 1; });
  CHECK(late.fault);
  CHECK(has(late.messages, "host code touched device memory that is freed"));
  CHECK(x.copy_to_host() == std::vector<float>{1, 2, 3});
}

TEST_CASE("pointers given to a kernel are the device's when it runs") {
  const Stream stream, other;
  const auto must_fail = [&](char* pointer, const char* words) {
    gpu::launch(write_at, dim3(1), dim3(1), 0, stream.get(), pointer, 0);
    CHECK(cudaStreamSynchronize(stream.get()) == cudaErrorLaunchFailure);
    CHECK(fake::device_error() == words);
    fake::reset();
  };
  char host = 0, *freed = nullptr, *freed_meanwhile = nullptr, *not_yet = nullptr;
  must_fail(&host, "a kernel was given a pointer to host memory");
  gpu::check(cudaMalloc(&freed, 12), "cudaMalloc");
  gpu::check(cudaFree(freed), "cudaFree");
  must_fail(freed, "a kernel was given memory that is freed");
  gpu::check(cudaMalloc(&freed_meanwhile, 12), "cudaMalloc");
  gpu::launch(write_at, dim3(1), dim3(1), 0, stream.get(), freed_meanwhile, 0);
  gpu::check(cudaFreeAsync(freed_meanwhile, other.get()), "cudaFreeAsync");
  other.wait();
  CHECK(cudaStreamSynchronize(stream.get()) == cudaErrorLaunchFailure);
  CHECK(fake::device_error() == "a kernel was given memory that is freed");
  fake::reset();
  gpu::check(cudaMallocAsync(&not_yet, 12, other.get()), "cudaMallocAsync");
  must_fail(not_yet, "a kernel was given memory whose cudaMallocAsync has not run");
  gpu::check(cudaFree(not_yet), "cudaFree");
  // Pinned host memory is the device's too.
  void* pinned = nullptr;
  gpu::check(cudaMallocHost(&pinned, 4), "cudaMallocHost");
  gpu::launch(write_at, dim3(1), dim3(1), 0, stream.get(), static_cast<char*>(pinned), 2);
  stream.wait();
  CHECK(static_cast<char*>(pinned)[2] == 1);
  gpu::check(cudaFreeHost(pinned), "cudaFreeHost");
}

TEST_CASE("a freed address never comes back") {
  float *first = nullptr, *second = nullptr;
  gpu::check(cudaMalloc(&first, 4096), "cudaMalloc");
  gpu::check(cudaFree(first), "cudaFree");
  for (int i = 0; i < 100; ++i) {
    gpu::check(cudaMalloc(&second, 4096), "cudaMalloc");
    CHECK(second != first);
    gpu::check(cudaFree(second), "cudaFree");
  }
  CHECK(cudaFree(first) == cudaErrorInvalidValue);
  CHECK(has(text_of(cudaErrorInvalidValue), "no device buffer"));
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("a kernel that writes far beyond its buffer faults") {
  const Stream stream;
  const DeviceVector<char> x(100, stream);
  for (const long offset : {256l, 4000l, -4097l}) {
    const Ending ending = in_a_child([&] {
      gpu::launch(write_at, dim3(1), dim3(1), 0, stream.get(), x.data(), offset);
      stream.wait();
    });
    CHECK(ending.fault);
    const std::string words =
        "block 0,0,0 thread 0,0,0 touched byte " + std::to_string(offset) + " of a device buffer of 100 bytes";
    CAPTURE(words);
    CAPTURE(ending.messages);
    CHECK(has(ending.messages, words));
  }
}

#if !ESPALIER_ADDRESS_SANITIZER
TEST_CASE("a kernel that writes a little beyond its buffer is found when the buffer is freed") {
  const Stream stream;
  for (const long offset : {100l, 200l, -1l}) {
    char* x = nullptr;
    gpu::check(cudaMalloc(&x, 100), "cudaMalloc");
    gpu::launch(write_at, dim3(1), dim3(1), 0, stream.get(), x, offset);
    stream.wait();
    CHECK(cudaFree(x) == cudaErrorLaunchFailure);
    CHECK(has(text_of(cudaErrorLaunchFailure), offset < 0 ? "written before the start of a buffer of 100 bytes"
                                                          : "written past the end of a buffer of 100 bytes"));
    CHECK(fake::memory().buffers == 0);
    fake::reset();
  }
}
#endif

TEST_CASE("memory in use, its peak, and a limit") {
  const Stream stream;
  fake::reset_peak();
  const auto before = fake::memory();
  CHECK(before.buffers == 0);
  CHECK(before.in_use == 0);
  {
    const DeviceVector<float> a(1000, stream);
    { const DeviceVector<float> b(500, stream); }
    const DeviceVector<float> c(100, stream);
    CHECK(fake::memory().in_use == 4400);
    CHECK(fake::memory().peak == 6000);
    CHECK(fake::memory().buffers == 2);
    fake::reset_peak();
    CHECK(fake::memory().peak == 4400);
  }
  fake::set_memory_limit(4000);
  {
    const DeviceVector<float> a(600, stream);
    void* more = nullptr;
    CHECK(cudaMalloc(&more, 1601) == cudaErrorMemoryAllocation);
    CHECK(text_of(cudaGetLastError()) == "out of memory");
    CHECK(cudaMalloc(&more, 1600) == cudaSuccess);
    std::size_t left = 0, whole = 0;
    CHECK(cudaMemGetInfo(&left, &whole) == cudaSuccess);
    CHECK(left == 0);
    CHECK(whole == 4000);
    CHECK(cudaFree(more) == cudaSuccess);
  }
  fake::reset();
  CHECK(fake::memory().in_use == 0);
}

TEST_CASE("memory in stream order: there from its place in the stream on, gone from the free on") {
  const Stream a;
  float* x = nullptr;
  std::vector<float> host{1, 2, 3, 4}, back(4);
  CHECK(cudaMallocAsync(&x, 16, a.get()) == cudaSuccess);
  CHECK(fake::memory().in_use == 16);
  CHECK(cudaMemcpyAsync(x, host.data(), 16, cudaMemcpyHostToDevice, a.get()) == cudaSuccess);
  CHECK(cudaMemcpyAsync(back.data(), x, 16, cudaMemcpyDeviceToHost, a.get()) == cudaSuccess);
  CHECK(cudaFreeAsync(x, a.get()) == cudaSuccess);
  CHECK(fake::memory().in_use == 0);
  CHECK(cudaMemcpyAsync(x, host.data(), 16, cudaMemcpyHostToDevice, a.get()) == cudaErrorInvalidValue);
  CHECK(cudaFreeAsync(x, a.get()) == cudaErrorInvalidValue);
  a.wait();
  CHECK(back == host);
  CHECK(fake::memory().buffers == 0);
  (void)cudaGetLastError();
}

TEST_CASE("copies: direction, range, pitch and life of the buffers") {
  const Stream stream;
  std::vector<float> host(8, 1.0f);
  const DeviceVector<float> x(8, stream), y(8, stream);
  const auto bad = [&](void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, const char* words) {
    CHECK(cudaMemcpyAsync(to, from, bytes, kind, stream.get()) == cudaErrorInvalidValue);
    CAPTURE(words);
    CHECK(has(text_of(cudaErrorInvalidValue), words));
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  };
  bad(x.data(), host.data(), 32, cudaMemcpyDeviceToHost, "from host to device");
  bad(host.data(), x.data(), 32, cudaMemcpyHostToDevice, "from device to host");
  bad(x.data(), host.data(), 32, cudaMemcpyDeviceToDevice, "from host to device");
  bad(x.data(), y.data(), 32, cudaMemcpyHostToDevice, "from device to device");
  bad(x.data(), host.data(), 33, cudaMemcpyHostToDevice, "does not lie in one device buffer");
  bad(x.data() + 1, host.data(), 32, cudaMemcpyHostToDevice, "does not lie in one device buffer");
  CHECK(cudaMemcpyAsync(x.data(), host.data(), 32, cudaMemcpyDefault, stream.get()) == cudaSuccess);
  CHECK(cudaMemcpyAsync(x.data(), host.data(), 0, cudaMemcpyHostToDevice, stream.get()) == cudaSuccess);
  // Two rows of 12 bytes, 16 apart, to rows 12 apart.
  CHECK(cudaMemcpy2DAsync(y.data(), 12, x.data(), 16, 12, 2, cudaMemcpyDeviceToDevice, stream.get()) == cudaSuccess);
  CHECK(cudaMemcpy2DAsync(y.data(), 8, x.data(), 16, 12, 2, cudaMemcpyDeviceToDevice, stream.get()) ==
        cudaErrorInvalidPitchValue);
  CHECK(cudaMemcpy2DAsync(y.data(), 12, x.data(), 16, 12, 3, cudaMemcpyDeviceToDevice, stream.get()) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(x.data(), 0, 36, stream.get()) == cudaErrorInvalidValue);
  CHECK(cudaMemset2DAsync(x.data() + 6, 4, 0, 4, 2, stream.get()) == cudaSuccess);
  CHECK(cudaMemsetAsync(host.data(), 0, 32, stream.get()) == cudaErrorInvalidValue);
  const auto got = y.copy_to_host();
  for (int i = 0; i < 6; ++i) CHECK(got[static_cast<std::size_t>(i)] == 1.0f);
  for (int i = 6; i < 8; ++i) CHECK(std::isnan(got[static_cast<std::size_t>(i)]));
  CHECK(x.copy_to_host() == std::vector<float>{1, 1, 1, 1, 1, 1, 0, 0});
  fake::reset();

  // Freed on another stream before the copy's turn came.
  float* gone = nullptr;
  const Stream other;
  gpu::check(cudaMalloc(&gone, 32), "cudaMalloc");
  CHECK(cudaMemcpyAsync(host.data(), gone, 32, cudaMemcpyDeviceToHost, stream.get()) == cudaSuccess);
  CHECK(cudaFreeAsync(gone, other.get()) == cudaSuccess);
  other.wait();
  CHECK(cudaStreamSynchronize(stream.get()) == cudaErrorLaunchFailure);
  CHECK(has(fake::device_error(), "the buffer was freed before it ran"));
  fake::reset();
}

TEST_CASE("sizes of zero are refused, null is freed") {
  void* p = nullptr;
  CHECK(cudaMalloc(&p, 0) == cudaErrorInvalidValue);
  CHECK(cudaMallocAsync(&p, 0, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(nullptr, nullptr) == cudaSuccess);
  fake::reset();
}
