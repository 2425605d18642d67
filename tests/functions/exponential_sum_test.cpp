// Fits to sums of exponentials: short where they can be, refused with a reason where they cannot, cheap after a step.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "support/exponential_reference.hpp"

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace espalier;
using namespace espalier::test;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

FitOptions within(double tolerance, ToleranceKind kind = ToleranceKind::row) {
  FitOptions o;
  o.tolerance = tolerance, o.kind = kind;
  return o;
}

bool mentions(const ExponentialFit& fit, const std::string& words) {
  return fit.reason.find(words) != std::string::npos;
}

std::vector<double> white_noise(std::size_t n) {
  const Random random(5);
  std::vector<double> v;
  for (std::size_t k = 0; k < n; ++k) v.push_back(random.normal(k));
  return v;
}

// The five functions by which the linear-time engine is judged.
const std::vector<DistanceFunction> five = {Exponential{1.0 / 200, 1}, Rational{16, 1, 1}, Gaussian{300, 1},
                                            StretchedExponential{36, 0.5, 1}, DampedCosine{1.0 / 50, 1.0 / 400, 1}};

}  // namespace

TEST_CASE("a sum of exponentials is the sum of its terms, one by one and many at once") {
  const ExponentialSum sum{{{2.0, 0.1, 0}, {{1, -2}, {0.05, 0.7}, 0}, {{0.5, 0}, {0.02, 0.3}, 2}, {-1e-6, 0.0, 3}}};
  for (const Index first : {0, 1, 63, 64, 1000, 100000}) {
    std::vector<double> out(257), places;
    sum.evaluate(first, out);
    for (std::size_t k = 0; k < out.size(); ++k) {
      const double d = static_cast<double>(first) + static_cast<double>(k);
      places.push_back(d);
      // Four operations and the rounding of s d in each of four terms.
      const double bound = 1e-15 * (8 + d) * (sum.magnitude(d, d) + 1e-300);
      CHECK(std::abs(out[k] - static_cast<double>(exponential_value(sum, d))) <= bound);
      CHECK(std::abs(sum(d) - static_cast<double>(exponential_value(sum, d))) <= bound);
    }
    std::vector<double> again(places.size());
    sum.evaluate(places, again);
    CHECK(again[5] == sum(places[5]));
  }
  CHECK(ExponentialSum{}(3) == 0);
  std::vector<double> one(1, 7);
  ExponentialSum{}.evaluate(0, one);
  CHECK(one[0] == 0);
  CHECK_THROWS_AS(sum.evaluate(-1, one), ValueError);
  CHECK_THROWS_AS(sum.evaluate(std::vector<double>{1, 2}, one), ShapeError);
}

TEST_CASE("slots count real states, shared where decays are equal") {
  CHECK(ExponentialSum{}.slots() == 0);
  CHECK(ExponentialSum{{{1, 0.5, 0}}}.slots() == 1);
  CHECK(ExponentialSum{{{1, {0.5, 1}, 0}}}.slots() == 2);
  CHECK(ExponentialSum{{{{0, 1}, 0.5, 0}}}.slots() == 2);
  CHECK(ExponentialSum{{{1, 0.5, 0}, {2, 0.5, 1}, {3, 0.5, 2}}}.slots() == 3);
  CHECK(ExponentialSum{{{1, 0.5, 2}}}.slots() == 3);
  CHECK(ExponentialSum{{{1, {0.5, 1}, 1}, {1, 0.25, 0}}}.slots() == 5);
  CHECK(ExponentialSum{}.least_decay() == kInfinity);
  CHECK(ExponentialSum{{{1, 0.5, 0}, {1, {-0.25, 3}, 0}}}.least_decay() == -0.25);
  // d^2 exp(-d / 10) is largest at 20.
  CHECK(ExponentialSum{{{-3, 0.1, 2}}}.magnitude(0, 100) == doctest::Approx(3 * 400 * std::exp(-2)).epsilon(1e-14));
  CHECK(ExponentialSum{{{-3, 0.1, 2}}}.magnitude(0, 10) == doctest::Approx(3 * 100 * std::exp(-1)).epsilon(1e-14));
}

