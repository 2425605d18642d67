// What the CUDA sources share: views for kernels, the context's stream, cancellation, launches over the elements of a matrix.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/error.hpp>
#include <espalier/core/views.hpp>

#include "backend/cuda/gpu.hpp"

namespace espalier::backend {

// A matrix in device memory as a kernel takes it. row_stride may be negative.
template <class T>
struct DeviceMatrix {
  T* data;
  Index rows, cols, row_stride;
  __device__ T& operator()(Index i, Index j) const { return data[i * row_stride + j]; }
};
template <class T>
DeviceMatrix<T> on_device(MatrixView<T, Cuda> m) {
  return {m.data, m.rows, m.cols, m.row_stride};
}

inline cudaStream_t stream_of(const Context<Cuda>& context) {
  return static_cast<cudaStream_t>(context.stream);
}
inline void check_cancelled(const Context<Cuda>& context) {
  if (context.progress != nullptr && context.progress->stop.stop_requested()) throw Cancelled();
}

inline unsigned block_count(Index n, Index block) {
  return static_cast<unsigned>((n + block - 1) / block);
}
inline constexpr int kThreads = 256;

// f(i, j) for i < rows, j < cols, one thread an element. Blocks are as wide as the matrix, up to 256: neighbouring threads
// touch neighbouring addresses for wide and for narrow matrices.
template <class F>
__global__ void __launch_bounds__(kThreads) element_kernel(F f, Index rows, Index cols, Index blocks_across) {
  const Index down = static_cast<Index>(blockIdx.x) / blocks_across, across = static_cast<Index>(blockIdx.x) % blocks_across;
  const Index i = down * static_cast<Index>(blockDim.y) + static_cast<Index>(threadIdx.y);
  const Index j = across * static_cast<Index>(blockDim.x) + static_cast<Index>(threadIdx.x);
  if (i < rows && j < cols) f(i, j);
}
template <class F>
void over_elements(Index rows, Index cols, const Context<Cuda>& context, const F& f) {
  check_cancelled(context);
  if (rows <= 0 || cols <= 0) return;
  unsigned width = 1;
  while (width < kThreads && static_cast<Index>(width) < cols) width *= 2;
  const unsigned height = kThreads / width, across = block_count(cols, width);
  gpu::launch(element_kernel<F>, dim3(across * block_count(rows, height)), dim3(width, height), 0, stream_of(context), f, rows,
              cols, static_cast<Index>(across));
}

}  // namespace espalier::backend
