// A stream and a device array for tests, released whatever happens. By the runtime's calls alone: on a real GPU as well.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/cuda/gpu.hpp"

#include <cstddef>
#include <utility>
#include <vector>

namespace espalier::test {

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    gpu::check(cudaStreamCreateWithFlags(&stream_, flags), "cudaStreamCreateWithFlags");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void wait() const { gpu::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// size elements of T on the device; unset, or copied from the host and waited for.
template <class T>
class DeviceVector {
 public:
  DeviceVector(Index size, const Stream& stream) : size_(static_cast<std::size_t>(size)), stream_(stream.get()) {
    if (size_ > 0) gpu::check(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)), "cudaMalloc");
  }
  DeviceVector(const std::vector<T>& host, const Stream& stream) : DeviceVector(static_cast<Index>(host.size()), stream) {
    copy_from_host(host);
  }
  ~DeviceVector() { cudaFree(data_); }
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;

  T* data() const { return data_; }
  Index size() const { return static_cast<Index>(size_); }

  void copy_from_host(const std::vector<T>& host) {
    gpu::check(cudaMemcpyAsync(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    gpu::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }
  // After all that the stream was given before.
  std::vector<T> copy_to_host() const {
    std::vector<T> host(size_);
    gpu::check(cudaMemcpyAsync(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    gpu::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return host;
  }

 private:
  std::size_t size_;
  cudaStream_t stream_;
  T* data_ = nullptr;
};

}  // namespace espalier::test