TEST_CASE("closed forms are taken as they are, with error 0") {
  const auto exact = [](const DistanceFunction& f, Index slots) {
    CAPTURE(f.name());
    for (const double tolerance : {1e-6, 0.0}) {
      const ExponentialFit fit = fit_exponentials(f, 1000, within(tolerance));
      CHECK(fit.met);
      CHECK(fit.method == "closed form");
      CHECK(fit.sum.slots() == slots);
      CHECK(fit.certificate.row == 0);
      CHECK(fit.certificate.entry == 0);
      CHECK(fit.certificate.pointwise == 0);
      for (const double d : {0.0, 1.0, 17.0, 999.0})
        CHECK(std::abs(fit.sum(d) - f(d)) <= 1e-12 * (std::abs(f(d)) + 1e-3 * std::abs(f(0))));
    }
  };
  exact(Exponential{0.01, -3}, 1);
  exact(Exponential{0, 2}, 1);
  exact(Exponential{1, 0}, 0);
  exact(DampedCosine{0.3, 0.01, 2}, 2);
  exact(DampedCosine{0, 0.01, 2}, 1);
  exact(Polynomial{{1, -2, 0, 0.5}}, 4);
  exact(PolynomialExponential{0.02, {0, 1, 3}}, 3);
  exact(ExponentiatedPolynomial{{0.3, -0.2}}, 1);
  exact(ExponentialSum{{{1, {0.1, 0.2}, 1}, {2, 0.5, 0}}}, 5);
  exact(PiecewiseConstant{{5, 10}, {2, 2, 2}}, 1);
  exact(StretchedExponential{12, 1, 4}, 1);
}

TEST_CASE("the five functions need few terms at 65,536 distances") {
  const Index most[] = {1, 14, 6, 12, 2}, far[] = {1, 10, 5, 7, 2};
  for (std::size_t k = 0; k < five.size(); ++k) {
    CAPTURE(five[k].name());
    FitOptions options = within(1e-5);
    const ExponentialFit near_too = fit_exponentials(five[k], 65536, options);
    CHECK(near_too.met);
    CHECK(near_too.sum.slots() <= most[k]);
    CHECK(near_too.amplification < 30);
    options.first = 129;
    const ExponentialFit beyond = fit_exponentials(five[k], 65536, options);
    CHECK(beyond.met);
    CHECK(beyond.sum.slots() <= far[k]);
  }
}

TEST_CASE("double precision is met too, and every kind of tolerance") {
  for (const DistanceFunction& f : five) {
    CAPTURE(f.name());
    const FitOptions options = within(1e-11);
    const ExponentialFit fit = fit_exponentials(f, 4096, options);
    CHECK(fit.met);
    CHECK(fit.amplification < 300);
    for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::entry, ToleranceKind::pointwise}) {
      const FitOptions loose = within(1e-4, kind);
      const ExponentialFit other = fit_exponentials(f, 1500, loose);
      CHECK(other.met);
      CHECK(broken_promises(other, f, 1500, loose).empty());
    }
  }
}

// Found by use: these were refused, though sums of some 30 slots are good to the last digits of double.
TEST_CASE("1e-12 over 65,536 distances is met for functions that fall slowly") {
  const Index count = 65536;
  for (const DistanceFunction& f :
       {DistanceFunction(Rational{.width = 16}), DistanceFunction(PowerLaw{.width = 10, .exponent = 1.5}),
        DistanceFunction(StretchedExponential{.width = 36}),
        DistanceFunction(Callable{[](double d) { return 1 / std::sqrt(1 + d); }, "1/sqrt(1+d)"})}) {
    const ExponentialFit fit = fit_exponentials(f, count, within(1e-12));
    CAPTURE(fit.reason);
    CHECK(fit.met);
    CHECK(*fit.certificate.row <= 1e-12);
    CHECK(fit.sum.slots() <= 34);
    CHECK(fit.amplification < 2);
    // Errors of some distances are at most those of all of them, which the row of token 0 sees.
    long double error = 0, norm = 0;
    for (Index d = 0; d < count; ++d) norm += std::abs(f(static_cast<double>(d)));
    for (Index d = 0; d < count; d += 16) {
      error += std::abs(espalier::test::exponential_value(fit.sum, d) - static_cast<long double>(f(static_cast<double>(d))));
    }
    CHECK(error <= 1e-12L * norm);
  }
  const Callable logarithm{[](double d) { return std::log(1 + d); }, "log(1+d)"};
  for (const double tolerance : {1e-11, 1e-12}) CHECK(fit_exponentials(logarithm, 10000, within(tolerance)).met);
}

