// Certificates of fits hold on 10,000 random functions, ranges and sizes, and on real ranges they are not far above the truth.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "support/exponential_reference.hpp"

#include <espalier/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace espalier;
using namespace espalier::test;

namespace {

// Seeded numbers in order.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed, 7) {}
  double uniform(double a, double b) { return a + (b - a) * random_.uniform(next_++); }
  double logarithmic(double a, double b) { return a * std::pow(b / a, random_.uniform(next_++)); }
  Index integer(Index a, Index b) {
    return a + static_cast<Index>(random_.below(next_++, static_cast<std::uint64_t>(b - a + 1)));
  }
  double normal() { return random_.normal(next_++); }

 private:
  Random random_;
  std::uint64_t next_ = 0;
};

// A closed form with random parameters for distances up to about `range`.
DistanceFunction closed_form(Draw& draw, double range) {
  const double width = draw.logarithmic(0.5, 2 * range + 1);
  const double scale = draw.logarithmic(1e-3, 1e3) * (draw.uniform(0, 1) < 0.2 ? -1 : 1);
  switch (draw.integer(0, 8)) {
    case 0:
      return Exponential{1 / width, scale};
    case 1:
      return Gaussian{width, scale};
    case 2:
      return Rational{width, draw.uniform(0.3, 3), scale};
    case 3:
      return PowerLaw{width, draw.uniform(0.2, 3), scale};
    case 4:
      return StretchedExponential{width, draw.uniform(0.3, 2), scale};
    case 5:
      return DampedCosine{draw.logarithmic(1e-3, 3), 1 / width, scale};
    case 6:
      return ExponentiatedPolynomial{{draw.normal(), -1 / width, -draw.uniform(0, 1) / (width * width)}};
    case 7:
      return PolynomialExponential{1 / width, {scale, draw.normal() * scale / width, draw.normal() * scale / (width * width)}};
    default:
      return Polynomial{{scale, draw.normal() / range, draw.normal() / (range * range)}};
  }
}

// Tables: a smooth random curve, with or without noise; a sum of damped oscillations; steps; white noise.
DistanceFunction table(Draw& draw, Index count) {
  std::vector<double> v(static_cast<std::size_t>(count), 0.0);
  const Index kind = draw.integer(0, 4), parts = draw.integer(1, 5);
  const double noise = kind == 1 ? draw.logarithmic(1e-12, 1e-3) : kind == 4 ? 1 : 0;
  for (Index p = 0; p < parts; ++p) {
    const double width = draw.logarithmic(1, 2.0 * static_cast<double>(count)), phase = draw.uniform(0, 6), c = draw.normal();
    const double frequency = kind == 2 ? draw.logarithmic(1e-3, 3) : draw.uniform(0, 3) / width;
    for (std::size_t d = 0; d < v.size(); ++d) {
      const double t = static_cast<double>(d);
      if (kind == 3)
        v[d] += t > width ? c : 0.5;
      else
        v[d] += c * std::cos(frequency * t + phase) * std::exp(kind == 2 ? -t / width : -t * t / (width * width));
    }
  }
  for (double& y : v) y += noise * draw.normal();
  return FunctionTable{std::move(v)};
}

DistanceFunction any_function(Draw& draw, Index count) {
  const double choice = draw.uniform(0, 1), range = static_cast<double>(count);
  if (choice < 0.55) return closed_form(draw, range);
  if (choice < 0.85) return table(draw, count);
  if (choice < 0.9) {
    std::vector<double> values;
    for (Index k = draw.integer(2, 12); k > 0; --k) values.push_back(draw.normal());
    return logarithmic_buckets(values, draw.uniform(20, 200));
  }
  // Callables: the library sees values only; very large and very small ones too.
  const DistanceFunction inner = closed_form(draw, range);
  const double scale = std::pow(10, draw.uniform(-200, 150)), offset = draw.uniform(0, 1) < 0.5 ? draw.normal() : 0;
  return Callable{[=](double d) { return scale * (inner(d) + offset); }, "callable"};
}

