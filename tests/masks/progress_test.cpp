// Long calls of every engine of grids: how far they are, and that they end when told to, in the middle too.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

using namespace espalier;

namespace {

struct Engine {
  std::string name;
  std::vector<Index> sizes;
  DistanceFunction f;
  Distance distance = Distance::l1;
  bool masked = true;  // masked products too
  Index columns = 40;
};

std::vector<Engine> engines() {
  return {{"exponentials", {9000}, Rational{.width = 16}},
          {"band", {9000}, Gaussian{.width = 60}},
          // Windows long beside the axis, and short ones with a last one without an end.
          {"piecewise", {9000}, PiecewiseConstant{{10, 4000}, {2, 1, 0.5}}},
          {"piecewise", {20000}, PiecewiseConstant{{10, 40}, {2, 1, 0.5}}, Distance::l1, false, 1},
          {"far-field", {2000}, Rational{.width = 16}},
          {"far-field", {64, 64}, Rational{.width = 16}, Distance::l2},
          {"separable", {60, 70}, Exponential{.rate = 0.1}, Distance::l1, false}};
}

struct Run {
  explicit Run(const Engine& e)
      : mask(e.sizes, e.f, e.distance, options(e.name)),
        x(static_cast<std::size_t>(mask.rows() * e.columns), 0.5F),
        y(x),
        a_bar(static_cast<std::size_t>(mask.rows() * 3)),
        columns(e.columns) {}
  static GridOptions options(const std::string& name) {
    GridOptions o;
    o.engine = name;
    o.tolerance = 1e-4;
    return o;
  }
  MatrixView<const float> xs() const { return {x.data(), mask.rows(), columns}; }
  MatrixView<const float> features() const { return {x.data(), mask.rows(), 3}; }
  std::vector<std::function<void(const Context<Cpu>&)>> products(bool masked) {
    std::vector<std::function<void(const Context<Cpu>&)>> all;
    all.emplace_back([this](const Context<Cpu>& c) { mask.multiply(xs(), {y.data(), mask.rows(), columns}, c); });
    all.emplace_back([this](const Context<Cpu>& c) { mask.multiply_transpose(xs(), {y.data(), mask.rows(), columns}, c); });
    if (!masked) return all;
    all.emplace_back([this](const Context<Cpu>& c) {
      mask.multiply_low_rank({features(), features(), xs()}, {{y.data(), mask.rows(), columns}, {}}, c);
    });
    return all;
  }
  GridMask<float> mask;
  std::vector<float> x, y, a_bar;
  Index columns;
};

}  // namespace

TEST_CASE("products of every engine report a share that rises to 1, on the calling thread") {
  for (const Engine& e : engines()) {
    Run run(e);
    CAPTURE(e.name);
    for (const auto& product : run.products(e.masked)) {
      for (const int threads : {1, 2}) {
        std::vector<double> seen;
        Progress progress;
        progress.callback = [&](std::string_view phase, double fraction) {
          CHECK(!phase.empty());
          seen.push_back(fraction);
        };
        product({.threads = threads, .progress = &progress});
        CAPTURE(threads);
        CHECK(std::is_sorted(seen.begin(), seen.end()));
        // The calling thread need not be the one that does the last task.
        if (threads > 1) continue;
        CHECK(seen.size() > 3);
        CHECK(seen.front() > 0);
        CHECK(seen.back() == 1);
      }
    }
  }
}

TEST_CASE("products of every engine end in the middle when a stop is asked for there") {
  for (const Engine& e : engines()) {
    Run run(e);
    CAPTURE(e.name);
    for (const auto& product : run.products(e.masked)) {
      std::stop_source stop;
      double last = 0;
      Progress progress;
      progress.stop = stop.get_token();
      progress.callback = [&](std::string_view, double fraction) {
        last = fraction;
        if (fraction > 0.2) stop.request_stop();
      };
      CHECK_THROWS_AS(product({.threads = 1, .progress = &progress}), Cancelled);
      CHECK(last > 0.2);
      CHECK(last < 0.8);
      // As before for the next call.
      product({.threads = 1});
    }
  }
}

TEST_CASE("gradients by FFT report every feature and end in the middle") {
  const Engine e{"fft", {3000}, Rational{.width = 16}};
  Run run(e);
  try {
    (void)run.mask.report({.columns = 40, .rank = 40});
  } catch (const ValueError&) {
    return;  // a build without FFTW
  }
  std::stop_source stop;
  std::vector<double> seen;
  bool ask = false;
  Progress progress;
  progress.stop = stop.get_token();
  progress.callback = [&](std::string_view, double fraction) {
    seen.push_back(fraction);
    if (ask) stop.request_stop();
  };
  const auto vjp = [&] {
    run.mask.multiply_low_rank_vjp({run.xs(), run.xs(), run.xs()}, {run.xs(), {}}, {.x = {run.y.data(), 3000, 40}},
                                   {.threads = 1, .progress = &progress});
  };
  vjp();
  CHECK(seen.size() >= 40);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(seen.back() == 1);
  ask = true;
  CHECK_THROWS_AS(vjp(), Cancelled);
}
