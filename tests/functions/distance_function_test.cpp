// Distance functions: values, derivatives against central differences, errors, recognition of exponentials.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/functions/distance_function.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace espalier;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  DistanceFunction f;
  double (*formula)(double);
};

std::vector<Case> cases() {
  return {
      {Exponential{0.3, -2}, [](double d) { return -2 * std::exp(-0.3 * d); }},
      {Gaussian{2.5, 0.7}, [](double d) { return 0.7 * std::exp(-d * d / 6.25); }},
      {Gaussian{-2.5, 0.7}, [](double d) { return 0.7 * std::exp(-d * d / 6.25); }},
      {Rational{3, 1.5, 2}, [](double d) { return 2 / (1 + std::pow(d / 3, 1.5)); }},
      {DampedCosine{0.8, 0.1, 1.5}, [](double d) { return 1.5 * std::cos(0.8 * d) * std::exp(-0.1 * d); }},
      {ExponentiatedPolynomial{{0.2, -0.4, -0.01}}, [](double d) { return std::exp(0.2 - 0.4 * d - 0.01 * d * d); }},
      {PowerLaw{3, 1.5, 2}, [](double d) { return 2 * std::pow(1 + d / 3, -1.5); }},
      {StretchedExponential{3, 0.5, 2}, [](double d) { return 2 * std::exp(-std::sqrt(d / 3)); }},
      {StretchedExponential{3, 2, -2}, [](double d) { return -2 * std::exp(-d * d / 9); }},
      {PolynomialExponential{0.2, {1, -3, 0.5}}, [](double d) { return (1 - 3 * d + 0.5 * d * d) * std::exp(-0.2 * d); }},
      {PolynomialExponential{0.2, {}}, [](double) { return 0.0; }},
      {PiecewiseConstant{{1, 3.25}, {5, -6, 7}}, [](double d) { return d < 1      ? 5.0
                                                                       : d < 3.25 ? -6.0
                                                                                  : 7.0; }},
      {ExponentialSum{{{2, 0.1, 0}, {{1, -3}, {0.2, 0.7}, 1}}},
       [](double d) { return 2 * std::exp(-0.1 * d) + d * std::exp(-0.2 * d) * (std::cos(0.7 * d) - 3 * std::sin(0.7 * d)); }},
      {Polynomial{{1, -2, 0.5}}, [](double d) { return 1 - 2 * d + 0.5 * d * d; }},
      {Polynomial{{}}, [](double) { return 0.0; }},
      {ExponentiatedPolynomial{{}}, [](double) { return 1.0; }},
      {Callable{[](double d) { return std::sin(d); }}, [](double d) { return std::sin(d); }},
  };
}

const double kDistances[] = {0, 0.5, 1, 2, 3.25, 7, 20};

bool is_exponential(const std::optional<ExponentialForm>& e, double factor, double slope) {
  return e && std::abs(e->factor - factor) <= 1e-12 * std::abs(factor) &&
         std::abs(e->slope - slope) <= 1e-13 * (1 + std::abs(slope));
}

}  // namespace

TEST_CASE("values follow the formulas") {
  for (const Case& c : cases()) {
    CAPTURE(c.f.name());
    for (const double d : kDistances) CHECK(c.f(d) == doctest::Approx(c.formula(d)).epsilon(1e-14));
  }
  CHECK(DistanceFunction(Exponential{0.1, 1})(-3) == doctest::Approx(std::exp(0.3)).epsilon(1e-15));
  const DistanceFunction table = FunctionTable{{3, 1, 4}};
  CHECK(table(0) == 3);
  CHECK(table(2) == 4);
  CHECK(table.last_integer() == 2);
  CHECK(DistanceFunction(Gaussian{}).last_integer() == -1);
}

