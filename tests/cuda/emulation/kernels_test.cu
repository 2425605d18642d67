// Three small kernels with everything that the library's kernels use, against plain loops; and their planted defects.
// SPDX-License-Identifier: Apache-2.0
//
// ESPALIER_DEFECT = 1 ... 5 plants one defect. Each must make this program fail in each single order of the threads
// (tests cuda_defect_N_ORDER); a test that cannot see them proves nothing about other kernels.
#include "backend/cuda/gpu.hpp"
#include "device_vector.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#ifndef ESPALIER_DEFECT
#define ESPALIER_DEFECT 0
#endif

using espalier::Index;
using espalier::test::DeviceVector;
using espalier::test::Stream;
namespace gpu = espalier::gpu;

namespace {

constexpr int kTile = 16;
constexpr unsigned kFull = 0xffffffffu;

// out (columns x rows) = transpose of in (rows x columns), through a padded tile.
__global__ void transpose(const float* in, float* out, int rows, int columns) {
  ESPALIER_GPU_SHARED(float, tile, [kTile][kTile + 1]);
  const int r = static_cast<int>(blockIdx.y) * kTile + static_cast<int>(threadIdx.y);
  const int c = static_cast<int>(blockIdx.x) * kTile + static_cast<int>(threadIdx.x);
  if (r < rows && c < columns) tile[threadIdx.y][threadIdx.x] = in[r * columns + c];
#if ESPALIER_DEFECT != 1  // missing __syncthreads
  __syncthreads();
#endif
  const int to_r = static_cast<int>(blockIdx.x) * kTile + static_cast<int>(threadIdx.y);
  const int to_c = static_cast<int>(blockIdx.y) * kTile + static_cast<int>(threadIdx.x);
#if ESPALIER_DEFECT == 2  // shifted index
  if (to_r < columns && to_c < rows) out[to_r * rows + to_c] = tile[threadIdx.x + 1][threadIdx.y];
#else
  if (to_r < columns && to_c < rows) out[to_r * rows + to_c] = tile[threadIdx.x][threadIdx.y];
#endif
}

__device__ double warp_sum(double value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
#if ESPALIER_DEFECT == 3  // the mask leaves out the lanes that are read
    value += __shfl_down_sync(0x0000ffffu | (1u << (threadIdx.x % 32)), value, static_cast<unsigned>(step));
#else
    value += __shfl_down_sync(kFull, value, static_cast<unsigned>(step));
#endif
  }
  return value;
}

// total += sum of x, by blocks of any multiple of 32 threads.
__global__ void sum(const float* x, int n, double* total) {
  ESPALIER_GPU_SHARED(double, partial, [32]);
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  double mine = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x) + t; i < n; i += static_cast<int>(gridDim.x * blockDim.x))
    mine += x[i];
  mine = warp_sum(mine);
  if (lane == 0) partial[warp] = mine;
#if ESPALIER_DEFECT == 4  // a barrier that not all threads reach
  if (lane == 0) __syncthreads();
#else
  __syncthreads();
#endif
  if (warp > 0) return;
  mine = warp_sum(lane < static_cast<int>(blockDim.x) / 32 ? partial[lane] : 0.0);
  if (lane == 0) atomicAdd(total, mine);
}

// Every warp reverses its 32 values through dynamic shared memory.
__global__ void reverse_warps(float* x, int n) {
  ESPALIER_GPU_DYNAMIC_SHARED(float, panel);
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x * blockDim.x) + t;
  panel[t] = i < n ? x[i] : 0.0f;
#if ESPALIER_DEFECT != 5  // missing __syncwarp
  __syncwarp();
#endif
  const float other = panel[t / 32 * 32 + 31 - t % 32];
  if (i < n) x[i] = other;
}

std::vector<float> waves(Index n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = std::sin(0.7f * static_cast<float>(i)) + 0.1f;
  return values;
}

}  // namespace

TEST_CASE("transpose, sizes around the tile") {
  const Stream stream;
  for (const int rows : {1, 15, 16, 17, 40}) {
    for (const int columns : {1, 7, 16, 33}) {
      const auto host = waves(rows * columns);
      const DeviceVector<float> in(host, stream), out(rows * columns, stream);
      gpu::launch(transpose,
                  dim3(static_cast<unsigned>(columns + kTile - 1) / kTile, static_cast<unsigned>(rows + kTile - 1) / kTile),
                  dim3(kTile, kTile), 0, stream.get(), in.data(), out.data(), rows, columns);
      const auto got = out.copy_to_host();
      int wrong = 0;
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
          wrong += !(got[static_cast<std::size_t>(c * rows + r)] == host[static_cast<std::size_t>(r * columns + c)]);
        }
      }
      CAPTURE(rows);
      CAPTURE(columns);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("sum, sizes around a warp, a block and a grid") {
  const Stream stream;
  for (const int n : {1, 31, 32, 33, 256, 1000, 4099}) {
    const auto host = waves(n);
    double expected = 0, absolute = 0;
    for (const float v : host) expected += v, absolute += std::abs(v);
    const DeviceVector<float> x(host, stream);
    const DeviceVector<double> total(std::vector<double>{0}, stream);
    gpu::launch(sum, dim3(4), dim3(128), 0, stream.get(), x.data(), n, total.data());
    // Two sums of n terms in different orders: each within n eps of the sum of magnitudes.
    CAPTURE(n);
    CHECK(std::abs(total.copy_to_host()[0] - expected) <= 2 * n * std::numeric_limits<double>::epsilon() * absolute);
  }
}

TEST_CASE("exchange inside warps through dynamic shared memory") {
  const Stream stream;
  for (const int n : {32, 96, 256, 300}) {
    const auto host = waves(n);
    const DeviceVector<float> x(host, stream);
    gpu::launch(reverse_warps, dim3(static_cast<unsigned>(n + 63) / 64), dim3(64), 64 * sizeof(float), stream.get(), x.data(),
                n);
    const auto got = x.copy_to_host();
    int wrong = 0;
    for (int i = 0; i < n; ++i) {
      const int from = i / 32 * 32 + 31 - i % 32;
      wrong += !(got[static_cast<std::size_t>(i)] == (from < n ? host[static_cast<std::size_t>(from)] : 0.0f));
    }
    CAPTURE(n);
    CHECK(wrong == 0);
  }
}
