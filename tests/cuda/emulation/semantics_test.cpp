// What CUDA defines gives CUDA's results in the emulation, in every order of the threads.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/gpu.hpp"
#include "emulation/orders.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace emu = espalier::emulation;

using emu::in_every_order;

__global__ void write_positions(int* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += static_cast<int>(block * 1000 + thread);
}

TEST_CASE("every thread of every block runs once with its own indices") {
  in_every_order([] {
    std::vector<int> out(3 * 2 * 2 * 60, 0);
    emu::launch(write_positions, dim3(3, 2, 2), dim3(5, 4, 3), 0, out.data());
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(out[i] == static_cast<int>(i / 60 * 1000 + i % 60));
  });
}

__global__ void rotate_by_barrier(int* data, int rounds) {
  ESPALIER_GPU_SHARED(int, buffer, [1024]);
  const unsigned t = threadIdx.x, n = blockDim.x;
  int value = data[blockIdx.x * n + t];
  for (int r = 0; r < rounds; ++r) {
    buffer[t] = value;
    __syncthreads();
    value = buffer[(t + 1) % n];
    __syncthreads();
  }
  data[blockIdx.x * n + t] = value;
}

TEST_CASE("a barrier orders the block, for block sizes around a warp and up to the largest") {
  in_every_order([] {
    for (const int n : {1, 2, 31, 32, 33, 64, 97, 1024}) {
      std::vector<int> data(static_cast<std::size_t>(2 * n));
      std::iota(data.begin(), data.end(), 0);
      emu::launch(rotate_by_barrier, dim3(2), dim3(static_cast<unsigned>(n)), 0, data.data(), 3);
      for (int b = 0; b < 2; ++b) {
        for (int t = 0; t < n; ++t) CHECK(data[static_cast<std::size_t>(b * n + t)] == b * n + (t + 3) % n);
      }
    }
  });
}

__global__ void warp_operations(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int* const mine = out + 12 * lane;
  mine[0] = __shfl_sync(~0u, lane, 5);
  mine[1] = __shfl_sync(~0u, lane, lane + 3, 8);
  mine[2] = __shfl_up_sync(~0u, lane, 1);
  mine[3] = __shfl_up_sync(~0u, lane, 3, 16);
  mine[4] = __shfl_down_sync(~0u, lane, 2);
  mine[5] = __shfl_down_sync(~0u, lane, 1, 4);
  mine[6] = __shfl_xor_sync(~0u, lane, 7);
  mine[7] = __shfl_xor_sync(~0u, lane, 8, 8);
  mine[8] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
  mine[9] = __any_sync(~0u, lane == 31);
  mine[10] = __all_sync(~0u, lane < 31);
  mine[11] = __all_sync(~0u, lane < 32) + 2 * __any_sync(~0u, lane == 32);
}

TEST_CASE("shuffles and votes give what the programming guide says") {
  in_every_order([] {
    std::vector<int> out(32 * 12);
    emu::launch(warp_operations, dim3(1), dim3(32), 0, out.data());
    unsigned thirds = 0;
    for (int l = 0; l < 32; l += 3) thirds |= 1u << l;
    for (int l = 0; l < 32; ++l) {
      const int* const o = out.data() + 12 * l;
      CAPTURE(l);
      CHECK(o[0] == 5);
      CHECK(o[1] == l / 8 * 8 + (l + 3) % 8);
      CHECK(o[2] == (l == 0 ? 0 : l - 1));
      CHECK(o[3] == (l % 16 < 3 ? l : l - 3));
      CHECK(o[4] == (l > 29 ? l : l + 2));
      CHECK(o[5] == (l % 4 == 3 ? l : l + 1));
      CHECK(o[6] == (l ^ 7));
      // A later group keeps its own values, an earlier group may be read.
      CHECK(o[7] == ((l ^ 8) >= l / 8 * 8 + 8 ? l : (l ^ 8)));
      CHECK(static_cast<unsigned>(o[8]) == thirds);
      CHECK(o[9] == 1);
      CHECK(o[10] == 0);
      CHECK(o[11] == 1);
    }
  });
}

__global__ void halves_and_types(double* out, long long* integers) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  double sum = 1.0 / (1 + lane);
  // Each half goes its own way, the lower one with one step more.
  if (lane < 16) {
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(0x0000ffffu, sum, step);
  } else {
    sum = __shfl_sync(half, sum, 31);
  }
  out[lane] = sum;
  integers[lane] = __shfl_xor_sync(~0u, (1ll << 40) + lane, 1);
  __syncwarp();
}

