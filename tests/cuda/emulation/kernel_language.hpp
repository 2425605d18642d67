// The CUDA kernel language for a plain C++20 compiler: keywords, built-in variables, barriers, warp operations, atomics.
// SPDX-License-Identifier: Apache-2.0
//
// Only what the library's kernels use; a kernel that needs more brings it, with a test in tests/cuda/emulation. Left out on
// purpose: __shared__ (write ESPALIER_GPU_SHARED), __activemask, grid-wide barriers, warp operations without a mask.
#pragma once

#include "emulation/block.hpp"

#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static_assert(false, "write ESPALIER_GPU_SHARED(type, name, [size]) of backend/cuda/gpu.hpp");

// Variables, not macros: other headers have parameters of these names.
inline constexpr const uint3& threadIdx = espalier::emulation::view.thread;
inline constexpr const uint3& blockIdx = espalier::emulation::view.block;
inline constexpr const dim3& blockDim = espalier::emulation::view.block_size;
inline constexpr const dim3& gridDim = espalier::emulation::view.grid_size;
inline constexpr int warpSize = 32;

namespace espalier::emulation {

template <class Tag>
inline constexpr char shared_key = 0;

// `Tag` is the type of a lambda, a new one for every declaration.
template <class T, class Tag>
T& shared_array(const char* name, const char* file, unsigned line, Tag) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
  return *static_cast<T*>(shared_array_at(&shared_key<Tag>, sizeof(T), name, Place{file, line}));
}

// Runs a kernel at once, outside any stream, with as much shared memory as the chip allows. Errors: Error.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t dynamic_bytes, Arguments... arguments) {
  run(grid, block, dynamic_bytes, kOptInShared, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

// Puts a launch on a stream (tests/cuda/fake). What the kernel does wrong is the stream's error, reported by a later call.
// pointers: the kernel's parameters that are pointers; they must be the device's when the kernel runs.
cudaError_t enqueue(const void* kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes, cudaStream_t stream,
                    const std::vector<const void*>& pointers, std::function<void()> thread);

template <class... T>
std::vector<const void*> pointers_among(const std::tuple<T...>& values) {
  std::vector<const void*> pointers;
  const auto look_at = [&](const auto& value) {
    if constexpr (std::is_pointer_v<std::remove_cvref_t<decltype(value)>>) pointers.push_back(value);
  };
  std::apply([&](const auto&... value) { (look_at(value), ...); }, values);
  return pointers;
}

// CUDA's shuffles take the arithmetic types of 4 and 8 bytes.
template <class T>
T shuffle(Operation operation, unsigned mask, T value, int source, Place place) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet_warp(operation, mask, bits, source, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// First lane of this lane's group of `width`.
inline int group_start(int width, Place place) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail_here("width " + std::to_string(width) + " of a shuffle is not a power of two up to 32", place);
  }
  return view.lane & ~(width - 1);
}

}  // namespace espalier::emulation

// The caller's file and line, as default arguments.
#define ESPALIER_CALLER const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

inline void __syncthreads(ESPALIER_CALLER) {
  espalier::emulation::meet_block(false, {file, line});
}
inline int __syncthreads_count(int predicate, ESPALIER_CALLER) {
  return espalier::emulation::meet_block(predicate != 0, {file, line}).yes;
}
inline int __syncthreads_or(int predicate, ESPALIER_CALLER) {
  return espalier::emulation::meet_block(predicate != 0, {file, line}).yes > 0;
}
inline int __syncthreads_and(int predicate, ESPALIER_CALLER) {
  const auto votes = espalier::emulation::meet_block(predicate != 0, {file, line});
  return votes.yes == votes.all;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, ESPALIER_CALLER) {
  espalier::emulation::meet_warp(espalier::emulation::Operation::syncwarp, mask, 0, -1, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, ESPALIER_CALLER) {
  return static_cast<unsigned>(
      espalier::emulation::meet_warp(espalier::emulation::Operation::ballot, mask, predicate != 0, -1, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, ESPALIER_CALLER) {
  return espalier::emulation::meet_warp(espalier::emulation::Operation::any, mask, predicate != 0, -1, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, ESPALIER_CALLER) {
  return espalier::emulation::meet_warp(espalier::emulation::Operation::all, mask, predicate == 0, -1, {file, line}) == 0;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, ESPALIER_CALLER) {
  const int start = espalier::emulation::group_start(width, {file, line});
  return espalier::emulation::shuffle(espalier::emulation::Operation::shuffle, mask, value, start + (source & (width - 1)),
                                      {file, line});
}
// Beyond the edge of its group a lane keeps its own value.
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, ESPALIER_CALLER) {
  const int start = espalier::emulation::group_start(width, {file, line}), lane = espalier::emulation::view.lane;
  const int source = lane - static_cast<int>(delta);
  return espalier::emulation::shuffle(espalier::emulation::Operation::shuffle_up, mask, value, source < start ? lane : source,
                                      {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, ESPALIER_CALLER) {
  const int start = espalier::emulation::group_start(width, {file, line}), lane = espalier::emulation::view.lane;
  const int source = lane + static_cast<int>(delta);
  return espalier::emulation::shuffle(espalier::emulation::Operation::shuffle_down, mask, value,
                                      source >= start + width ? lane : source, {file, line});
}
// Lanes of a later group keep their own value; an earlier group may be read (CUDA C++ Programming Guide, "Warp Shuffle").
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, ESPALIER_CALLER) {
  const int start = espalier::emulation::group_start(width, {file, line}), lane = espalier::emulation::view.lane;
  const int source = lane ^ lane_mask;
  return espalier::emulation::shuffle(espalier::emulation::Operation::shuffle_xor, mask, value,
                                      source >= start + width || source < 0 ? lane : source, {file, line});
}
#undef ESPALIER_CALLER

// Threads never run at the same time here, so a plain update is atomic. The order of updates is the order of the schedule.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long> ||
                std::is_same_v<T, float> || std::is_same_v<T, double>);
  const T old = *address;
  *address = old + value;
  return old;
}
template <class T>
concept AtomicInteger = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;
template <AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
template <AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  if (value < old) *address = value;
  return old;
}
template <AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value);
}
template <AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

#include "emulation/device_functions.hpp"
