// The public device memory and stream calls.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/cuda.hpp>

#include "backend/cuda/device.hpp"
#include "backend/tiles.hpp"

#include <cstdint>

namespace espalier {

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();  // having no device is an answer, not a failure that a later call should report
  return 0;
}

void synchronize(const Context<Cuda>& context) {
  gpu::check(cudaStreamSynchronize(backend::stream_of(context)), "cudaStreamSynchronize");
}

CostModel cuda_cost_model() {
  return backend::cost_model<Cuda>();
}

namespace {

template <class T>
void copy(T* to, const T* from, Index size, cudaMemcpyKind kind, const Context<Cuda>& context) {
  if (size == 0) return;
  const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
  gpu::check(cudaMemcpyAsync(to, from, bytes, kind, backend::stream_of(context)), "cudaMemcpyAsync");
  synchronize(context);
}

}  // namespace

template <class T>
DeviceBuffer<T>::DeviceBuffer(Index size) : size_(size) {
  if (size == 0) return;
  if (size < 0) throw ValueError("DeviceBuffer: a negative size");
  void* memory = nullptr;
  gpu::check(cudaMalloc(&memory, static_cast<std::size_t>(size) * sizeof(T)), "cudaMalloc");
  data_ = static_cast<T*>(memory);
}
template <class T>
DeviceBuffer<T>::DeviceBuffer(std::span<const T> values) : DeviceBuffer(static_cast<Index>(values.size())) {
  upload(values);
}
template <class T>
DeviceBuffer<T>::~DeviceBuffer() {
  if (data_ != nullptr) (void)cudaFree(data_);
}

template <class T>
void DeviceBuffer<T>::upload(std::span<const T> from, const Context<Cuda>& context) {
  if (static_cast<Index>(from.size()) != size_) throw ShapeError("DeviceBuffer upload", static_cast<Index>(from.size()), size_);
  copy(data_, from.data(), size_, cudaMemcpyHostToDevice, context);
}
template <class T>
std::vector<T> download(VectorView<const T, Cuda> from, const Context<Cuda>& context) {
  std::vector<T> values(static_cast<std::size_t>(from.size));
  copy(values.data(), from.data, from.size, cudaMemcpyDeviceToHost, context);
  return values;
}

#define ESPALIER_INSTANTIATE(T)                   \
  template class ESPALIER_EXPORT DeviceBuffer<T>; \
  template ESPALIER_EXPORT std::vector<T> download(VectorView<const T, Cuda>, const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
ESPALIER_INSTANTIATE(std::int32_t)
ESPALIER_INSTANTIATE(std::int64_t)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