TEST_CASE("derivatives equal central differences") {
  auto all = cases();
  all.push_back({FunctionTable{std::vector<double>(21, 0.5)}, nullptr});
  for (const Case& c : all) {
    CAPTURE(c.f.name());
    const std::vector<double> p(c.f.parameters().begin(), c.f.parameters().end());
    for (std::size_t k = 0; k < p.size(); ++k) {
      for (double d : kDistances) {
        if (c.f.last_integer() >= 0) d = std::floor(d);
        const double h = 1e-5 * (1 + std::abs(p[k]));
        auto up = p, down = p;
        up[k] += h, down[k] -= h;
        const double difference = (c.f.with_parameters(up)(d) - c.f.with_parameters(down)(d)) / (2 * h);
        // Central differences: h^2 / 6 of the third derivative, below (1 + d)^6 (|f| + 1) here, and rounding eps |f| / h.
        const double bound = (1 + std::abs(c.f(d))) * (h * h * std::pow(1 + d, 6) + 1e-10);
        CAPTURE(k);
        CAPTURE(d);
        CHECK(std::abs(c.f.derivative(k, d) - difference) <= bound);
      }
    }
  }
}

TEST_CASE("derivatives stay finite at both ends") {
  for (const DistanceFunction& f : {DistanceFunction(Rational{1, 40, 1}), DistanceFunction(StretchedExponential{1, 0.1, 1}),
                                    DistanceFunction(StretchedExponential{1, 40, 1}), DistanceFunction(PowerLaw{1, 40, 1})}) {
    for (std::size_t p = 0; p < 3; ++p) {
      CHECK(std::isfinite(f.derivative(p, 0)));
      CHECK(std::isfinite(f.derivative(p, 1e12)));
    }
  }
}

TEST_CASE("derivative_function is the derivative, as a function of its own") {
  auto all = cases();
  all.push_back({FunctionTable{std::vector<double>(21, 0.5)}, nullptr});
  for (const Case& c : all) {
    CAPTURE(c.f.name());
    for (std::size_t p = 0; p < c.f.parameters().size(); ++p) {
      const DistanceFunction slope = c.f.derivative_function(p);
      CHECK(slope.last_integer() == c.f.last_integer());
      for (double d : kDistances) {
        if (c.f.last_integer() >= 0) d = std::floor(d);
        CHECK(slope(d) == doctest::Approx(c.f.derivative(p, d)).epsilon(1e-13).scale(1 + std::abs(c.f(d))));
      }
    }
    CHECK_THROWS_AS((void)c.f.derivative_function(c.f.parameters().size()), ValueError);
  }
  // Views keep what they are derivatives of alive, and have no parameters.
  const DistanceFunction slope = DistanceFunction(Gaussian{2, 1}).derivative_function(0);
  CHECK(slope(2) == doctest::Approx(std::exp(-1.0)).epsilon(1e-14));
  CHECK(slope.parameters().empty());
  CHECK(slope.with_parameters({})(2) == slope(2));
  CHECK(slope.name() == "derivative 0 of gaussian");
}

TEST_CASE("exponential terms equal the closed form") {
  const auto same = [](const DistanceFunction& f, std::size_t terms) {
    CAPTURE(f.name());
    const auto sum = f.exponential_terms();
    REQUIRE(sum);
    CHECK(sum->terms.size() == terms);
    for (const double d : kDistances) CHECK((*sum)(d) == doctest::Approx(f(d)).epsilon(1e-13).scale(1));
  };
  same(Exponential{0.3, -2}, 1);
  same(Exponential{-0.3, -2}, 1);
  same(Exponential{0.3, 0}, 0);
  same(DampedCosine{0.8, 0.1, 1.5}, 1);
  same(DampedCosine{-0.8, 0.1, 1.5}, 1);
  same(Polynomial{{1, 0, 0.5}}, 2);
  same(PolynomialExponential{0.2, {1, -3, 0.5}}, 3);
  same(ExponentiatedPolynomial{{0.2, -0.4}}, 1);
  same(PiecewiseConstant{{}, {4}}, 1);
  for (std::size_t p = 0; p < 3; ++p) same(DistanceFunction(DampedCosine{0.8, 0.1, 1.5}).derivative_function(p), 1);
  CHECK_FALSE(DistanceFunction(Gaussian{}).exponential_terms());
  CHECK_FALSE(DistanceFunction(PowerLaw{}).exponential_terms());
  CHECK_FALSE(DistanceFunction(FunctionTable{{1, 1}}).exponential_terms());
}