FitOptions any_options(Draw& draw, Index count) {
  FitOptions o;
  o.tolerance = draw.logarithmic(1e-9, 1e-2);
  o.kind = static_cast<ToleranceKind>(draw.integer(0, 2));
  o.one_sided = draw.uniform(0, 1) < 0.3;
  if (draw.uniform(0, 1) < 0.3) o.first = draw.integer(0, std::min<Index>(count, 130));
  if (draw.uniform(0, 1) < 0.1) o.max_slots = draw.integer(1, 8);
  if (draw.uniform(0, 1) < 0.1) o.max_amplification = draw.logarithmic(1, 100);
  return o;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string all;
  for (const auto& line : lines) all += line + "; ";
  return all;
}

}  // namespace

TEST_CASE("certificates hold on 10,000 random functions, ranges and sizes") {
  Index met = 0, smooth_met = 0, smooth = 0;
  for (std::uint64_t seed = 0; seed < 10000; ++seed) {
    Draw draw(seed);
    // Sizes 1 .. 80, every fiftieth up to 2000: the slow loop takes count^2.
    const Index count = seed % 50 == 0 ? draw.integer(200, 2000) : draw.integer(1, 80);
    const DistanceFunction f = any_function(draw, count);
    const FitOptions options = any_options(draw, count);
    const ExponentialFit fit = fit_exponentials(f, count, options);
    const auto broken = broken_promises(fit, f, count, options);
    if (!broken.empty()) {
      CAPTURE(seed);
      CAPTURE(count);
      CAPTURE(f.name());
      CAPTURE(fit.reason);
      FAIL_CHECK(joined(broken));
    }
    met += fit.met;
    const bool plain =
        f.last_integer() < 0 && !f.constant_pieces() && options.max_slots == 48 && options.max_amplification == 1e3;
    smooth += plain, smooth_met += plain && fit.met;
  }
  // The test means little if nothing can be fitted.
  CHECK(met > 6000);
  CHECK(smooth > 4000);
  CHECK(smooth_met > smooth * 9 / 10);
}

TEST_CASE("the checker finds planted wrong certificates") {
  const DistanceFunction f = Rational{16, 1, 1};
  FitOptions options;
  options.tolerance = 1e-5;
  const ExponentialFit good = fit_exponentials(f, 500, options);
  REQUIRE(good.met);
  REQUIRE(broken_promises(good, f, 500, options).empty());
  const auto finds = [&](auto damage) {
    ExponentialFit bad = good;
    damage(bad);
    return !broken_promises(bad, f, 500, options).empty();
  };
  // Exact bounds are at most a few rounding errors above the truth, so a thousandth less is a lie.
  CHECK(finds([](ExponentialFit& b) { *b.certificate.row *= 0.999; }));
  CHECK(finds([](ExponentialFit& b) { *b.certificate.entry *= 0.999; }));
  CHECK(finds([](ExponentialFit& b) { *b.certificate.pointwise *= 0.999; }));
  CHECK(finds([](ExponentialFit& b) { b.sum.terms[0].coefficient *= 1.01; }));
  CHECK(finds([](ExponentialFit& b) { b.sum.terms[1].decay *= 1.01; }));
  CHECK(finds([](ExponentialFit& b) { b.sum.terms.push_back({1e-30, -1e-9, 0}); }));
  CHECK(finds([](ExponentialFit& b) { b.fitted_negative = 1; }));
  CHECK(finds([](ExponentialFit& b) { b.certificate.row.reset(); }));
  CHECK(finds([](ExponentialFit& b) { b.certificate.estimated = true; }));
  CHECK(finds([](ExponentialFit& b) { b.amplification = 2e3; }));
  CHECK(finds([](ExponentialFit& b) { b.reason.clear(); }));
  FitOptions tighter = options;
  tighter.tolerance = 0.5 * *good.certificate.row;
  CHECK_FALSE(broken_promises(good, f, 500, tighter).empty());
}

