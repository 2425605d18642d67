// Closed forms that are no finite sum of exponentials: Gaussian, rational, power law, stretched exponential.
// SPDX-License-Identifier: Apache-2.0
#include "functions/function_state.hpp"

#include <espalier/core/error.hpp>

#include "core/number_text.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace espalier {

namespace {

using State = DistanceFunction::State;
using Parameters = std::span<const double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class GaussianState final : public State {
 public:
  explicit GaussianState(const Gaussian& f) : State("gaussian", {f.width, f.scale}) {
    if (f.width == 0) throw ValueError("gaussian: width is 0, expected another number");
  }
  double value(double d) const override { return at(1) * std::exp(-(d / at(0)) * (d / at(0))); }
  double derivative(std::size_t p, double d) const override {
    const double u = d / at(0), e = std::exp(-u * u);
    return p == 0 ? 2 * at(1) * e * u * u / at(0) : e;
  }
  // Re z^2 = x^2 - y^2 is least on the circle: at x = c / 2 where that is inside, else at x = c - r.
  double disc_bound(double c, double r) const override {
    const double least = r >= std::abs(c) / 2 ? c * c / 2 - r * r : (std::abs(c) - r) * (std::abs(c) - r);
    return std::abs(at(1)) * std::exp(-least / (at(0) * at(0)));
  }
  DistanceFunction with(Parameters p) const override { return Gaussian{p[0], p[1]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(1) == 0) return ExponentialForm{0, 0};
    return std::nullopt;
  }
};

class RationalState final : public State {
 public:
  explicit RationalState(const Rational& f) : State("rational", {f.width, f.power, f.scale}) {
    if (f.width <= 0) throw ValueError("rational: width is " + number_text(f.width) + ", expected a number > 0");
  }
  double value(double d) const override { return at(2) / (1 + term(d)); }
  double derivative(std::size_t p, double d) const override {
    const double u = term(d), q = 1 / (1 + u);
    if (p == 2) return q;
    // u / (1 + u)^2 vanishes at both ends; u = inf would make it NaN.
    const double slope = std::isfinite(u) ? u * q * q : 0.0;
    if (slope == 0) return 0;
    return p == 0 ? at(2) * slope * at(1) / at(0) : -at(2) * slope * std::log(d / at(0));
  }
  // |1 + u(z)| >= 1 + u(c) - |u(z) - u(c)|, and u's Taylor coefficients at c bound the difference: all positive for a whole
  // power, otherwise at most those of (1 - r / c)^-|power|, which needs r < c.
  double disc_bound(double c, double r) const override {
    const double power = at(1);
    double least;
    if (power == 1) {
      least = 1 + (c - r) / at(0);
    } else if (power >= 0 && power == std::floor(power)) {
      least = 1 + 2 * term(c) - std::pow((c + r) / at(0), power);
    } else {
      if (!(r < c)) return kInfinity;
      least = 1 + term(c) * (2 - std::pow(1 - r / c, -std::abs(power)));
    }
    return least > 0 ? std::abs(at(2)) / least : kInfinity;
  }
  double variation(double a, double b) const override { return std::abs(value(a) - value(b)); }
  DistanceFunction with(Parameters p) const override { return Rational{p[0], p[1], p[2]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(2) == 0) return ExponentialForm{0, 0};
    if (at(1) == 0) return ExponentialForm{at(2) / 2, 0};
    return std::nullopt;
  }

 private:
  double term(double d) const {
    if (d < 0) throw FunctionError("rational", "defined for d >= 0, got " + number_text(d));
    return std::pow(d / at(0), at(1));
  }
};

class PowerLawState final : public State {
 public:
  explicit PowerLawState(const PowerLaw& f) : State("power law", {f.width, f.exponent, f.scale}) {
    if (f.width <= 0) throw ValueError("power law: width is " + number_text(f.width) + ", expected a number > 0");
  }
  double value(double d) const override { return at(2) * std::pow(base(d), -at(1)); }
  double derivative(std::size_t p, double d) const override {
    const double q = base(d), power = std::pow(q, -at(1));
    if (p == 2) return power;
    if (p == 1) return -at(2) * power * std::log(q);
    return at(2) * at(1) * power / q * d / (at(0) * at(0));
  }
  DistanceFunction with(Parameters p) const override { return PowerLaw{p[0], p[1], p[2]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(2) == 0 || at(1) == 0) return ExponentialForm{at(2), 0};
    return std::nullopt;
  }
  // |(1 + z / w)^-a| = |1 + z / w|^-a, and |1 + z / w| is extreme on the real line.
  double disc_bound(double c, double r) const override {
    if (!(c - r > -at(0))) return kInfinity;
    return std::abs(at(2)) * std::max(std::pow(base(c - r), -at(1)), std::pow(base(c + r), -at(1)));
  }
  double variation(double a, double b) const override { return std::abs(value(a) - value(b)); }

 private:
  double base(double d) const {
    const double q = 1 + d / at(0);
    if (!(q > 0)) throw FunctionError("power law", "defined for d > -width, got " + number_text(d));
    return q;
  }
};

class StretchedExponentialState final : public State {
 public:
  explicit StretchedExponentialState(const StretchedExponential& f)
      : State("stretched exponential", {f.width, f.exponent, f.scale}) {
    if (f.width <= 0 || f.exponent <= 0) {
      throw ValueError("stretched exponential: width " + number_text(f.width) + " and exponent " + number_text(f.exponent) +
                       ", expected numbers > 0");
    }
  }
  double value(double d) const override { return at(2) * std::exp(-term(d)); }
  double derivative(std::size_t p, double d) const override {
    const double u = term(d), e = std::exp(-u);
    if (p == 2) return e;
    // u e^-u vanishes at both ends, where the logarithm or u itself is infinite.
    const double slope = std::isfinite(u) ? u * e : 0.0;
    if (slope == 0) return 0;
    return p == 0 ? at(2) * slope * at(1) / at(0) : -at(2) * slope * std::log(d / at(0));
  }
  DistanceFunction with(Parameters p) const override { return StretchedExponential{p[0], p[1], p[2]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(2) == 0) return ExponentialForm{0, 0};
    if (at(1) == 1) return ExponentialForm{at(2), -1 / at(0)};
    return std::nullopt;
  }
  // Re (z / w)^a = |z / w|^a cos(a arg z), with |arg z| <= asin(r / c) where the disc leaves the root at 0 out.
  double disc_bound(double c, double r) const override {
    const double a = at(1), most = std::pow((c + r) / at(0), a);
    if (!(r < c)) return a == std::floor(a) ? std::abs(at(2)) * std::exp(most) : kInfinity;
    const double angle = a * std::asin(r / c);
    const double least = angle < std::acos(0.0) ? std::pow((c - r) / at(0), a) * std::cos(angle) : -most;
    return std::abs(at(2)) * std::exp(-least);
  }
  double variation(double a, double b) const override { return std::abs(value(a) - value(b)); }

 private:
  double term(double d) const {
    if (d < 0) throw FunctionError("stretched exponential", "defined for d >= 0, got " + number_text(d));
    return std::pow(d / at(0), at(1));
  }
};

}  // namespace

DistanceFunction::DistanceFunction(Gaussian f) : state_(std::make_shared<GaussianState>(f)) {}
DistanceFunction::DistanceFunction(Rational f) : state_(std::make_shared<RationalState>(f)) {}
DistanceFunction::DistanceFunction(PowerLaw f) : state_(std::make_shared<PowerLawState>(f)) {}
DistanceFunction::DistanceFunction(StretchedExponential f) : state_(std::make_shared<StretchedExponentialState>(f)) {}

}  // namespace espalier