TEST_CASE("bounds on discs and variations are bounds") {
  for (const Case& c : cases()) {
    CAPTURE(c.f.name());
    Index finite = 0;
    for (const double centre : {0.0, 0.5, 2.0, 7.0}) {
      for (const double radius : {0.0, 0.1, 0.4, 1.0, 3.0}) {
        const double bound = c.f.disc_bound(centre, radius);
        // On the real line the disc is an interval.
        for (double d = std::max(0.0, centre - radius); d <= centre + radius; d += 0.05) {
          CHECK(std::abs(c.f(d)) <= bound * (1 + 1e-12));
        }
        finite += std::isfinite(bound);
        const double variation = c.f.variation(centre, centre + radius);
        for (double d = centre; d <= centre + radius; d += 0.05) {
          CHECK(std::abs(c.f(d) - c.f(centre)) <= variation * (1 + 1e-12) + 1e-15);
        }
      }
    }
    CHECK((finite > 0 || c.f.name() == "callable"));
  }
  // Off the line: the same formulas with complex numbers, on the circle, where an analytic function is largest.
  const std::pair<DistanceFunction, std::complex<double> (*)(std::complex<double>)> formulas[] = {
      {Exponential{0.3, -2}, [](std::complex<double> z) { return -2.0 * std::exp(-0.3 * z); }},
      {Gaussian{2.5, 0.7}, [](std::complex<double> z) { return 0.7 * std::exp(-z * z / 6.25); }},
      {Rational{3, 1, 2}, [](std::complex<double> z) { return 2.0 / (1.0 + z / 3.0); }},
      {Rational{3, 2, 2}, [](std::complex<double> z) { return 2.0 / (1.0 + z * z / 9.0); }},
      {Rational{3, 1.5, 2}, [](std::complex<double> z) { return 2.0 / (1.0 + std::pow(z / 3.0, 1.5)); }},
      {PowerLaw{3, 1.5, 2}, [](std::complex<double> z) { return 2.0 * std::pow(1.0 + z / 3.0, -1.5); }},
      {PowerLaw{3, -1.5, 2}, [](std::complex<double> z) { return 2.0 * std::pow(1.0 + z / 3.0, 1.5); }},
      {StretchedExponential{3, 0.5, 2}, [](std::complex<double> z) { return 2.0 * std::exp(-std::sqrt(z / 3.0)); }},
      {StretchedExponential{3, 2, 2}, [](std::complex<double> z) { return 2.0 * std::exp(-z * z / 9.0); }},
      {StretchedExponential{3, 1.7, 2}, [](std::complex<double> z) { return 2.0 * std::exp(-std::pow(z / 3.0, 1.7)); }},
      {DampedCosine{0.8, 0.1, 1.5}, [](std::complex<double> z) { return 1.5 * std::cos(0.8 * z) * std::exp(-0.1 * z); }},
      {ExponentiatedPolynomial{{0.2, -0.4, -0.01}},
       [](std::complex<double> z) { return std::exp(0.2 - 0.4 * z - 0.01 * z * z); }},
      {Polynomial{{1, -2, 0.5}}, [](std::complex<double> z) { return 1.0 - 2.0 * z + 0.5 * z * z; }},
      {PolynomialExponential{0.2, {1, -3, 0.5}},
       [](std::complex<double> z) { return (1.0 - 3.0 * z + 0.5 * z * z) * std::exp(-0.2 * z); }},
      {ExponentialSum{{{2, 0.1, 0}, {1, 0.2, 1}}},
       [](std::complex<double> z) { return 2.0 * std::exp(-0.1 * z) + z * std::exp(-0.2 * z); }},
  };
  for (const auto& [f, formula] : formulas) {
    CAPTURE(f.name());
    int finite = 0;
    for (const double centre : {0.5, 2.0, 7.0}) {
      for (const double radius : {0.1, 0.4, 1.9, 5.0}) {
        const double bound = f.disc_bound(centre, radius);
        if (!std::isfinite(bound)) continue;
        ++finite;
        for (int k = 0; k < 64; ++k) {
          CHECK(std::abs(formula(std::polar(radius, 0.1 * k) + centre)) <= bound * (1 + 1e-12));
        }
      }
    }
    CHECK(finite >= 5);
  }
  // Nothing is known of callables and tables; a root at 0 is no analytic point.
  CHECK(DistanceFunction(Callable{[](double) { return 1.0; }}).disc_bound(1, 0) == kInfinity);
  CHECK(DistanceFunction(StretchedExponential{3, 0.5, 2}).disc_bound(1, 1) == kInfinity);
  CHECK(DistanceFunction(Rational{3, 1, 2}).disc_bound(0, 3) == kInfinity);
  CHECK(DistanceFunction(PiecewiseConstant{{1}, {2, 3}}).disc_bound(1, 0.5) == kInfinity);
}