// Found by use: a polynomial of degree 3 was given up at degree 2.
TEST_CASE("polynomials by their values, up to degree 4, are found whole") {
  for (const int degree : {3, 4}) {
    const Callable power{[degree](double d) { return std::pow(d, degree); }, "power"};
    for (const Index count : {4, 5, 8, 100, 1000}) {
      for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::entry}) {
        const FitOptions options = within(1e-12, kind);
        const ExponentialFit fit = fit_exponentials(power, count, options);
        CAPTURE(degree);
        CAPTURE(count);
        CAPTURE(fit.reason);
        CHECK(fit.met);
        CHECK(fit.sum.slots() <= degree + 1);
        CHECK(broken_promises(fit, power, count, options).empty());
      }
    }
  }
}

TEST_CASE("sums hidden in tables and callables are found") {
  const auto found = [](const DistanceFunction& f, Index count, Index slots) {
    const ExponentialFit fit = fit_exponentials(f, count, within(1e-6));
    CAPTURE(fit.reason);
    CHECK(fit.met);
    CHECK(fit.sum.slots() == slots);
  };
  found(Callable{[](double d) { return std::exp(-d / 200) + 0.3; }}, 20000, 2);
  found(Callable{[](double d) { return 0.7 * std::exp(-d / 3) + std::exp(-d / 4000); }}, 20000, 2);
  found(Callable{[](double d) { return std::cos(0.3 * d); }}, 20000, 2);
  found(Callable{[](double d) { return std::cos(d / 50) * std::exp(-d / 400); }}, 20000, 2);
  found(Callable{[](double d) { return d * d + 2 * d; }}, 20000, 3);
  found(Callable{[](double d) {
          return std::cos(0.2 * d) * std::exp(-d / 1000) + 0.01 * std::cos(0.21 * d) * std::exp(-d / 3000);
        }},
        20000, 4);
  found(Callable{[](double) { return -4.0; }}, 20000, 1);
  found(Callable{[](double) { return 0.0; }}, 20000, 0);
  found(Callable{[](double d) { return std::pow(0.9, d); }}, 200, 1);
  std::vector<double> v;
  for (int d = 0; d < 5000; ++d) v.push_back(d < 129 ? std::sin(d * d) : 3 * std::exp(-d / 900.0) - std::exp(-d / 80.0));
  FitOptions options = within(1e-6);
  options.first = 129;
  const ExponentialFit rough_near = fit_exponentials(FunctionTable{v}, 5000, options);
  CHECK(rough_near.met);
  CHECK(rough_near.sum.slots() == 2);
}

TEST_CASE("slow decay around an oscillation is as multi-scale as around 0, and is found on a second look") {
  const DistanceFunction f = Callable{[](double d) { return std::cos(d / 100) / (1 + d / 16); }};
  const ExponentialFit fit = fit_exponentials(f, 16384, within(1e-5));
  CAPTURE(fit.reason);
  CHECK(fit.met);
  CHECK(fit.sum.slots() <= 20);
}

TEST_CASE("a tolerance is met where a stricter one is") {
  // Each search alone sticks at some of these and passes the next.
  const DistanceFunction f = Callable{[](double d) { return std::log(d + 1); }};
  for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::entry}) {
    for (const double tolerance : {1e-8, 1e-9, 1e-10}) {
      const FitOptions options = within(tolerance, kind);
      const ExponentialFit fit = fit_exponentials(f, 3000, options);
      CAPTURE(tolerance);
      CAPTURE(fit.reason);
      CHECK(fit.met);
      CHECK(broken_promises(fit, f, 3000, options).empty());
      const double error = kind == ToleranceKind::row ? fit.certificate.row.value_or(1) : fit.certificate.entry.value_or(1);
      CHECK(error <= tolerance);
    }
  }
}

