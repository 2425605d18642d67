// What CUDA does not define throws in the emulation, in every order, and says file, line, block and thread.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/gpu.hpp"
#include "emulation/orders.hpp"
#include "emulation/sanitizer.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace emu = espalier::emulation;

namespace {

// f must end with an error whose text holds all the words.
template <class F>
void must_fail(const std::vector<std::string>& words, const F& f) {
  emu::in_every_order([&] {
    std::string text = "no error";
    try {
      f();
    } catch (const emu::Error& e) {
      text = e.what();
    }
    for (const std::string& word : words) {
      CAPTURE(text);
      CAPTURE(word);
      CHECK(text.find(word) != std::string::npos);
    }
  });
}

std::string line(int number) {
  return "errors_test.cpp:" + std::to_string(number);
}

}  // namespace

constexpr int kDiverge = __LINE__;
__global__ void diverge() {
  if (threadIdx.x < 3) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST_CASE("a barrier in a divergent branch") {
  must_fail({"divergent barrier", line(kDiverge + 3), line(kDiverge + 5), "(block 0,0,0 thread "},
            [] { emu::launch(diverge, dim3(1), dim3(8), 0); });
}

__global__ void barrier_against_warp() {
  if (threadIdx.x % 2 == 0) __syncthreads();
  if (threadIdx.x % 2 == 1) __syncwarp();
}
constexpr int kMasks = __LINE__;
__global__ void masks_that_do_not_fit() {
  if (threadIdx.x < 16) {
    __shfl_sync(0x0001ffffu, 1, 0);
  } else {
    __shfl_sync(0xffff0000u, 1, 16);
  }
  __syncthreads();
}

TEST_CASE("deadlock: places and masks of threads that wait for each other") {
  must_fail({"deadlock: 64 threads of block 0,0,0", "(barrier)", "(warp operation, mask 0xffffffff)", "errors_test.cpp:"},
            [] { emu::launch(barrier_against_warp, dim3(1), dim3(64), 0); });
  // Lane 16 is waited for under another mask than its own.
  must_fail({"deadlock: 32 threads", "(barrier)", line(kMasks + 3), "mask 0x0001ffff"},
            [] { emu::launch(masks_that_do_not_fit, dim3(1), dim3(32), 0); });
}

__global__ void outside_its_mask() {
  __syncwarp(0x0000ffffu);
}
__global__ void from_a_lane_elsewhere(int* out) {
  if (threadIdx.x < 16) *out = __shfl_sync(0x0000ffffu, 1, 20);
}
__global__ void from_a_lane_that_returned(int* out) {
  if (threadIdx.x == 4) return;
  *out = __shfl_sync(~0u, 1, 4);
}
__global__ void from_a_lane_that_never_was(int* out) {
  *out = __shfl_down_sync(~0u, 1, 1);
}
__global__ void different_operations() {
  if (threadIdx.x < 16) {
    __ballot_sync(~0u, 1);
  } else {
    __shfl_sync(~0u, 1, 0);
  }
}
__global__ void different_lines() {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncwarp();
  }
}
__global__ void width_that_is_no_power_of_two() {
  __shfl_sync(~0u, 1, 0, 12);
}

TEST_CASE("warp operations: masks, lanes and operations that do not fit") {
  int out = 0;
  must_fail({"__syncwarp: lane ", " is outside its mask 0x0000ffff", "(block 0,0,0 thread "},
            [] { emu::launch(outside_its_mask, dim3(1), dim3(32), 0); });
  must_fail({"__shfl_sync reads lane 20, which takes no part"},
            [&] { emu::launch(from_a_lane_elsewhere, dim3(1), dim3(32), 0, &out); });
  must_fail({"__shfl_sync reads lane 4, which takes no part", "lanes that came 0xffffffef"},
            [&] { emu::launch(from_a_lane_that_returned, dim3(1), dim3(32), 0, &out); });
  must_fail({"__shfl_down_sync reads lane 20, which takes no part", "thread 19,0,0"},
            [&] { emu::launch(from_a_lane_that_never_was, dim3(1), dim3(20), 0, &out); });
  must_fail({"meet in different operations", "__ballot_sync", "__shfl_sync"},
            [] { emu::launch(different_operations, dim3(1), dim3(32), 0); });
  must_fail({"meet in different operations", "__syncwarp at "}, [] { emu::launch(different_lines, dim3(1), dim3(32), 0); });
  must_fail({"width 12 of a shuffle"}, [] { emu::launch(width_that_is_no_power_of_two, dim3(1), dim3(32), 0); });
}

