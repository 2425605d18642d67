// Which engine masks on grids choose, where one is at least three times faster than the next; and what predictions count.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace espalier;

namespace {

std::vector<double> noise(const std::vector<Index>& sizes) {
  std::size_t count = 1;
  for (const Index n : sizes) count *= static_cast<std::size_t>(2 * n - 1);
  std::vector<double> table(count);
  const Random random(5);
  for (std::size_t k = 0; k < count; ++k) table[k] = random.normal(k);
  return table;
}

Index fft_count(const GridMask<float>& mask) {
  const std::vector<Report> engines = mask.engines({.columns = 1});
  return std::count_if(engines.begin(), engines.end(), [](const Report& r) { return r.engine == "fft"; });
}

bool has_fft() {
  return fft_count(GridMask<float>({64}, noise({64}))) > 0;
}

std::string chosen(const std::vector<Index>& sizes, const DistanceFunction& f, Distance distance, Shape shape,
                   bool causal = false) {
  GridOptions options;
  options.causal = causal;
  return GridMask<float>(sizes, f, distance, options).report(shape).engine;
}

double predicted(const std::vector<Index>& sizes, const std::string& engine, Shape shape, bool causal = false) {
  GridOptions options;
  options.engine = engine;
  options.causal = causal;
  return GridMask<float>(sizes, Rational{16}, Distance::l1, options).report(shape).predicted_seconds;
}

// T5 buckets over the whole length.
DistanceFunction buckets(double furthest) {
  std::vector<double> values;
  const Random random(6);
  for (std::uint64_t k = 0; k < 32; ++k) values.push_back(std::exp(random.normal(k)));
  return logarithmic_buckets(values, furthest);
}

}  // namespace

TEST_CASE("without structure few columns go by FFT, masked products of a short sequence by tiles") {
  CHECK(GridMask<float>({1024}, noise({1024})).report({.columns = 64, .rank = 64}).engine == "direct");
  CHECK(GridMask<float>({24, 24}, noise({24, 24})).report({.columns = 64, .rank = 64}).engine == "direct");
  if (!has_fft()) return;
  for (const std::vector<Index>& sizes : std::vector<std::vector<Index>>{{8192}, {64, 64}, {2, 2048}, {2048, 2}, {3, 1500}}) {
    for (const Index columns : {1, 8, 64}) {
      CAPTURE(columns);
      CHECK(GridMask<float>(sizes, noise(sizes)).report({.columns = columns}).engine == "fft");
    }
  }
}

TEST_CASE("smooth sequences run as exponentials, with many features and one column too") {
  CHECK(chosen({8192}, Rational{16}, Distance::l1, {.columns = 64, .rank = 64}) == "exponentials");
  CHECK(chosen({8192}, Exponential{1 / 3000.0}, Distance::l1, {.columns = 1, .rank = 128}) == "exponentials");
  CHECK(chosen({8192}, Exponential{1 / 50.0}, Distance::l1, {.columns = 128}, true) == "exponentials");
}

TEST_CASE("pieces: with features their own engine, few plain columns by FFT") {
  const DistanceFunction window = PiecewiseConstant{{999.5}, {1.0, 0.0}};
  CHECK(chosen({8192}, window, Distance::l1, {.columns = 64, .rank = 64}) == "piecewise");
  CHECK(chosen({8192}, window, Distance::l1, {.columns = 64, .rank = 64}, true) == "piecewise");
  if (!has_fft()) return;
  CHECK(chosen({8192}, buckets(8192), Distance::l1, {.columns = 1}) == "fft");
  CHECK(chosen({8192}, buckets(8192), Distance::l1, {.columns = 16}) == "fft");
}

TEST_CASE("grids: one axis after the other, or a far field where it is worth its set-up") {
  CHECK(chosen({64, 64}, Exponential{0.1}, Distance::l1, {.columns = 64}) == "separable");
  CHECK(chosen({6, 1224}, StretchedExponential{5.82, 0.5}, Distance::max, {.columns = 64, .rank = 64}) == "far-field");
  // Eight or nine times slower than the FFT there: leaves of 56 points, a call of tiles for each pair of neighbours.
  if (has_fft()) CHECK(predicted({216, 7}, "far-field", {.columns = 1}) > 3 * predicted({216, 7}, "fft", {.columns = 1}));
}

TEST_CASE("predictions of tiles count the half that causal order skips, padding, and copies of short runs") {
  const Shape wide{.columns = 64, .rank = 64};
  CHECK(predicted({4096}, "direct", wide, true) < 0.55 * predicted({4096}, "direct", wide));
  CHECK(predicted({4096}, "direct", wide, true) > 0.5 * predicted({4096}, "direct", wide));
  // One column takes the register tile as long as three; runs of two places are copied one by one (measured: six to ten times
  // with wide vectors).
  CHECK(predicted({4096}, "direct", {.columns = 1}) > 0.8 * predicted({4096}, "direct", {.columns = 3}));
  CHECK(predicted({2048, 2}, "direct", {.columns = 1}) > 1.2 * predicted({4096}, "direct", {.columns = 1}));
}

TEST_CASE("predictions of exponentials are not padded where there are many features and few columns") {
  // Measured: 1.5 times tokens by 128 features and one column against one feature and 128 columns.
  const double features = predicted({8192}, "exponentials", {.columns = 1, .rank = 128});
  CHECK(features < 4 * predicted({8192}, "exponentials", {.columns = 128, .rank = 1}));
}

TEST_CASE_TEMPLATE("predictions grow with the work: tokens, heads, columns", T, float, double) {
  const auto seconds = [](Index n, const std::string& engine, Shape shape) {
    GridOptions options;
    options.engine = engine;
    const DistanceFunction f =
        engine == "piecewise" ? DistanceFunction(PiecewiseConstant{{10, 400}, {2, 1, 0.5}}) : DistanceFunction(Rational{16});
    return GridMask<T>({n}, f, Distance::l1, options).report(shape).predicted_seconds;
  };
  for (const Shape shape : {Shape{.columns = 64, .rank = 64}, Shape{.columns = 64}}) {
    CAPTURE(shape.rank);
    for (const std::string engine : {"direct", "exponentials", "piecewise"}) {
      CAPTURE(engine);
      const double one = seconds(8192, engine, shape), two = seconds(16384, engine, shape);
      // Tiles: four times the entries. The others are linear but for memory past the caches.
      CHECK(two > (engine == "direct" ? 3.9 : 1.8) * one);
      CHECK(two < (engine == "direct" ? 4.1 : 3.0) * one);
      Shape heads = shape, wider = shape;
      heads.heads = 6;
      wider.columns = 128;
      CHECK(seconds(8192, engine, heads) == doctest::Approx(6 * one).epsilon(0.05));
      CHECK(seconds(8192, engine, wider) > 1.3 * one);
    }
    if (has_fft()) CHECK(seconds(16384, "fft", shape) > 1.8 * seconds(8192, "fft", shape));
  }
}