TEST_CASE("a handful of distances, f(0) = 0 among them") {
  const std::vector<DistanceFunction> functions = {
      Callable{[](double d) { return d; }}, Callable{[](double d) { return d * d; }},
      Callable{[](double d) { return d * std::exp(-d / 20); }}, Callable{[](double d) { return std::sin(d); }},
      Callable{[](double d) { return std::log(d + 1); }}};
  for (std::size_t k = 0; k < functions.size(); ++k) {
    for (Index count = 1; count <= 4; ++count) {
      for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::entry, ToleranceKind::pointwise}) {
        for (const double tolerance : {1e-3, 1e-12}) {
          CAPTURE(k);
          CAPTURE(count);
          CAPTURE(tolerance);
          const FitOptions options = within(tolerance, kind);
          const ExponentialFit fit = fit_exponentials(functions[k], count, options);
          CAPTURE(fit.reason);
          CHECK(fit.met);
          CHECK(broken_promises(fit, functions[k], count, options).empty());
        }
      }
    }
  }
  // Rows that are 0 throughout have no relative error: row 0 of a causal mask, the middle one of three.
  FitOptions causal = within(1e-3);
  causal.one_sided = true;
  CHECK_FALSE(fit_exponentials(functions[0], 2, causal).met);
  CHECK_FALSE(fit_exponentials(FunctionTable{{0, 0, 1}}, 3, within(1e-3)).met);
}

TEST_CASE("functions that are no short sums are refused with a reason") {
  const auto refused = [](const DistanceFunction& f, Index count, const FitOptions& options) {
    const ExponentialFit fit = fit_exponentials(f, count, options);
    CAPTURE(f.name());
    CAPTURE(fit.reason);
    CHECK_FALSE(fit.met);
    CHECK(fit.reason.size() > 60);
    // The work is bounded, so a planner may ask.
    CHECK(fit.work < 3e7);
    return fit;
  };
  const ExponentialFit noise = refused(FunctionTable{white_noise(65536)}, 65536, within(1e-5));
  CHECK(mentions(noise, "65536 samples of 6.55e+04 distances"));
  CHECK(mentions(noise, "singular values"));
  std::vector<double> values;
  for (int k = 0; k < 16; ++k) values.push_back(std::sin(1.3 * k));
  CHECK(mentions(refused(logarithmic_buckets(values, 128), 65536, within(1e-5)), "piecewise constant"));
  std::vector<double> step(4096, 1);
  std::fill(step.begin() + 2000, step.end(), 0);
  refused(FunctionTable{step}, 4096, within(1e-5));
  CHECK(mentions(refused(Exponential{-0.01, 1}, 4096, within(1e-5)), "grows"));
  // Tolerance 0 asks for equality.
  CHECK_FALSE(fit_exponentials(Gaussian{30, 1}, 100, within(0)).met);
  CHECK(mentions(fit_exponentials(Gaussian{30, 1}, 100, within(0)), "tolerance 0"));
  // Room for too few slots.
  FitOptions few = within(1e-6);
  few.max_slots = 3;
  const ExponentialFit best = fit_exponentials(Rational{16, 1, 1}, 4096, few);
  CHECK_FALSE(best.met);
  CHECK(mentions(best, "3 slots"));
  REQUIRE(best.certificate.row);
  CHECK(*best.certificate.row > 1e-6);
  CHECK(best.sum.slots() <= 3);
}

TEST_CASE("no fitted term ever grows, not even for functions that do") {
  for (const double rate : {1e-4, 1e-3, 0.01}) {
    for (const auto& f :
         {DistanceFunction(Exponential{-rate, 1}), DistanceFunction(ExponentiatedPolynomial{{0, rate, rate * rate}}),
          DistanceFunction(Callable{[=](double d) { return std::exp(rate * d) * std::cos(0.1 * d); }})}) {
      const ExponentialFit fit = fit_exponentials(f, 800, within(1e-3));
      CHECK(fit.sum.least_decay() >= 0);
      CHECK(std::isfinite(fit.amplification));
    }
  }
}

TEST_CASE("fitted distances where f >= 0 and the sum is negative are counted") {
  const DistanceFunction f = Gaussian{300, 1};
  const FitOptions options = within(1e-4);
  const ExponentialFit fit = fit_exponentials(f, 4096, options);
  REQUIRE(fit.met);
  CHECK(fit.fitted_negative > 0);
  CHECK(broken_promises(fit, f, 4096, options).empty());
  CHECK(fit_exponentials(Rational{16, 1, 1}, 4096, options).fitted_negative == 0);
}