__global__ void one_past_the_end() {
  ESPALIER_GPU_SHARED(float, row, [32]);
  // The address sanitizer ends the program here; without it the guard behind the array tells.
  row[threadIdx.x + 1] = 1;
}
__global__ void much_fixed(int both) {
  ESPALIER_GPU_SHARED(float, first, [8 * 1024]);
  first[0] = 1;
  if (both == 0) return;
  ESPALIER_GPU_SHARED(float, second, [4 * 1024 + 1]);
  second[0] = 1;
}
__global__ void fixed_and_moving() {
  ESPALIER_GPU_SHARED(double, fixed, [1024]);
  fixed[0] = 1;
}

TEST_CASE("shared memory: the limits of sm_80") {
  emu::launch(much_fixed, dim3(1), dim3(1), 0, 0);
  CHECK(emu::counts().shared_bytes == 32 * 1024);
  must_fail({"shared arrays of 49156 bytes", "dynamic"}, [] { emu::launch(much_fixed, dim3(1), dim3(1), 0, 1); });
  emu::launch(fixed_and_moving, dim3(1), dim3(1), 155 * 1024);
  must_fail({"too much shared memory: 166920 bytes", "166912"},
            [] { emu::launch(fixed_and_moving, dim3(1), dim3(1), 155 * 1024 + 8); });
  must_fail({"bad launch", "166913 bytes of dynamic shared memory", "166912"},
            [] { emu::launch(diverge, dim3(1), dim3(1), 163 * 1024 + 1); });
}

#if !ESPALIER_ADDRESS_SANITIZER
TEST_CASE("shared memory: a write past the end of an array is found when the block ends") {
  must_fail({"written past the end of the shared array 'row' of 128 bytes", "block 2,0,0"}, [] {
    emu::launch(one_past_the_end, dim3(1), dim3(31), 0);
    // Only blocks of 32 write the element too many; the first block that does is reported.
    try {
      emu::launch(one_past_the_end, dim3(3), dim3(32), 0);
    } catch (const emu::Error& e) {
      const bool random = emu::settings().order == emu::Order::random;
      throw emu::Error(std::string(e.what()) +
                       (emu::settings().order == emu::Order::reverse || random ? "" : " not block 2,0,0"));
    }
  });
}
#endif

__global__ void nothing() {}

TEST_CASE("launches that CUDA refuses") {
  for (const dim3 grid : {dim3(0), dim3(1, 0), dim3(1, 1, 0), dim3(1, 65536), dim3(1, 1, 65536), dim3(1u << 31)}) {
    must_fail({"bad launch: a grid of"}, [grid] { emu::launch(nothing, grid, dim3(1), 0); });
  }
  for (const dim3 block : {dim3(0), dim3(1025), dim3(32, 33), dim3(1, 1, 65), dim3(1, 1, 0), dim3(65536, 65536)}) {
    must_fail({"bad launch: a block of"}, [block] { emu::launch(nothing, dim3(1), block, 0); });
  }
  const auto before = emu::counts().threads;
  emu::launch(nothing, dim3(7, 2), dim3(16, 1, 64), 0);
  CHECK(emu::counts().threads - before == 14 * 1024);
}

__global__ void launch_inside() {
  emu::launch(nothing, dim3(1), dim3(1), 0);
}
__global__ void throw_something(int what) {
  if (what == 0) throw std::string("text");
  throw espalier::ValueError("a host function's own error");
}

TEST_CASE("after an error the next launch is as good as the first") {
  must_fail({"a kernel is running already"}, [] { emu::launch(launch_inside, dim3(1), dim3(1), 0); });
  must_fail({"no std::exception"}, [] { emu::launch(throw_something, dim3(1), dim3(4), 0, 0); });
  must_fail({"a host function's own error"}, [] { emu::launch(throw_something, dim3(1), dim3(4), 0, 1); });
  emu::launch(nothing, dim3(1), dim3(1024), 0);
}
