// Masked products and attention on a GPU: times by CUDA events, beside the multiply-add peak and the copy rate of the same run.
// SPDX-License-Identifier: Apache-2.0
//
// cuda_benchmark [largest length (65536)] [features (64)] [repeats (7)]
// Every time is the median of the repeats after one call to warm up. Peak: multiply-adds on registers; rate: a copy of 256 MB,
// read and written bytes together. Prints one table; returns 77 where there is no GPU.
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/random.hpp>
#include <espalier/cuda.hpp>
#include <espalier/masks/grid.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace {

using namespace espalier;

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", call, cudaGetErrorString(status));
  std::exit(1);
}

// Median milliseconds of f on the default stream.
double milliseconds(int repeats, const std::function<void()>& f) {
  cudaEvent_t before, after;
  check(cudaEventCreate(&before), "cudaEventCreate");
  check(cudaEventCreate(&after), "cudaEventCreate");
  f();
  std::vector<double> times;
  for (int k = 0; k < repeats; ++k) {
    check(cudaEventRecord(before), "cudaEventRecord");
    f();
    check(cudaEventRecord(after), "cudaEventRecord");
    check(cudaEventSynchronize(after), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, before, after), "cudaEventElapsedTime");
    times.push_back(static_cast<double>(ms));
  }
  check(cudaEventDestroy(before), "cudaEventDestroy");
  check(cudaEventDestroy(after), "cudaEventDestroy");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

constexpr int kChains = 16, kSteps = 4096;

// kChains independent chains of multiply-adds a thread: the arithmetic units have no reason to wait.
template <class T>
__global__ void multiply_add_kernel(T* out, T factor, T term) {
  T value[kChains];
  for (int c = 0; c < kChains; ++c) value[c] = static_cast<T>(threadIdx.x + static_cast<unsigned>(c));
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) value[c] = value[c] * factor + term;
  }
  T sum = 0;
  for (int c = 0; c < kChains; ++c) sum += value[c];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// flop/s.
template <class T>
double peak(int repeats) {
  constexpr unsigned blocks = 132 * 16, threads = 256;
  DeviceBuffer<T> out(Index{blocks} * threads);
  const double ms = milliseconds(repeats, [&] {
    multiply_add_kernel<T><<<blocks, threads>>>(out.data(), T(0.999), T(0.001));
    check(cudaGetLastError(), "multiply_add_kernel");
  });
  return 2.0 * kChains * kSteps * blocks * threads / (ms * 1e-3);
}

__global__ void copy_kernel(const float4* from, float4* to, std::size_t count) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) to[i] = from[i];
}

// bytes/s, both ways together.
double copy_rate(int repeats) {
  constexpr std::size_t count = (std::size_t{256} << 20) / sizeof(float4);
  DeviceBuffer<float> from(static_cast<Index>(4 * count)), to(static_cast<Index>(4 * count));
  check(cudaMemset(from.data(), 0, count * sizeof(float4)), "cudaMemset");
  const double ms = milliseconds(repeats, [&] {
    copy_kernel<<<static_cast<unsigned>((count + 255) / 256), 256>>>(reinterpret_cast<const float4*>(from.data()),
                                                                     reinterpret_cast<float4*>(to.data()), count);
    check(cudaGetLastError(), "copy_kernel");
  });
  return 2.0 * static_cast<double>(count * sizeof(float4)) / (ms * 1e-3);
}

template <class T>
DeviceBuffer<T> random_numbers(Index count, std::uint64_t stream) {
  std::vector<T> v(static_cast<std::size_t>(count));
  const Random random(1, stream);
  for (Index i = 0; i < count; ++i)
    v[static_cast<std::size_t>(i)] = static_cast<T>(random.uniform(static_cast<std::uint64_t>(i)));
  return DeviceBuffer<T>(std::span<const T>(v));
}

std::vector<Index> square(Index length) {
  Index side = 1;
  while (side * side < length) side *= 2;
  return {side, length / side};
}

struct Machine {
  double flops, bytes;
  int repeats;
};

void line(const Machine& machine, const std::string& what, Index length, const std::string& grid, const std::string& engine,
          double ms, double flops) {
  std::printf("%-34s %7td %-6s %-7s %9.3f", what.c_str(), length, grid.c_str(), engine.c_str(), ms);
  if (flops > 0) {
    std::printf(" %9.2f %6.1f %%", flops / ms * 1e-9, 100 * flops / (ms * 1e-3) / machine.flops);
  }
  std::printf("\n");
}

