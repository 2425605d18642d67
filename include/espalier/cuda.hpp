// What a CUDA program needs beside the masks: device memory, copies, contexts on streams. Link espalier::cuda. CUDA's own
// headers are not needed to include this one. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/export.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace espalier {

// Number of CUDA devices that this process can use; 0 where there is none, or no driver.
ESPALIER_EXPORT int cuda_device_count();

// A context on the caller's stream: a cudaStream_t, null for the default stream. Calls enqueue on it and return.
inline Context<Cuda> on_stream(void* stream, std::size_t scratch_bytes = Context<Cuda>{}.scratch_bytes) {
  return {stream, scratch_bytes, nullptr};
}
// Returns when the stream's work is done. Errors: BackendError with the text of what failed on it.
ESPALIER_EXPORT void synchronize(const Context<Cuda>& context = {});

// Speeds from which masks on CUDA predict, used where MaskOptions::cost was left as it is. They are those of one H100.
ESPALIER_EXPORT CostModel cuda_cost_model();

// The numbers of a vector in device memory, in the order of the context's stream; returns when they are here.
template <class T>
ESPALIER_EXPORT std::vector<T> download(VectorView<const T, Cuda> from, const Context<Cuda>& context = {});

// `size` elements of device memory, uninitialised or copied from the host; owned, moved, never copied. T: float, double,
// std::int32_t, std::int64_t. Memory given back while work on it is pending is safe: the device finishes first.
// Errors: BackendError where the device has no memory left; ValueError for a negative size.
template <class T>
class ESPALIER_EXPORT DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(Index size);
  explicit DeviceBuffer(std::span<const T> values);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr, other.size_ = 0;
  }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }

  // Copies of the whole buffer, in the order of the context's stream; they return when done. upload: ShapeError for another
  // size.
  void upload(std::span<const T> from, const Context<Cuda>& context = {});
  std::vector<T> to_host(const Context<Cuda>& context = {}) const { return espalier::download<T>({data_, size_}, context); }

  T* data() const { return data_; }
  Index size() const { return size_; }
  // Views of the front of the buffer; they must fit into it.
  VectorView<T, Cuda> vector() const { return {data_, size_}; }
  MatrixView<T, Cuda> matrix(Index rows, Index cols) const { return {data_, rows, cols}; }
  MatrixView<T, Cuda> matrix(Index rows, Index cols, Index row_stride) const { return {data_, rows, cols, row_stride}; }
  TensorView<T, Cuda> tensor(Index batch, Index heads, Index length, Index width) const {
    return {data_, batch, heads, length, width};
  }

 private:
  T* data_ = nullptr;
  Index size_ = 0;
};

}  // namespace espalier
