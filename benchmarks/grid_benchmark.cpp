// GridMask: the FFT product against bare FFTW, where tiles give way to FFT, and products of tables by axis against both.
// SPDX-License-Identifier: Apache-2.0
//
//   bare_transforms      FFTW_MEASURE, in place, forward and backward, 512 complex columns of 8192 streamed over all the data
//   product_fft          1024 columns at L = 4096, token-major in and out: at most 1.6 times bare_transforms
//   plain/..., low_rank/...   both engines over L: `predicted` is the cost model's time, in seconds
//   grid/FUNCTION/ENGINE/SIZES/COLUMNS   plain products on several axes by every engine and by the planner's choice;
//   `row_error` is
//                        the worst ||y~_i - y_i|| / ||(|M| |x|)_i|| against double over 16 rows, `terms` the products of tables
// Every product runs on one thread. Take the smallest of several repetitions on a machine with other work:
//   grid_benchmark --benchmark_repetitions=9 --benchmark_report_aggregates_only --benchmark_enable_random_interleaving
#include <benchmark/benchmark.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#if ESPALIER_HAS_FFTW
#include <fftw3.h>
#endif

namespace {

using namespace espalier;

std::vector<float> random_values(Index size) {
  const Random random(1);
  std::vector<float> v(static_cast<std::size_t>(size));
  // Uniform numbers repeat after 2^16: their values do not matter for the time, drawing 4 million would.
  for (std::size_t k = 0; k < std::min<std::size_t>(v.size(), 65536); ++k) v[k] = static_cast<float>(random.uniform(k) - 0.5);
  for (std::size_t k = 65536; k < v.size(); ++k) v[k] = v[k - 65536];
  return v;
}

GridMask<float> mask_for(std::vector<Index> sizes, const std::string& engine) {
  GridOptions options;
  options.engine = engine;
  options.measure_fft = true;
  return GridMask<float>(std::move(sizes), Rational{16, 1, 1}, Distance::l1, options);
}

Context<Cpu> one_thread() {
  Context<Cpu> context;
  context.threads = 1;
  return context;
}

#if ESPALIER_HAS_FFTW
void bare_transforms(benchmark::State& state) {
  const int length = 8192, columns = 512;
  const auto values = random_values(2 * Index{length} * columns);
  auto* z = fftwf_alloc_complex(static_cast<std::size_t>(length) * columns);
  fftwf_plan forward = fftwf_plan_dft_1d(length, z, z, FFTW_FORWARD, FFTW_MEASURE);
  fftwf_plan backward = fftwf_plan_dft_1d(length, z, z, FFTW_BACKWARD, FFTW_MEASURE);
  for (auto _ : state) {
    state.PauseTiming();  // unnormalised transforms would overflow within a few rounds
    std::copy(values.begin(), values.end(), reinterpret_cast<float*>(z));
    state.ResumeTiming();
    for (int c = 0; c < columns; ++c) {
      fftwf_execute_dft(forward, z + static_cast<std::size_t>(c) * length, z + static_cast<std::size_t>(c) * length);
      fftwf_execute_dft(backward, z + static_cast<std::size_t>(c) * length, z + static_cast<std::size_t>(c) * length);
    }
    benchmark::DoNotOptimize(z);
  }
  fftwf_destroy_plan(forward);
  fftwf_destroy_plan(backward);
  fftwf_free(z);
}
BENCHMARK(bare_transforms)->Unit(benchmark::kMillisecond);
#endif

void run_plain(benchmark::State& state, const std::vector<Index>& sizes, Index columns, const std::string& engine) {
  const auto mask = mask_for(sizes, engine);
  const Index length = mask.rows();
  const auto x = random_values(length * columns);
  std::vector<float> y(x.size());
  const auto context = one_thread();
  mask.multiply({x.data(), length, columns}, {y.data(), length, columns}, context);  // plans and spectrum
  for (auto _ : state) mask.multiply({x.data(), length, columns}, {y.data(), length, columns}, context);
  state.counters["predicted"] = mask.report({.columns = columns}).predicted_seconds;
}

struct GridFunction {
  std::string name;
  DistanceFunction f;
  Distance distance;
};

double entry(const GridFunction& g, const std::vector<Index>& sizes, Index i, Index j) {
  double sum = 0, square = 0;
  for (std::size_t t = sizes.size(); t-- > 0; i /= sizes[t], j /= sizes[t]) {
    const double o = std::abs(static_cast<double>(i % sizes[t] - j % sizes[t]));
    sum += o, square += o * o;
  }
  return g.f(g.distance == Distance::l1 ? sum : std::sqrt(square));
}

double worst_row(const GridFunction& g, const std::vector<Index>& sizes, Index columns, const std::vector<float>& x,
                 const std::vector<float>& y) {
  const Index length = static_cast<Index>(x.size()) / columns;
  double worst = 0;
  std::vector<double> exact(static_cast<std::size_t>(columns)), size(exact);
  for (Index k = 0; k < 16; ++k) {
    const Index i = k * (length - 1) / 15;
    std::fill(exact.begin(), exact.end(), 0.0);
    std::fill(size.begin(), size.end(), 0.0);
    for (Index j = 0; j < length; ++j) {
      const double m = entry(g, sizes, i, j);
      for (std::size_t c = 0; c < exact.size(); ++c) {
        const double v = m * static_cast<double>(x[static_cast<std::size_t>(j * columns) + c]);
        exact[c] += v, size[c] += std::abs(v);
      }
    }
    double error = 0, norm = 0;
    for (std::size_t c = 0; c < exact.size(); ++c) {
      error += std::pow(static_cast<double>(y[static_cast<std::size_t>(i * columns) + c]) - exact[c], 2);
      norm += size[c] * size[c];
    }
    worst = std::max(worst, std::sqrt(error / norm));
  }
  return worst;
}

void run_grid(benchmark::State& state, const GridFunction& g, const std::vector<Index>& sizes, Index columns,
              const std::string& engine) {
  GridOptions options;
  options.engine = engine;
  options.measure_fft = true;
  const GridMask<float> mask(sizes, g.f, g.distance, options);
  const Index length = mask.rows();
  const auto x = random_values(length * columns);
  std::vector<float> y(x.size());
  const auto context = one_thread();
  const Report report = mask.report({.columns = columns});
  mask.multiply({x.data(), length, columns}, {y.data(), length, columns}, context);  // plans, spectrum, tables
  for (auto _ : state) mask.multiply({x.data(), length, columns}, {y.data(), length, columns}, context);
  state.counters["predicted"] = report.predicted_seconds;
  state.counters["terms"] = static_cast<double>(report.terms);
  state.counters["row_error"] = worst_row(g, sizes, columns, x, y);
  state.SetLabel(report.engine);
}

void run_low_rank(benchmark::State& state, Index length, Index rank, const std::string& engine) {
  const auto mask = mask_for({length}, engine);
  const Index columns = 64;
  const auto a = random_values(length * rank), b = random_values(length * rank), x = random_values(length * columns);
  std::vector<float> y(x.size()), row_sum(static_cast<std::size_t>(length));
  const auto context = one_thread();
  const auto run = [&] {
    mask.multiply_low_rank({{a.data(), length, rank}, {b.data(), length, rank}, {x.data(), length, columns}},
                           {{y.data(), length, columns}, {row_sum.data(), length}}, context);
  };
  run();
  for (auto _ : state) run();
  state.counters["predicted"] = mask.report({.columns = columns, .rank = rank}).predicted_seconds;
}

void run_table_gradient(benchmark::State& state, Index length, const std::string& engine) {
  GridOptions options;
  options.engine = engine;
  options.measure_fft = true;
  const std::vector<double> table(static_cast<std::size_t>(2 * length - 1), 0.5);
  const GridMask<float> mask({length}, table, options);
  const Index columns = 64;
  const auto x = random_values(length * columns), y_bar = random_values(length * columns);
  std::vector<float> bar(table.size());
  const auto context = one_thread();
  const auto run = [&] {
    mask.multiply_vjp({x.data(), length, columns}, {y_bar.data(), length, columns}, {},
                      {bar.data(), static_cast<Index>(bar.size())}, context);
  };
  run();
  for (auto _ : state) run();
}

std::string name(const std::string& what, const std::string& engine, Index length) {
  return what + "/" + engine + "/" + std::to_string(length);
}

void register_grids(std::vector<std::string> engines) {
  engines.insert(engines.end(), {"separable", "auto"});
  const std::vector<GridFunction> functions = {{"exponential_l1", Exponential{0.05}, Distance::l1},
                                               {"rational_l1", Rational{16}, Distance::l1},
                                               {"gaussian_l2", Gaussian{30}, Distance::l2}};
  for (const GridFunction& g : functions) {
    for (const std::vector<Index>& sizes : {std::vector<Index>{64, 64}, {8, 32, 32}, {256, 256}, {512, 512}}) {
      double length = 1;
      std::string text;
      for (const Index n : sizes) {
        length *= static_cast<double>(n);
        if (!text.empty()) text.append("x");
        text.append(std::to_string(n));
      }
      for (const Index columns : {Index{3}, Index{64}}) {
        for (const std::string& e : engines) {
          // 256 x 256 by tiles takes two seconds, 512 x 512 half a minute.
          if (e == "direct" && length > 9000) continue;
          std::string label = "grid/";
          label.append(g.name).append("/").append(e).append("/").append(text).append("/").append(std::to_string(columns));
          benchmark::RegisterBenchmark(label.c_str(), [=](benchmark::State& s) {
            run_grid(s, g, sizes, columns, e);
          })->Unit(benchmark::kMillisecond);
        }
      }
    }
  }
}

void register_all() {
  using benchmark::RegisterBenchmark;
  std::vector<std::string> engines = {"direct"};
#if ESPALIER_HAS_FFTW
  engines.push_back("fft");
  RegisterBenchmark("product_fft", [](benchmark::State& s) {
    run_plain(s, {4096}, 1024, "fft");
  })->Unit(benchmark::kMillisecond);
  RegisterBenchmark("product_fft_64x64", [](benchmark::State& s) {
    run_plain(s, {64, 64}, 1024, "fft");
  })->Unit(benchmark::kMillisecond);
#endif
  register_grids(engines);
  for (const std::string& e : engines) {
    for (const Index n : {Index{128}, Index{256}, Index{512}, Index{1024}, Index{4096}}) {
      RegisterBenchmark(name("plain", e, n).c_str(), [=](benchmark::State& s) {
        run_plain(s, {n}, 64, e);
      })->Unit(benchmark::kMicrosecond);
    }
    for (const Index n : {Index{14}, Index{32}, Index{64}}) {
      RegisterBenchmark(name("plain_square", e, n).c_str(), [=](benchmark::State& s) {
        run_plain(s, {n, n}, 64, e);
      })->Unit(benchmark::kMicrosecond);
    }
    for (const Index n : {Index{2048}, Index{4096}, Index{8192}, Index{16384}}) {
      RegisterBenchmark(name("low_rank_64", e, n).c_str(), [=](benchmark::State& s) {
        run_low_rank(s, n, 64, e);
      })->Unit(benchmark::kMillisecond);
    }
    RegisterBenchmark(name("low_rank_16", e, 2048).c_str(), [=](benchmark::State& s) {
      run_low_rank(s, 2048, 16, e);
    })->Unit(benchmark::kMillisecond);
    RegisterBenchmark(name("table_gradient", e, 4096).c_str(), [=](benchmark::State& s) {
      run_table_gradient(s, 4096, e);
    })->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