template <class T>
std::vector<double> product_rows(const Machine& machine, const std::vector<Index>& sizes, Index m, const std::string& engine) {
  Index n = 1;
  for (const Index s : sizes) n *= s;
  const std::string grid = sizes.size() == 1 ? "line" : "square";
  GridOptions options;
  options.engine = engine;
  const GridMask<T, Cuda> mask(sizes, Rational{.width = 16}, Distance::l1, options);
  const auto a = random_numbers<T>(n * m, 1), b = random_numbers<T>(n * m, 2), x = random_numbers<T>(n * m, 3),
             y_bar = random_numbers<T>(n * m, 4), r_bar = random_numbers<T>(n, 5);
  DeviceBuffer<T> y(n * m), row_sum(n), a_bar(n * m), b_bar(n * m), x_bar(n * m), p_bar(3);
  const LowRankInputs<T, Cuda> in{a.matrix(n, m), b.matrix(n, m), x.matrix(n, m)};
  const double pairs = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(m);
  const bool tiles = engine == "direct";
  const std::string type = sizeof(T) == 4 ? "float" : "double";
  line(machine, "product and row sums, " + type, n, grid, engine,
       milliseconds(machine.repeats,
                    [&] {
                      mask.multiply_low_rank(in, {y.matrix(n, m), row_sum.vector()});
                    }),
       tiles ? 4 * pairs : 0);
  const std::vector<T> result = y.to_host();
  line(machine, "its gradients, " + type, n, grid, engine,
       milliseconds(machine.repeats,
                    [&] {
                      mask.multiply_low_rank_vjp(in, {y_bar.matrix(n, m), r_bar.vector()},
                                                 {a_bar.matrix(n, m), b_bar.matrix(n, m), x_bar.matrix(n, m), {}});
                    }),
       tiles ? 10 * pairs : 0);
  line(machine, "its gradients, parameters too, " + type, n, grid, engine,
       milliseconds(machine.repeats,
                    [&] {
                      mask.multiply_low_rank_vjp(in, {y_bar.matrix(n, m), r_bar.vector()},
                                                 {a_bar.matrix(n, m), b_bar.matrix(n, m), x_bar.matrix(n, m), p_bar.vector()});
                    }),
       tiles ? 10 * pairs : 0);
  return {result.begin(), result.end()};
}

void attention_rows(const Machine& machine, Index n, Index m, Index heads) {
  const GridMask<float, Cuda> mask({n}, Rational{.width = 16}, Distance::l1);
  const Index size = heads * n * m;
  const auto q = random_numbers<float>(size, 1), k = random_numbers<float>(size, 2), v = random_numbers<float>(size, 3),
             bar = random_numbers<float>(size, 4);
  DeviceBuffer<float> out(size), d(heads * n), q_bar(size), k_bar(size), v_bar(size), p_bar(3);
  const auto t = [&](const DeviceBuffer<float>& buffer) { return buffer.tensor(1, heads, n, m); };
  const std::string engine = mask.report({.columns = m, .rank = m}).engine;
  line(
      machine, "attention, " + std::to_string(heads) + " heads", n, "line", engine,
      milliseconds(machine.repeats, [&] { masked_linear_attention(t(q), t(k), t(v), mask, t(out), d.tensor(1, heads, n, 1)); }),
      0);
  AttentionGradients<float, Cuda> g{.q = t(q_bar), .k = t(k_bar), .v = t(v_bar)};
  g.parameters = p_bar.matrix(1, 3);
  line(machine, "attention gradients, " + std::to_string(heads) + " heads", n, "line", engine,
       milliseconds(machine.repeats,
                    [&] { masked_linear_attention_vjp(t(q), t(k), t(v), mask, t(out), d.tensor(1, heads, n, 1), t(bar), g); }),
       0);
}

double difference(const std::vector<double>& p, const std::vector<double>& q) {
  double d = 0, norm = 0;
  for (std::size_t i = 0; i < p.size(); ++i) d += (p[i] - q[i]) * (p[i] - q[i]), norm += p[i] * p[i];
  return std::sqrt(d / norm);
}

}  // namespace

int main(int argc, char** argv) {
  const Index largest = argc > 1 ? std::atol(argv[1]) : 65536, m = argc > 2 ? std::atol(argv[2]) : 64;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 7;
  if (largest < 1024 || m < 1 || repeats < 1) {
    std::fprintf(stderr, "usage: cuda_benchmark [largest length, at least 1024] [features] [repeats]\n");
    return 2;
  }
  if (cuda_device_count() == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  // Memory given back stays with the program: otherwise every wait for an event returns it to the driver.
  cudaMemPool_t pool = nullptr;
  std::uint64_t keep = ~std::uint64_t{0};
  check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  const Machine machine{peak<float>(repeats), copy_rate(repeats), repeats};
  const Machine machine_double{peak<double>(repeats), machine.bytes, repeats};
  std::printf("%s, %d processors; float multiply-add peak %.1f TFLOP/s, double %.1f TFLOP/s, copy %.2f TB/s; m = c = %td\n",
              device.name, device.multiProcessorCount, machine.flops * 1e-12, machine_double.flops * 1e-12,
              machine.bytes * 1e-12, m);
  std::printf("%-34s %7s %-6s %-7s %9s %9s %8s\n", "what", "length", "grid", "engine", "ms", "TFLOP/s", "of peak");
  for (Index n = 1024; n <= largest; n *= 4) {
    const auto tiles = product_rows<float>(machine, {n}, m, "direct"), fft = product_rows<float>(machine, {n}, m, "fft");
    std::printf("  the engines differ by %.2g\n", difference(tiles, fft));
    product_rows<float>(machine, square(n), m, "direct");
    product_rows<float>(machine, square(n), m, "fft");
    attention_rows(machine, n, m, 8);
  }
  product_rows<double>(machine_double, {4096}, m, "direct");
  product_rows<double>(machine_double, {4096}, m, "fft");
  return 0;
}