TEST_CASE("a refit starts from the old terms and costs less") {
  for (const DistanceFunction& f : {five[1], five[2], five[3], DistanceFunction(PowerLaw{10, 1.5, 1})}) {
    const FitOptions options = within(1e-5);
    const ExponentialFit old = fit_exponentials(f, 16384, options);
    REQUIRE(old.met);
    std::vector<double> p(f.parameters().begin(), f.parameters().end());
    for (double& v : p) v *= 1.001;
    const DistanceFunction moved = f.with_parameters(p);
    FitOptions again = options;
    again.start = std::make_shared<ExponentialSum>(old.sum);
    const ExponentialFit refit = fit_exponentials(moved, 16384, again), fresh = fit_exponentials(moved, 16384, options);
    CAPTURE(f.name());
    CAPTURE(refit.method);
    CHECK(refit.met);
    CHECK((refit.method == "shared decays" || refit.method == "refit"));
    CHECK(refit.sum.slots() == old.sum.slots());
    CHECK(refit.solves < fresh.solves);
    CHECK(refit.work < fresh.work);
    CHECK(refit.solves > 0);
    CHECK(refit.evaluations >= 16384);
  }
}

TEST_CASE("derivatives in the parameters are fitted and certified like the function") {
  for (const DistanceFunction& f : {five[0], five[1], five[2], five[3], five[4], DistanceFunction(PowerLaw{10, 1.5, 1}),
                                    DistanceFunction(PolynomialExponential{0.01, {1, 0.1}})}) {
    FitOptions options = within(1e-4);
    options.start = std::make_shared<ExponentialSum>(fit_exponentials(f, 3000, options).sum);
    for (std::size_t p = 0; p < f.parameters().size(); ++p) {
      const DistanceFunction slope = f.derivative_function(p);
      const ExponentialFit fit = fit_exponentials(slope, 3000, options);
      CAPTURE(f.name());
      CAPTURE(p);
      CAPTURE(fit.reason);
      CHECK(fit.met);
      CHECK(fit.sum.least_decay() >= 0);
      CHECK(broken_promises(fit, slope, 3000, options).empty());
    }
  }
  // The scale shares the decays of the function itself.
  FitOptions options = within(1e-5);
  const ExponentialFit base = fit_exponentials(five[1], 3000, options);
  options.start = std::make_shared<ExponentialSum>(base.sum);
  const ExponentialFit scale = fit_exponentials(five[1].derivative_function(2), 3000, options);
  CHECK(scale.method == "shared decays");
  REQUIRE(scale.sum.terms.size() == base.sum.terms.size());
  for (std::size_t k = 0; k < base.sum.terms.size(); ++k) CHECK(scale.sum.terms[k].decay == base.sum.terms[k].decay);
}

TEST_CASE("distances below the first one count in the norms only") {
  const DistanceFunction f = Rational{16, 1, 1};
  FitOptions options = within(1e-4);
  for (const Index first : {0, 1, 65, 399, 400}) {
    options.first = first;
    const ExponentialFit fit = fit_exponentials(f, 400, options);
    CHECK(fit.met);
    CHECK(broken_promises(fit, f, 400, options).empty());
    if (first == 400) CHECK(fit.sum.slots() == 0);
  }
}

TEST_CASE("one-sided rows start with a single distance") {
  const DistanceFunction f = Callable{[](double d) { return d * std::exp(-d / 40); }};
  FitOptions options = within(1e-4);
  options.one_sided = true;
  // Row 0 of a causal mask is f(0) = 0 alone: a relative error has no meaning there unless the caller serves d = 0 himself.
  const ExponentialFit all = fit_exponentials(f, 400, options);
  CHECK_FALSE(all.met);
  CHECK(mentions(all, "row 0 is f(0) = 0 alone"));
  options.first = 1;
  const ExponentialFit fit = fit_exponentials(f, 400, options);
  CHECK(fit.met);
  CHECK(broken_promises(fit, f, 400, options).empty());
}