TEST_CASE("pieces are half open, and known to who asks") {
  const DistanceFunction f = PiecewiseConstant{{1, 2.5, 10}, {4, 5, 6, 7}};
  CHECK(f(-3) == 4);
  CHECK(f(0.999) == 4);
  CHECK(f(1) == 5);
  CHECK(f(2.5) == 6);
  CHECK(f(10) == 7);
  CHECK(f(1e9) == 7);
  const auto pieces = f.constant_pieces();
  REQUIRE(pieces);
  CHECK(std::vector<double>(pieces->breakpoints.begin(), pieces->breakpoints.end()) == std::vector<double>{1, 2.5, 10});
  CHECK(std::vector<double>(pieces->values.begin(), pieces->values.end()) == std::vector<double>{4, 5, 6, 7});
  CHECK(f.variation(0, 2) == 1);
  CHECK(f.variation(1, 100) == 2);
  CHECK_FALSE(DistanceFunction(Gaussian{}).constant_pieces());
  CHECK_THROWS_AS(f(kNan), ValueError);
}

TEST_CASE("T5's buckets by the formula of its code") {
  // relative_position_bucket of T5 for one side: num_buckets 16, max_distance 128.
  std::vector<double> values;
  for (int k = 0; k < 16; ++k) values.push_back(k);
  const DistanceFunction f = logarithmic_buckets(values, 128);
  for (int d = 0; d < 400; ++d) {
    int bucket = d;
    // 16 and 32 and 64 are borders: log 2 / log 16 is a quarter exactly, which doubles may miss by one rounding.
    if (d >= 8) bucket = std::min(15, 8 + static_cast<int>(std::floor(8 * std::log(d / 8.0) / std::log(16.0) + 1e-12)));
    CAPTURE(d);
    CHECK(f(d) == bucket);
  }
  CHECK(f(127) == 15);
  const DistanceFunction two = logarithmic_buckets({3, 4}, 8);
  CHECK(two(0) == 3);
  CHECK(two(1) == 4);
  CHECK(two(100) == 4);
  CHECK_THROWS_AS((void)logarithmic_buckets({1}, 128), ValueError);
  CHECK_THROWS_AS((void)logarithmic_buckets(values, 8), ValueError);
  CHECK_THROWS_AS((void)logarithmic_buckets(values, kInfinity), ValueError);
  CHECK_THROWS_AS((void)logarithmic_buckets(values, kNan), ValueError);
}

