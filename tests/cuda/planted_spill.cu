// A kernel that must spill registers: the build's flags have to refuse it.
// SPDX-License-Identifier: Apache-2.0

// 200 running products, all needed until the end, with 64 registers a thread at most.
__global__ void __launch_bounds__(1024) spilling_kernel(const float* in, float* out) {
  float value[200];
#pragma unroll
  for (int k = 0; k < 200; ++k) value[k] = in[k * 1024 + threadIdx.x];
  for (int round = 0; round < 100; ++round) {
#pragma unroll
    for (int k = 0; k < 200; ++k) value[k] = value[k] * value[(k + 7) % 200] + 1;
  }
#pragma unroll
  for (int k = 0; k < 200; ++k) out[k * 1024 + threadIdx.x] = value[k];
}