TEST_CASE("illegal arguments are refused") {
  const DistanceFunction f = Gaussian{10, 1};
  CHECK_THROWS_AS(fit_exponentials(f, 0), ValueError);
  CHECK_THROWS_AS(fit_exponentials(f, -5), ValueError);
  for (const double bad : {-1e-6, kNan}) CHECK_THROWS_AS(fit_exponentials(f, 10, within(bad)), ValueError);
  FitOptions o = within(1e-3);
  for (const Index first : {-1, 11}) {
    o.first = first;
    CHECK_THROWS_AS(fit_exponentials(f, 10, o), ValueError);
    CHECK_THROWS_AS((void)certify(f, ExponentialSum{}, 10, o), ValueError);
  }
  o = within(1e-3), o.max_slots = 0;
  CHECK_THROWS_AS(fit_exponentials(f, 10, o), ValueError);
  o = within(1e-3), o.max_amplification = kNan;
  CHECK_THROWS_AS(fit_exponentials(f, 10, o), ValueError);
  o = within(1e-3), o.row_entries = -1;
  CHECK_THROWS_AS(fit_exponentials(f, RealRange{0, 1}, o), ValueError);
  for (const double bad : {kNan, kInfinity}) {
    const DistanceFunction g = Callable{[=](double d) { return d == 7 ? bad : 1.0; }};
    CHECK_THROWS_AS(fit_exponentials(g, 10), ValueError);
    CHECK_NOTHROW(fit_exponentials(g, 7));
    CHECK_THROWS_AS(fit_exponentials(Callable{[=](double) { return bad; }}, RealRange{0, 10}), ValueError);
  }
  for (const RealRange range :
       {RealRange{-1, 1}, RealRange{2, 1}, RealRange{0, kInfinity}, RealRange{kNan, 1}, RealRange{0, kNan}}) {
    CHECK_THROWS_AS(fit_exponentials(f, range), ValueError);
    CHECK_THROWS_AS((void)certify(f, ExponentialSum{}, range), ValueError);
  }
  // A table ends where it ends.
  CHECK_THROWS_AS(fit_exponentials(FunctionTable{{1, 2, 3}}, 4), ValueError);
  CHECK_THROWS_AS(fit_exponentials(FunctionTable{{1, 2, 3}}, RealRange{0, 2}), ValueError);
}

TEST_CASE("real ranges of length 0 and functions with a root at 0") {
  const ExponentialFit point = fit_exponentials(Gaussian{10, 1}, RealRange{3, 3}, within(1e-6));
  CHECK(point.met);
  CHECK(std::abs(point.sum(3) - std::exp(-0.09)) <= 1e-6);
  const ExponentialFit root = fit_exponentials(StretchedExponential{36, 0.5, 1}, RealRange{0, 500}, within(1e-4));
  CHECK(root.met);
  CHECK_FALSE(root.certificate.estimated);
}

TEST_CASE("functions too rough for a real range are given up, in bounded work") {
  for (const auto& f : {DistanceFunction(Callable{[](double d) { return std::cos(1e6 * d); }}),
                        DistanceFunction(Callable{[](double d) { return std::sin(1e9 * d * d); }})}) {
    const ExponentialFit fit = fit_exponentials(f, RealRange{0, 1000}, within(1e-4));
    CHECK_FALSE(fit.met);
    CHECK(mentions(fit, "sampling was given up"));
    CHECK(fit.evaluations < 400000);
  }
  // Jumps cost pieces, not a blow-up.
  const ExponentialFit steps =
      fit_exponentials(PiecewiseConstant{{1, 2, 30}, {1, -1, 0.5, 0}}, RealRange{0, 100}, within(1e-4));
  CHECK_FALSE(steps.met);
  CHECK(steps.evaluations < 3000000);
}

TEST_CASE("the same fit twice is the same to the bit") {
  for (const DistanceFunction& f : {five[1], DistanceFunction(FunctionTable{white_noise(300)})}) {
    const ExponentialFit a = fit_exponentials(f, 300, within(1e-5)), b = fit_exponentials(f, 300, within(1e-5));
    REQUIRE(a.sum.terms.size() == b.sum.terms.size());
    for (std::size_t k = 0; k < a.sum.terms.size(); ++k) {
      CHECK(a.sum.terms[k].coefficient == b.sum.terms[k].coefficient);
      CHECK(a.sum.terms[k].decay == b.sum.terms[k].decay);
    }
    CHECK(a.certificate.row == b.certificate.row);
    CHECK(a.reason == b.reason);
  }
}
