// The thin layer under every kernel: plain CUDA with nvcc, the emulation of tests/cuda with any other compiler.
// SPDX-License-Identifier: Apache-2.0
//
// What a kernel writes differently from plain CUDA, and nothing else:
//   ESPALIER_GPU_SHARED(float, tile, [32][33]);    for   __shared__ float tile[32][33];
//   ESPALIER_GPU_DYNAMIC_SHARED(float, panel);     for   extern __shared__ float panel[];   (16-byte aligned)
//   gpu::launch(kernel, grid, block, bytes, stream, arguments...)   for   kernel<<<grid, block, bytes, stream>>>(arguments...)
#pragma once

#include <espalier/core/error.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <tuple>
#include <utility>

#if defined(__CUDACC__)
#define ESPALIER_GPU_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define ESPALIER_GPU_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char espalier_gpu_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(espalier_gpu_dynamic_shared)
#elif defined(ESPALIER_CUDA_EMULATION)
#define ESPALIER_GPU_SHARED(type, name, ...)   \
  using name##_shared_type = type __VA_ARGS__; \
  auto& name = ::espalier::emulation::shared_array<name##_shared_type>(#name, __FILE__, __LINE__, [] {})
#define ESPALIER_GPU_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::espalier::emulation::dynamic_shared())
#endif

namespace espalier::gpu {

// Throws BackendError with the call's name and the runtime's own text unless status is cudaSuccess.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw BackendError(std::string(call) + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status));
}

#if defined(__CUDACC__) || defined(ESPALIER_CUDA_EMULATION)

// Dynamic shared memory that a kernel gets without asking for more.
inline constexpr std::size_t kDefaultSharedBytes = 48 * 1024;

// Enqueues kernel(arguments...) on `stream` with `shared_bytes` of dynamic shared memory and returns. More than 48 KB are
// asked for first. Errors: BackendError with the runtime's text where the launch is refused (a grid or block of 0 or too
// large, too much shared memory); what fails while the kernel runs is reported by a later call, as always with CUDA.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each parameter of the kernel");
  std::tuple<Parameters...> values{static_cast<Parameters>(std::forward<Arguments>(arguments))...};
  const void* address = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > kDefaultSharedBytes) {
    check(cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  }
#if defined(__CUDACC__)
  // The extra element keeps the array legal for a kernel without parameters.
  const cudaError_t status = std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)..., nullptr};
        return cudaLaunchKernel(address, grid, block, pointers, shared_bytes, stream);
      },
      values);
#else
  const cudaError_t status = emulation::enqueue(address, grid, block, shared_bytes, stream, emulation::pointers_among(values),
                                                [kernel, values]() mutable { std::apply(kernel, values); });
#endif
  check(status, "kernel launch");
}

#endif

}  // namespace espalier::gpu