TEST_CASE("lanes with masks of their own; 8-byte values") {
  in_every_order([] {
    std::vector<double> out(32);
    std::vector<long long> integers(32);
    emu::launch(halves_and_types, dim3(1), dim3(32), 0, out.data(), integers.data());
    double sum = 0;
    for (int l = 0; l < 16; ++l) sum += 1.0 / (1 + l);
    for (std::size_t l = 0; l < 32; ++l) {
      // 15 additions in another order: 15 eps of a sum below 4.
      if (l < 16) CHECK(std::abs(out[l] - sum) <= 15 * 4 * std::numeric_limits<double>::epsilon());
      if (l >= 16) CHECK(out[l] == 1.0 / 32);
      CHECK(integers[l] == (1ll << 40) + static_cast<long long>(l ^ 1));
    }
  });
}

__global__ void return_early(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t % 2 == 1) return;
  __syncthreads();
  out[t] = static_cast<int>(__ballot_sync(~0u, 1));
  out[t + 1] = __syncthreads_count(t < 8);
}

TEST_CASE("threads that have returned are not waited for, in a warp that is not full either") {
  in_every_order([] {
    std::vector<int> out(40, -1);
    emu::launch(return_early, dim3(1), dim3(40), 0, out.data());
    for (std::size_t t = 0; t < 40; t += 2) {
      CHECK(static_cast<unsigned>(out[t]) == (t < 32 ? 0x55555555u : 0x55u));
      CHECK(out[t + 1] == 4);
    }
  });
}

__global__ void block_votes(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  const int count = __syncthreads_count(t % 5 == 0), some = __syncthreads_or(t == 7), every = __syncthreads_and(t != 7);
  const int none = __syncthreads_or(0), all = __syncthreads_and(1);
  out[t] = count * 16 + some * 8 + every * 4 + none * 2 + all;
}

TEST_CASE("votes of a block") {
  in_every_order([] {
    std::vector<int> out(50);
    emu::launch(block_votes, dim3(1), dim3(50), 0, out.data());
    for (const int o : out) CHECK(o == 10 * 16 + 8 + 1);
  });
}

__global__ void add_up(float* f, double* d, int* i, unsigned long long* u, int* order) {
  const int t = static_cast<int>(threadIdx.x + blockIdx.x * blockDim.x);
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicAdd(u, 3ull);
  atomicMax(order, t);
  atomicMin(order + 1, t);
  i[atomicAdd(i, 1) + 1] = t;
}

TEST_CASE("atomic updates: sums of all types, every ticket once, the order is the schedule's") {
  in_every_order([] {
    float f = 0;
    double d = 0;
    unsigned long long u = 0;
    int extremes[2] = {-1, 1000};
    std::vector<int> tickets(1 + 96);
    emu::launch(add_up, dim3(3), dim3(32), 0, &f, &d, tickets.data(), &u, extremes);
    CHECK(f == 48.0f);
    CHECK(d == 24.0);
    CHECK(u == 288);
    CHECK(extremes[0] == 95);
    CHECK(extremes[1] == 0);
    CHECK(tickets[0] == 96);
    std::vector<int> sorted(tickets.begin() + 1, tickets.end());
    const bool ascending = std::is_sorted(sorted.begin(), sorted.end());
    CHECK(ascending == (emu::settings().order == emu::Order::forward));
    std::sort(sorted.begin(), sorted.end());
    for (int t = 0; t < 96; ++t) CHECK(sorted[static_cast<std::size_t>(t)] == t);
  });
}

__global__ void read_unwritten(float* out) {
  ESPALIER_GPU_SHARED(float, fixed, [4]);
  ESPALIER_GPU_SHARED(double, wide, [2][2]);
  ESPALIER_GPU_DYNAMIC_SHARED(float, moving);
  if (threadIdx.x == 0) out[0] = fixed[3], out[1] = static_cast<float>(wide[1][1]), out[2] = moving[7];
  __syncthreads();
  fixed[threadIdx.x] = 1, wide[0][0] = wide[1][1] = 1, moving[2 * threadIdx.x + 1] = 1;
}

TEST_CASE("shared memory is NaN at the start of every block") {
  in_every_order([] {
    float out[3];
    emu::launch(read_unwritten, dim3(3), dim3(4), 8 * sizeof(float), out);
    for (const float o : out) CHECK(std::isnan(o));
  });
}

__global__ void two_arrays(int* out, int last) {
  ESPALIER_GPU_SHARED(int, a, [8]);
  ESPALIER_GPU_SHARED(int, total);
  const int t = static_cast<int>(threadIdx.x);
  a[t] = t;
  if (t == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, a[last - t]);
  __syncthreads();
  out[t] = total;
}

TEST_CASE("one array for each declaration and block; a scalar may be shared") {
  in_every_order([] {
    int out[8];
    emu::launch(two_arrays, dim3(2), dim3(8), 0, out, 7);
    for (const int o : out) CHECK(o == 28);
  });
}
