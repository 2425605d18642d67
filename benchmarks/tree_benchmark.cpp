// Tree sweeps: time per node and column, and the share of the memory bandwidth measured in the same run.
// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/tree_distance.hpp>

#include <chrono>
#include <memory>
#include <vector>

namespace es = espalier;
using es::Index;

namespace {

enum Kind { path, star, random_tree };

std::shared_ptr<const es::Tree> make_tree(Kind kind, Index n) {
  const es::Random random(1);
  std::vector<Index> parent(static_cast<std::size_t>(n), -1);
  for (Index v = 1; v < n; ++v) {
    const auto k = static_cast<std::size_t>(v);
    parent[k] = kind == path ? v - 1 : kind == star ? 0 : static_cast<Index>(random.below(k, k));
  }
  return std::make_shared<const es::Tree>(std::move(parent), std::vector<double>(static_cast<std::size_t>(n), 0.1));
}

// Bytes a second of a[i] = b[i] + s c[i] over 3 x 64 MB, one thread, 16 bytes counted (the line of a is read, too): best of 5.
double triad_bandwidth() {
  constexpr std::size_t n = 16u << 20;
  static std::vector<float> a(n), b(n, 1.0F), c(n, 2.0F);
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < n; ++i) a[i] = b[i] + 0.5F * c[i];
    benchmark::DoNotOptimize(a.data());
    benchmark::ClobberMemory();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 16.0 * static_cast<double>(n) / seconds.count());
  }
  return best;
}

// Ranges: kind, nodes, columns.
void sweep(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  const Index n = state.range(1), c = state.range(2);
  const es::TreeDistanceMask<float> mask(make_tree(kind, n), es::AffineExponential{{-0.5}});
  std::vector<float> x(static_cast<std::size_t>(n * c), 0.5F), y(x.size());
  es::Context<es::Cpu> context;
  context.threads = 1;
  mask.multiply({x.data(), n, c}, {y.data(), n, c}, context);
  for (auto _ : state) mask.multiply({x.data(), n, c}, {y.data(), n, c}, context);
  const double work = static_cast<double>(n * c);
  const es::Report report = mask.report({.columns = c});
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * n * c);
  state.counters["ns/(node column)"] =
      benchmark::Counter(work * 1e-9, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  state.counters["of triad"] =
      benchmark::Counter(report.bytes / triad_bandwidth(), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of predicted"] = benchmark::Counter(report.predicted_seconds, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(kind == path ? "path" : kind == star ? "star" : "random");
}
BENCHMARK(sweep)
    ->ArgsProduct({{path, star, random_tree}, {10000, 100000, 1000000}, {1, 16, 64}})
    ->ArgNames({"kind", "nodes", "columns"})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Gradient of slope, intercept and weights.
void gradient(benchmark::State& state) {
  const Index n = state.range(0), c = state.range(1);
  es::TreeOptions options;
  options.learn_edge_weights = true;
  const es::TreeDistanceMask<float> mask(make_tree(random_tree, n), es::AffineExponential{{-0.5}}, options);
  std::vector<float> x(static_cast<std::size_t>(n * c), 0.5F), bar(mask.parameters().size());
  es::Context<es::Cpu> context;
  context.threads = 1;
  for (auto _ : state) {
    mask.multiply_vjp({x.data(), n, c}, {x.data(), n, c}, {}, {bar.data(), static_cast<Index>(bar.size())}, context);
  }
  state.counters["ns/(node column)"] = benchmark::Counter(
      static_cast<double>(n * c) * 1e-9, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK(gradient)->Args({100000, 16})->Args({1000000, 16})->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