TEST_CASE("certify checks sums that the fit did not make") {
  Draw draw(3);
  for (int k = 0; k < 200; ++k) {
    const Index count = draw.integer(1, 300);
    const DistanceFunction f = closed_form(draw, static_cast<double>(count));
    ExponentialSum sum;
    for (Index t = draw.integer(0, 4); t > 0; --t) {
      sum.terms.push_back({{draw.normal(), draw.normal()},
                           {draw.logarithmic(1e-3, 1), draw.uniform(0, 1)},
                           static_cast<int>(draw.integer(0, 2))});
    }
    FitOptions options;
    options.one_sided = k % 2 == 0;
    options.first = draw.integer(0, count);
    const Certificate c = certify(f, sum, count, options);
    const TrueErrors truth = true_errors(f, sum, count, options.first, options.one_sided);
    REQUIRE(c.entry);
    CHECK(truth.entry <= *c.entry);
    CHECK(static_cast<double>(truth.entry) >= *c.entry * (1 - 1e-9) - 1e-12);
    if (c.row) {
      CHECK(truth.row <= *c.row);
      CHECK(static_cast<double>(truth.row) >= *c.row * (1 - 1e-9) - 1e-10);
    }
    if (c.pointwise)
      CHECK(truth.pointwise <= *c.pointwise);
    else
      CHECK(truth.pointwise > 1 - 1e-9);
  }
}

TEST_CASE("bounds on real ranges hold, and are within 20 times the true error in the median") {
  std::vector<double> entry_ratio, row_ratio;
  Index met = 0, proved = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    Draw draw(seed + 100000);
    const double length = draw.logarithmic(1, 1e5);
    const RealRange range{draw.uniform(0, 1) < 0.7 ? 0.0 : 0.1 * length, length};
    const DistanceFunction f = closed_form(draw, length);
    FitOptions options;
    options.tolerance = draw.logarithmic(1e-8, 1e-2);
    options.kind = draw.uniform(0, 1) < 0.5 ? ToleranceKind::entry : ToleranceKind::row;
    options.row_entries = draw.uniform(0, 1) < 0.5 ? 0 : draw.integer(1, 100000);
    const ExponentialFit fit = fit_exponentials(f, range, options);
    CAPTURE(seed);
    CAPTURE(f.name());
    CAPTURE(fit.reason);
    CHECK(fit.sum.least_decay() >= 0);
    met += fit.met;
    if (fit.method == "closed form" || !fit.certificate.entry) continue;
    CHECK_FALSE(fit.certificate.estimated);
    ++proved;
    // 4000 points: even ones, and ones crowded towards the first distance.
    std::vector<long double> e, y;
    long double largest = 0, worst = 0;
    const double floor =
        options.row_entries > 0 && range.first == 0 ? std::abs(f(0)) / static_cast<double>(options.row_entries) : 0;
    for (int k = 0; k <= 4000; ++k) {
      const double share = (k / 2) / 2000.0,
                   d = std::min(range.last,
                                range.first + (range.last - range.first) * (k % 2 == 0 ? share : std::pow(share, 6)));
      const long double value = f(d);
      y.push_back(std::abs(value)), e.push_back(std::abs(exponential_value(fit.sum, d) - value));
      largest = std::max(largest, y.back()), worst = std::max(worst, e.back());
    }
    if (largest == 0) continue;  // a Gaussian that has underflown
    const long double entry = worst / largest;
    CHECK(entry <= *fit.certificate.entry);
    entry_ratio.push_back(static_cast<double>(*fit.certificate.entry / entry));
    long double pointwise = 0, row = 0;
    for (std::size_t k = 0; k < e.size(); ++k) {
      if (y[k] >= 1e-7L * largest) pointwise = std::max(pointwise, e[k] / y[k]);
      if (y[k] + floor > 0) row = std::max(row, e[k] / (y[k] + floor));
    }
    if (fit.certificate.pointwise) CHECK(pointwise <= *fit.certificate.pointwise);
    if (fit.certificate.row) {
      CHECK(row * (floor > 0 ? 2 : 1) <= *fit.certificate.row);
      row_ratio.push_back(static_cast<double>(*fit.certificate.row / row));
    }
  }
  const auto median = [](std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  CHECK(met > 320);
  REQUIRE(proved > 150);
  REQUIRE(row_ratio.size() > 100);
  CHECK(median(entry_ratio) <= 20);
  CHECK(median(row_ratio) <= 20);
  MESSAGE("bound / true error, medians: entry " << median(entry_ratio) << ", row " << median(row_ratio));
}