TEST_CASE("parameters are in the order of the members, and with_parameters leaves the old function alone") {
  const DistanceFunction f = Rational{3, 1.5, 2};
  REQUIRE(f.parameters().size() == 3);
  CHECK(f.parameters()[0] == 3);
  CHECK(f.parameters()[1] == 1.5);
  CHECK(f.parameters()[2] == 2);
  const std::vector<double> p = {1, 1, 5};
  const DistanceFunction g = f.with_parameters(p);
  CHECK(g(1) == 2.5);
  CHECK(f.parameters()[2] == 2);
  CHECK(DistanceFunction(Callable{[](double d) { return d; }, "mine"}).name() == "mine");
}

TEST_CASE("a function without a value says whose and where") {
  const auto text = [](const DistanceFunction& f, double d) -> std::string {
    try {
      (void)f(d);
    } catch (const FunctionError& error) {
      CHECK(error.function() == f.name());
      return error.what();
    }
    return "no error";
  };
  CHECK(text(FunctionTable{{1, 2}}, 2) == "table: no value at d = 2, expected an integer from 0 to 1");
  CHECK(text(FunctionTable{{1, 2}, "t.npy"}, 0.5) == "t.npy: no value at d = 0.5, expected an integer from 0 to 1");
  const DistanceFunction table(FunctionTable{{1, 2}, "t.npy"});
  const double other[] = {3, 4};
  CHECK(text(table.with_parameters(other), -1) == "t.npy: no value at d = -1, expected an integer from 0 to 1");
  CHECK(text(Rational{1, 2, 1}, -1e300) == "rational: defined for d >= 0, got -1e+300");
  CHECK(text(PowerLaw{1, 1, 1}, -1) == "power law: defined for d > -width, got -1");
}

