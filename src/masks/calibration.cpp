// Measures engines through the masks that have them.
// SPDX-License-Identifier: Apache-2.0
#include <time.h>

#include <espalier/graphs/graph.hpp>
#include <espalier/masks/calibration.hpp>
#include <espalier/masks/diffusion.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace espalier {

namespace {

constexpr Index kWidth = 64;
constexpr int kRounds = 7;

// Time of this thread on the processor: other programs on the machine do not count.
double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double least_seconds(const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int k = 0; k < kRounds; ++k) {
    const double start = thread_seconds();
    work();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

struct Operands {
  std::vector<float> a, b, x, y, sums;
  explicit Operands(Index length)
      : a(static_cast<std::size_t>(length * kWidth), 0.5f), b(a), x(a), y(a), sums(static_cast<std::size_t>(length)) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = b[i] = x[i] = 0.25f + static_cast<float>(i % 17) / 32;
  }
};

// The speed with which the prediction for one engine, which the mask must have, meets its time. Predictions are a rest plus
// work by this speed; the rest is by the other speeds in `cost`.
double fitted(const std::string& engine, Index length, bool features, CostModel cost, double CostModel::*speed,
              const Context<Cpu>& context) {
  const Shape shape{.columns = kWidth, .rank = features ? kWidth : 0};
  const auto masked = [&](const CostModel& by) {
    GridOptions options;
    options.engine = engine;
    options.tolerance = 1e-5;
    options.cost = by;
    return GridMask<float>({length}, Rational{16}, Distance::l1, options);
  };
  const GridMask<float> mask = masked(cost);
  Operands o(length);
  const auto view = [&](std::vector<float>& v) { return MatrixView<float>(v.data(), length, kWidth); };
  const auto run = [&] {
    if (features) {
      mask.multiply_low_rank({view(o.a), view(o.b), view(o.x)}, {view(o.y), {o.sums.data(), length}}, context);
    } else {
      mask.multiply(view(o.x), view(o.y), context);
    }
  };
  run();  // plans and spectra
  const double seconds = least_seconds(run), predicted = mask.report(shape).predicted_seconds, old = cost.*speed;
  cost.*speed = 2 * old;
  const double faster = masked(cost).report(shape).predicted_seconds, work = 2 * old * (predicted - faster);
  // A busy machine may make the rest look longer than the whole.
  return work / std::max(seconds - (2 * faster - predicted), 0.25 * seconds);
}

double sparse_speed(const Context<Cpu>& context) {
  // A ring with chords: every row has four neighbours, two of them far away in memory.
  const Index nodes = 50000, chord = 9973;
  std::vector<Edge> edges;
  for (Index i = 0; i < nodes; ++i) {
    edges.push_back({i, (i + 1) % nodes, 1.0});
    edges.push_back({i, (i + chord) % nodes, 1.0});
  }
  const auto graph = std::make_shared<const Graph>(nodes, edges);
  MaskOptions options;
  options.engine = "chebyshev";
  const DiffusionMask<float> mask(graph, 1.0, GraphOperator::laplacian, options);
  std::vector<float> x(static_cast<std::size_t>(nodes * 32), 1.0f), y(x.size());
  const Report report = mask.report({.columns = 32});
  const auto run = [&] { mask.multiply({x.data(), nodes, 32}, {y.data(), nodes, 32}, context); };
  run();
  return report.flops / least_seconds(run);
}

}  // namespace

CostModel calibrated_cost_model(const Context<Cpu>& caller) {
  Context<Cpu> context = caller;
  context.threads = 1;
  const GridMask<float> small({8}, Exponential{0.1});
  CostModel cost = small.options().cost;
  std::vector<float> x(8, 1.0f), y(8);
  cost.call_seconds = least_seconds([&] {
                        for (int k = 0; k < 100; ++k) small.multiply({x.data(), 8, 1}, {y.data(), 8, 1}, context);
                      }) /
                      100;
  std::vector<double> from(std::size_t{4} << 20, 1.0), to(from.size());
  const double seconds = least_seconds([&] {
    const double add = to[0];
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = from[i] + add;
  });
  cost.bandwidth = 3 * sizeof(double) * static_cast<double>(from.size()) / seconds;  // read, write, and read before written
  // Tiles first: what is no arithmetic is counted by their speed.
  cost.tile_flops = fitted("direct", 1024, true, cost, &CostModel::tile_flops, context);
  cost.chunk_flops = fitted("exponentials", 8192, true, cost, &CostModel::chunk_flops, context);
  cost.chunk_plain_flops = fitted("exponentials", 8192, false, cost, &CostModel::chunk_plain_flops, context);
  const GridMask<float> probe({64}, Rational{16});
  const std::vector<Report> engines = probe.engines({.columns = 1});
  if (std::any_of(engines.begin(), engines.end(), [](const Report& r) { return r.engine == "fft"; })) {
    cost.fft_flops = fitted("fft", 4096, true, cost, &CostModel::fft_flops, context);
  }
  cost.sparse_flops = sparse_speed(context);
  return cost;
}

}  // namespace espalier