TEST_CASE("real-range bounds of functions with zeros, jumps and roots, against sums that the fit did not make") {
  Draw draw(5);
  const DistanceFunction functions[] = {DampedCosine{0.9, 0.02, 1},
                                        Polynomial{{1, -0.3, 0.01}},
                                        StretchedExponential{4, 0.3, 2},
                                        PiecewiseConstant{{3, 9.5}, {1, -2, 0.5}},
                                        Rational{2, 0.5, 1},
                                        Gaussian{3, 1}};
  for (const DistanceFunction& f : functions) {
    for (int trial = 0; trial < 20; ++trial) {
      const RealRange range{draw.uniform(0, 1) < 0.5 ? 0.0 : draw.uniform(0, 5), draw.uniform(6, 60)};
      ExponentialSum sum = f.exponential_terms().value_or(ExponentialSum{{{1, 0.1, 0}, {{0.5, 1}, {0.3, 0.4}, 0}}});
      for (auto& t : sum.terms) t.coefficient *= 1 + draw.logarithmic(1e-9, 1e-1), t.decay += draw.logarithmic(1e-9, 1e-2);
      const Certificate c = certify(f, sum, range);
      CAPTURE(f.name());
      CAPTURE(trial);
      REQUIRE(c.entry);
      CHECK_FALSE(c.estimated);
      long double worst = 0, largest = 0, relative = 0, least = 1e300L;
      std::vector<std::pair<long double, long double>> at;
      for (int k = 0; k <= 20000; ++k) {
        const double d =
            std::min(range.last, range.first + (range.last - range.first) * std::pow(k / 20000.0, k % 2 == 0 ? 1 : 5));
        const long double y = f(d), e = std::abs(exponential_value(sum, d) - y);
        worst = std::max(worst, e), largest = std::max(largest, std::abs(y)), least = std::min(least, std::abs(y));
        at.push_back({e, std::abs(y)});
      }
      for (const auto& [e, y] : at) relative = y >= 1e-7L * largest ? std::max(relative, e / y) : relative;
      CHECK(worst <= *c.entry * largest);
      // Within 20 of the truth, jumps and roots included.
      CHECK(static_cast<double>(worst) >= *c.entry * static_cast<double>(largest) / 20);
      if (c.pointwise) CHECK(relative <= *c.pointwise);
      if (c.row) CHECK(relative <= *c.row);
    }
  }
  // A zero leaves no relative bound over the whole range.
  const ExponentialSum near{{{1.0001, {0.02, -0.9}, 0}}};
  CHECK_FALSE(certify(functions[0], near, RealRange{0, 30}).row);
  CHECK(certify(functions[0], near, RealRange{0, 1}).row);
}

TEST_CASE("rows of trees stay below the real-range bound for rows of known length") {
  // Random multisets of distances with 0 among them are rows of masks on trees.
  Draw draw(11);
  for (const DistanceFunction& f : {DistanceFunction(Gaussian{20, 1}), DistanceFunction(Rational{3, 2, 1}),
                                    DistanceFunction(StretchedExponential{5, 0.5, 1})}) {
    FitOptions options;
    options.tolerance = 1e-4, options.row_entries = 300;
    const ExponentialFit fit = fit_exponentials(f, RealRange{0, 200}, options);
    REQUIRE(fit.met);
    for (int trial = 0; trial < 100; ++trial) {
      const double furthest = draw.logarithmic(1, 200);
      long double e = std::abs(exponential_value(fit.sum, 0) - f(0)), s = f(0);
      for (Index j = draw.integer(0, 299); j > 0; --j) {
        const double d = trial % 2 == 0 ? furthest : draw.uniform(0, furthest);
        e += std::abs(exponential_value(fit.sum, d) - f(d)), s += std::abs(f(d));
      }
      CHECK(e <= *fit.certificate.row * s);
    }
  }
}

TEST_CASE("callables on real ranges are estimated, never certified") {
  const ExponentialFit fit = fit_exponentials(Callable{[](double d) { return 1 / (1 + d); }}, RealRange{0, 50}, {});
  REQUIRE(fit.met);
  CHECK(fit.certificate.estimated);
  CHECK_FALSE(fit_exponentials(Rational{1, 1, 1}, RealRange{0, 50}, {}).certificate.estimated);
}