TEST_CASE("illegal parameters are refused") {
  for (const double bad : {kNan, kInfinity, -kInfinity}) {
    CHECK_THROWS_AS(DistanceFunction(Exponential{bad, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(Gaussian{1, bad}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(Rational{1, bad, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(DampedCosine{bad, 1, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(ExponentiatedPolynomial{{0, bad}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(Polynomial{{bad}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(FunctionTable{{1, bad}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(PowerLaw{1, bad, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(StretchedExponential{1, 1, bad}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(PolynomialExponential{bad, {1}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(PolynomialExponential{1, {1, bad}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(PiecewiseConstant{{1}, {bad, 1}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(PiecewiseConstant{{bad}, {1, 1}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(ExponentialSum{{{bad, 1, 0}}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(ExponentialSum{{{1, {1, bad}, 0}}}), ValueError);
  }
  CHECK_THROWS_AS(DistanceFunction(ExponentialSum{{{1, 1, -1}}}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(PowerLaw{0, 1, 1}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(PowerLaw{3, 1, 1})(-3), ValueError);
  CHECK_THROWS_AS(DistanceFunction(StretchedExponential{-1, 1, 1}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(StretchedExponential{1, 0, 1}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(StretchedExponential{1, 1, 1})(-1), ValueError);
  CHECK_THROWS_AS(DistanceFunction(PiecewiseConstant{{1, 1}, {1, 2, 3}}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(PiecewiseConstant{{1, 2}, {1, 2}}), ShapeError);
  CHECK_THROWS_AS(DistanceFunction(PiecewiseConstant{{}, {}}), ShapeError);
  CHECK_THROWS_AS(DistanceFunction(Gaussian{0, 1}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(Rational{0, 1, 1}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(Rational{-1, 1, 1}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(FunctionTable{{}}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(Callable{}), ValueError);
  const DistanceFunction f = Exponential{1, 1};
  CHECK_THROWS_AS(f.derivative(2, 0), ValueError);
  CHECK_THROWS_AS(f.with_parameters(std::vector<double>{1}), ShapeError);
  CHECK_THROWS_AS(f.with_parameters(std::vector<double>{1, kNan}), ValueError);
  CHECK_THROWS_AS(DistanceFunction(Rational{1, 1, 1})(-1), ValueError);
  const DistanceFunction table = FunctionTable{{1, 2}};
  for (const double d : {-1.0, 0.5, 2.0, kNan}) CHECK_THROWS_AS(table(d), ValueError);
}

TEST_CASE("exponentials are known by construction") {
  CHECK(is_exponential(DistanceFunction(Exponential{0.5, -3}).exponential_form(), -3, -0.5));
  CHECK(is_exponential(DistanceFunction(DampedCosine{0, 0.5, 2}).exponential_form(), 2, -0.5));
  CHECK(is_exponential(DistanceFunction(ExponentiatedPolynomial{{0.3, -2, 0}}).exponential_form(), std::exp(0.3), -2));
  CHECK(is_exponential(DistanceFunction(Polynomial{{-4, 0}}).exponential_form(), -4, 0));
  CHECK(is_exponential(DistanceFunction(Polynomial{{}}).exponential_form(), 0, 0));
  CHECK_FALSE(DistanceFunction(Gaussian{}).exponential_form());
  CHECK_FALSE(DistanceFunction(Rational{}).exponential_form());
  CHECK_FALSE(DistanceFunction(ExponentiatedPolynomial{{0, 0, 1}}).exponential_form());
  CHECK_FALSE(DistanceFunction(Callable{[](double) { return 1.0; }}).exponential_form());
}

TEST_CASE("exponentials are recognised in callables and tables") {
  const auto seen = [](auto f, double range) { return recognise_exponential(Callable{f}, range); };
  CHECK(is_exponential(seen([](double d) { return std::exp(-0.1 * d); }, 50), 1, -0.1));
  CHECK(is_exponential(seen([](double d) { return -2.5 * std::exp(0.02 * d); }, 100), -2.5, 0.02));
  CHECK(is_exponential(seen([](double d) { return std::pow(0.9, d); }, 30), 1, std::log(0.9)));
  CHECK(is_exponential(seen([](double) { return 0.0; }, 10), 0, 0));
  CHECK(is_exponential(seen([](double) { return 7.0; }, 10), 7, 0));
  CHECK(is_exponential(seen([](double d) { return std::cos(d); }, 0), 1, 0));  // one point
  // Underflows over all but a thousandth of its range: neither the zero function nor unrecognised.
  CHECK(is_exponential(seen([](double d) { return std::exp(-d); }, 1e6), 1, -1));
  CHECK(is_exponential(recognise_exponential(Exponential{0.25, 3}, 9), 3, -0.25));
  CHECK(is_exponential(recognise_exponential(FunctionTable{{1, 0.5, 0.25, 0.125}}, 100), 1, std::log(0.5)));
}

TEST_CASE("near misses are not recognised") {
  const auto seen = [](auto f) { return recognise_exponential(Callable{f}, 50); };
  // Nearest exponential: off by (1e-6 d)^2 / 2.
  CHECK_FALSE(seen([](double d) { return std::exp(-0.1 * d) * (1 + 1e-6 * d); }));
  CHECK_FALSE(seen([](double d) { return std::exp(-0.1 * d) + 1e-9; }));
  CHECK_FALSE(seen([](double d) { return 1 / (1 + d); }));
  CHECK_FALSE(seen([](double d) { return std::exp(-d * d / 100); }));
  CHECK_FALSE(seen([](double d) { return d < 40 ? std::exp(-0.1 * d) : 0.0; }));
  CHECK_FALSE(seen([](double d) { return d < 40 ? 1.0 : -1.0; }));
  CHECK_FALSE(seen([](double d) { return d; }));
  CHECK_FALSE(seen([](double d) { return d > 40 ? kNan : 1.0; }));
  CHECK_FALSE(recognise_exponential(FunctionTable{{1, 0.5, 0.25, 0.126}}, 100));
  CHECK_THROWS_AS((void)recognise_exponential(Gaussian{}, -1), ValueError);
  CHECK_THROWS_AS((void)recognise_exponential(Gaussian{}, kNan), ValueError);
}
