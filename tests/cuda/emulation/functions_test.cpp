// Functions, atomic exchanges and vector types that kernels may use, against their definitions.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/gpu.hpp"
#include "emulation/orders.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace emu = espalier::emulation;

namespace {

__global__ void exchange(int* tickets, unsigned* slot, unsigned long long* lock, int* seen) {
  const unsigned t = threadIdx.x;
  tickets[t] = static_cast<int>(atomicExch(slot, t));
  // The first to come takes the lock; nobody waits for it.
  if (atomicCAS(lock, 0ull, t + 1ull) == 0) *seen = static_cast<int>(t);
}

__global__ void vectors(const float4* in, float4* out, double2* sums) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const float4 v = __ldg(in + i);
  out[i] = make_float4(v.w, v.z, v.y, v.x);
  sums[i] = make_double2(static_cast<double>(v.x) + v.y, static_cast<double>(v.z) + v.w);
}

}  // namespace

TEST_CASE("exchange and compare-and-swap: a chain without a break, one winner") {
  emu::in_every_order([] {
    const int n = 70;
    std::vector<int> tickets(n);
    unsigned slot = 1000;
    unsigned long long lock = 0;
    int winner = -1;
    emu::launch(exchange, dim3(1), dim3(n), 0, tickets.data(), &slot, &lock, &winner);
    // Everybody's number was taken by the next one, the last one's is still there.
    std::vector<int> all = tickets;
    all.push_back(static_cast<int>(slot));
    std::sort(all.begin(), all.end());
    for (int t = 0; t < n; ++t) CHECK(all[static_cast<std::size_t>(t)] == t);
    CHECK(all.back() == 1000);
    CHECK(lock == static_cast<unsigned long long>(winner) + 1);
    CHECK(tickets[static_cast<std::size_t>(winner)] == 1000);
  });
}

TEST_CASE("vector types: layout and values") {
  CHECK(alignof(float4) == 16);
  CHECK(alignof(double2) == 16);
  CHECK(alignof(float2) == 8);
  CHECK(sizeof(float3) == 12);
  std::vector<float4> in(64), out(64);
  std::vector<double2> sums(64);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const auto f = static_cast<float>(i);
    in[i] = {f, f + 0.25f, f + 0.5f, f + 0.75f};
  }
  emu::launch(vectors, dim3(2), dim3(32), 0, in.data(), out.data(), sums.data());
  for (std::size_t i = 0; i < in.size(); ++i) {
    CHECK(out[i].x == in[i].w);
    CHECK(out[i].z == in[i].y);
    CHECK(sums[i].x == 2.0 * static_cast<double>(i) + 0.25);
    CHECK(sums[i].y == 2.0 * static_cast<double>(i) + 1.25);
  }
  const int4 a = make_int4(1, 2, 3, 4);
  const uint2 b = make_uint2(5, 6);
  CHECK(a.x + a.y + a.z + a.w == 10);
  CHECK(b.x + b.y == 11);
}

TEST_CASE("one rounding in a fused multiplication and addition") {
  // (1 + e)(1 - e) - 1 = -e^2: lost when the product is rounded first.
  const float e = std::numeric_limits<float>::epsilon();
  const double d = std::numeric_limits<double>::epsilon();
  CHECK(__fmaf_rn(1 + e, 1 - e, -1.0f) == -e * e);
  CHECK(__fma_rn(1 + d, 1 - d, -1.0) == -d * d);
  CHECK(__fadd_rn(__fmul_rn(1 + e, 1 - e), -1.0f) == 0.0f);
  CHECK(__dadd_rn(__dmul_rn(1 + d, 1 - d), -1.0) == 0.0);
}

TEST_CASE("fast functions are the host's, within a rounding or two of the true values") {
  for (const float x : {-20.0f, -1.0f, 0.0f, 0.5f, 3.0f, 80.0f}) {
    const double exact = std::exp(static_cast<double>(x));
    CHECK(std::abs(static_cast<double>(__expf(x)) - exact) <= 2e-7 * exact);
  }
  for (const float x : {0.01f, 1.0f, 7.0f}) {
    CHECK(std::abs(static_cast<double>(__logf(x)) - std::log(static_cast<double>(x))) <= 5e-7);
    CHECK(std::abs(static_cast<double>(rsqrtf(x)) * std::sqrt(static_cast<double>(x)) - 1) <= 2e-7);
    CHECK(std::abs(rsqrt(static_cast<double>(x)) * std::sqrt(static_cast<double>(x)) - 1) <= 1e-15);
    CHECK(__fdividef(1.0f, x) == 1.0f / x);
  }
  CHECK(__saturatef(-1.0f) == 0.0f);
  CHECK(__saturatef(0.25f) == 0.25f);
  CHECK(__saturatef(2.0f) == 1.0f);
  CHECK(__saturatef(std::numeric_limits<float>::quiet_NaN()) == 0.0f);  // as CUDA has it
}

TEST_CASE("bits and the smaller of two") {
  CHECK(__popc(0xf0f00001u) == 9);
  CHECK(__clz(1) == 31);
  CHECK(__clz(0) == 32);
  CHECK(__ffs(0) == 0);
  CHECK(__ffs(8) == 4);
  CHECK(__float_as_uint(1.0f) == 0x3f800000u);
  CHECK(__int_as_float(__float_as_int(-2.5f)) == -2.5f);
  CHECK(__uint_as_float(0x40000000u) == 2.0f);
  CHECK(__longlong_as_double(__double_as_longlong(1e300)) == 1e300);
  CHECK(min(3, -4) == -4);
  CHECK(max(2.5, 1.0) == 2.5);
  CHECK(warpSize == 32);
}
