// Distance functions: values, derivatives against central differences, errors, recognition of exponentials.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/functions/distance_function.hpp>

#include <cmath>
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

TEST_CASE("the derivative of a rational stays finite at both ends") {
  const DistanceFunction f = Rational{1, 40, 1};
  for (std::size_t p = 0; p < 3; ++p) {
    CHECK(std::isfinite(f.derivative(p, 0)));
    CHECK(std::isfinite(f.derivative(p, 1e12)));
  }
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

TEST_CASE("illegal parameters are refused") {
  for (const double bad : {kNan, kInfinity, -kInfinity}) {
    CHECK_THROWS_AS(DistanceFunction(Exponential{bad, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(Gaussian{1, bad}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(Rational{1, bad, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(DampedCosine{bad, 1, 1}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(ExponentiatedPolynomial{{0, bad}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(Polynomial{{bad}}), ValueError);
    CHECK_THROWS_AS(DistanceFunction(FunctionTable{{1, bad}}), ValueError);
  }
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
