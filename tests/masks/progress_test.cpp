// Long calls of every engine of grids: how far they are, and that they end when told to, in the middle too.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/functions/exponential_sum.hpp>
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
      product({.threads = 1});  // what is set up once has shares of its own
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

TEST_CASE("the set-up of a far field, in its first product, tells how far it is and ends when told to") {
  const Engine e{"far-field", {96, 96}, Rational{.width = 16}, Distance::l2, true, 3};
  Run run(e), other(e);
  std::stop_source stop;
  std::vector<std::string> phases;
  std::vector<double> shares;
  bool ask = true;
  Progress progress;
  progress.stop = stop.get_token();
  progress.callback = [&](std::string_view phase, double fraction) {
    phases.emplace_back(phase);
    if (phase != "far field set-up") return;
    shares.push_back(fraction);
    if (ask && fraction > 0.1) stop.request_stop();
  };
  const Context<Cpu> context{.threads = 1, .progress = &progress};
  const auto product = run.products(true).back();
  CHECK_THROWS_AS(product(context), Cancelled);
  CHECK(shares.size() > 2);
  CHECK(shares.back() < 0.3);
  for (const std::string& phase : phases) CHECK(phase == "far field set-up");
  // The next call makes it anew, whole.
  ask = false;
  progress.stop = {};
  shares.clear();
  product(context);
  CHECK(shares.size() > 10);
  CHECK(std::is_sorted(shares.begin(), shares.end()));
  CHECK(shares.back() == 1);
  other.products(true).back()({.threads = 1});
  CHECK(run.y == other.y);
  // Once made it is kept.
  shares.clear();
  product(context);
  CHECK(shares.empty());
}

TEST_CASE("fits end when told to: while f is looked at, in the search, and inside a mask's first product") {
  constexpr Index count = Index{1} << 17;
  for (const Index at : {Index{30000}, count - 1}) {
    std::stop_source stop;
    Index calls = 0;
    const Callable f{[&](double d) {
                       if (++calls > at) stop.request_stop();
                       return 1 / (1 + d / 16);
                     },
                     "1/(1+d/16)"};
    FitOptions options;
    options.stop = stop.get_token();
    CHECK_THROWS_AS((void)fit_exponentials(f, count, options), Cancelled);
    CHECK(calls >= at);
    CHECK(calls < at + 5000);
  }
  std::stop_source real;
  Index calls = 0;
  const Callable f{[&](double d) {
                     if (++calls > 2000) real.request_stop();
                     return 1 / (1 + d / 16);
                   },
                   "1/(1+d/16)"};
  FitOptions options;
  options.stop = real.get_token();
  CHECK_THROWS_AS((void)fit_exponentials(f, RealRange{0, 1000}, options), Cancelled);

  for (const char* engine : {"exponentials", "band", "separable"}) {
    const Engine e{engine,
                   engine == std::string("separable") ? std::vector<Index>{50, 60} : std::vector<Index>{3000},
                   Gaussian{.width = 50},
                   Distance::l2,
                   false,
                   3};
    Run run(e), other(e);
    std::stop_source stop;
    stop.request_stop();
    Progress progress{{}, stop.get_token()};
    CHECK_THROWS_AS(run.products(false).front()({.threads = 1, .progress = &progress}), Cancelled);
    run.products(false).front()({.threads = 1});
    other.products(false).front()({.threads = 1});
    CHECK(run.y == other.y);
  }
}

// Threads of a sequence's sweep wait for one another: a stop must reach those that wait, or the call would never return. On a
// busy machine the other thread may have done all of it before this one reports.
TEST_CASE("a stop ends products and gradients between chunks on two threads, and the next call is whole") {
  const Index n = 20000, m = 8;
  GridOptions options;
  options.engine = "exponentials";
  options.tolerance = 1e-5;
  const GridMask<float> mask({n}, Exponential{.rate = 0.01}, Distance::l1, options);
  const std::vector<float> x(static_cast<std::size_t>(n * m), 0.5F);
  const MatrixView<const float> in(x.data(), n, m);
  for (const bool gradient : {false, true}) {
    std::vector<float> out(x.size()), rate(mask.parameters().size());
    const auto run = [&](const Context<Cpu>& context) {
      const MatrixView<float> y(out.data(), n, m);
      if (gradient) {
        const VectorView<float> p{rate.data(), static_cast<Index>(rate.size())};
        mask.multiply_low_rank_vjp({in, in, in}, {in, {}}, {.x = y, .parameters = p}, context);
      } else {
        mask.multiply_low_rank({in, in, in}, {y, {}}, context);
      }
      return out;
    };
    const std::vector<float> whole = run({.threads = 1});
    for (int attempt = 0; attempt < 10; ++attempt) {
      std::stop_source stop;
      Progress progress;
      progress.stop = stop.get_token();
      progress.callback = [&](std::string_view, double fraction) {
        if (fraction < 0.5) stop.request_stop();
      };
      std::fill(out.begin(), out.end(), 0.0F);
      bool cancelled = false;
      try {
        (void)run({.threads = 2, .progress = &progress});
      } catch (const Cancelled&) {
        cancelled = true;
      }
      CHECK((cancelled || out == whole));
      CHECK((stop.stop_requested() || !cancelled));
      // One asked for beforehand ends every call.
      stop.request_stop();
      CHECK_THROWS_AS(run({.threads = 2, .progress = &progress}), Cancelled);
      CHECK(run({.threads = 2}) == whole);
    }
  }
}
