// Closed forms made of exponentials and polynomials: exponential, damped cosine, polynomials, and their exponentials.
// SPDX-License-Identifier: Apache-2.0
#include "functions/function_state.hpp"

#include <espalier/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <utility>

namespace espalier {

namespace {

using State = DistanceFunction::State;
using Parameters = std::span<const double>;

std::vector<double> to_vector(Parameters p) {
  return {p.begin(), p.end()};
}

// sum_k c[k] d^k by Horner's rule.
double polynomial(const std::vector<double>& c, double d) {
  double s = 0;
  for (std::size_t k = c.size(); k-- > 0;) s = s * d + c[k];
  return s;
}

bool zero_from(const std::vector<double>& c, std::size_t first) {
  return std::all_of(c.begin() + static_cast<std::ptrdiff_t>(std::min(first, c.size())), c.end(),
                     [](double v) { return v == 0; });
}

double coefficient(const std::vector<double>& c, std::size_t k) {
  return k < c.size() ? c[k] : 0.0;
}

// t[k] = the k-th derivative of the polynomial at c, over k!; at least one entry.
std::vector<double> taylor(const std::vector<double>& coefficients, double c) {
  std::vector<double> t = coefficients;
  if (t.empty()) t.push_back(0);
  for (std::size_t k = 0; k < t.size(); ++k) {
    for (std::size_t i = t.size() - 1; i-- > k;) t[i] += c * t[i + 1];
  }
  return t;
}

// Bound of a polynomial on the disc of radius r around c.
double polynomial_bound(const std::vector<double>& coefficients, double c, double r) {
  double s = 0, power = 1;
  for (const double t : taylor(coefficients, c)) s += std::abs(t) * power, power *= r;
  return s;
}

// The terms of exp(-rate d) sum_k c[k] d^k.
ExponentialSum jets(std::span<const double> c, double rate) {
  ExponentialSum sum;
  for (std::size_t k = 0; k < c.size(); ++k) {
    if (c[k] != 0) sum.terms.push_back({c[k], rate, static_cast<int>(k)});
  }
  return sum;
}

class ExponentialState final : public State {
 public:
  explicit ExponentialState(const Exponential& f) : State("exponential", {f.rate, f.scale}) {}
  double value(double d) const override { return at(1) * std::exp(-at(0) * d); }
  double derivative(std::size_t p, double d) const override {
    const double e = std::exp(-at(0) * d);
    return p == 0 ? -d * at(1) * e : e;
  }
  double disc_bound(double c, double r) const override { return std::abs(at(1)) * std::exp(-at(0) * c + std::abs(at(0)) * r); }
  std::optional<DistanceFunction> derivative_function(std::size_t p) const override {
    if (p == 1) return Exponential{at(0), 1};
    return PolynomialExponential{at(0), {0, -at(1)}};
  }
  DistanceFunction with(Parameters p) const override { return Exponential{p[0], p[1]}; }
  std::optional<ExponentialForm> exponential_form() const override { return ExponentialForm{at(1), -at(0)}; }
};

class DampedCosineState final : public State {
 public:
  explicit DampedCosineState(const DampedCosine& f) : State("damped cosine", {f.frequency, f.rate, f.scale}) {}
  double value(double d) const override { return at(2) * std::cos(at(0) * d) * std::exp(-at(1) * d); }
  double derivative(std::size_t p, double d) const override {
    const double e = std::exp(-at(1) * d), c = std::cos(at(0) * d);
    if (p == 0) return -d * at(2) * std::sin(at(0) * d) * e;
    return p == 1 ? -d * at(2) * c * e : c * e;
  }
  std::optional<ExponentialSum> exponential_terms() const override { return ExponentialSum{{{at(2), {at(1), -at(0)}, 0}}}; }
  // d cos(w d) / dw = -d sin(w d) is the real part of i d exp(i w d).
  std::optional<DistanceFunction> derivative_function(std::size_t p) const override {
    if (p == 2) return DampedCosine{at(0), at(1), 1};
    const std::complex<double> c = p == 0 ? std::complex<double>(0, at(2)) : std::complex<double>(-at(2), 0);
    return ExponentialSum{{{c, {at(1), -at(0)}, 1}}};
  }
  // |cos(w z)| <= cosh(w Im z).
  double disc_bound(double c, double r) const override {
    return std::abs(at(2)) * std::cosh(at(0) * r) * std::exp(-at(1) * c + std::abs(at(1)) * r);
  }
  DistanceFunction with(Parameters p) const override { return DampedCosine{p[0], p[1], p[2]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(2) == 0) return ExponentialForm{0, 0};
    if (at(0) == 0) return ExponentialForm{at(2), -at(1)};
    return std::nullopt;
  }
};

class ExponentiatedPolynomialState final : public State {
 public:
  explicit ExponentiatedPolynomialState(ExponentiatedPolynomial f)
      : State("exponentiated polynomial", std::move(f.coefficients)) {}
  double value(double d) const override { return std::exp(polynomial(parameters(), d)); }
  double derivative(std::size_t p, double d) const override { return std::pow(d, static_cast<double>(p)) * value(d); }
  double disc_bound(double c, double r) const override {
    const std::vector<double> t = taylor(parameters(), c);
    double s = t[0], power = 1;
    for (std::size_t k = 1; k < t.size(); ++k) power *= r, s += std::abs(t[k]) * power;
    return std::exp(s);
  }
  DistanceFunction with(Parameters p) const override { return ExponentiatedPolynomial{to_vector(p)}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (!zero_from(parameters(), 2)) return std::nullopt;
    return ExponentialForm{std::exp(coefficient(parameters(), 0)), coefficient(parameters(), 1)};
  }
};

class PolynomialState final : public State {
 public:
  explicit PolynomialState(Polynomial f) : State("polynomial", std::move(f.coefficients)) {}
  double value(double d) const override { return polynomial(parameters(), d); }
  double derivative(std::size_t p, double d) const override { return std::pow(d, static_cast<double>(p)); }
  std::optional<ExponentialSum> exponential_terms() const override { return jets(parameters(), 0); }
  double disc_bound(double c, double r) const override { return polynomial_bound(parameters(), c, r); }
  std::optional<DistanceFunction> derivative_function(std::size_t p) const override {
    std::vector<double> unit(p + 1);
    unit[p] = 1;
    return Polynomial{std::move(unit)};
  }
  DistanceFunction with(Parameters p) const override { return Polynomial{to_vector(p)}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (!zero_from(parameters(), 1)) return std::nullopt;
    return ExponentialForm{coefficient(parameters(), 0), 0};
  }
};

class PolynomialExponentialState final : public State {
 public:
  explicit PolynomialExponentialState(PolynomialExponential f)
      : State("polynomial times exponential", joined(f.rate, f.coefficients)), coefficients_(std::move(f.coefficients)) {}
  double value(double d) const override {
    const double p = polynomial(coefficients_, d);
    return p == 0 ? 0.0 : p * std::exp(-at(0) * d);
  }
  double derivative(std::size_t p, double d) const override {
    if (p == 0) return -d * value(d);
    return std::pow(d, static_cast<double>(p - 1)) * std::exp(-at(0) * d);
  }
  DistanceFunction with(Parameters p) const override { return PolynomialExponential{p[0], to_vector(p.subspan(1))}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (!zero_from(coefficients_, 1)) return std::nullopt;
    return ExponentialForm{coefficient(coefficients_, 0), coefficient(coefficients_, 0) == 0 ? 0 : -at(0)};
  }
  std::optional<ExponentialSum> exponential_terms() const override { return jets(coefficients_, at(0)); }
  double disc_bound(double c, double r) const override {
    return polynomial_bound(coefficients_, c, r) * std::exp(-at(0) * c + std::abs(at(0)) * r);
  }
  std::optional<DistanceFunction> derivative_function(std::size_t p) const override {
    PolynomialExponential f{at(0), std::vector<double>(p == 0 ? coefficients_.size() + 1 : p)};
    if (p > 0) f.coefficients[p - 1] = 1;
    for (std::size_t k = 0; p == 0 && k < coefficients_.size(); ++k) f.coefficients[k + 1] = -coefficients_[k];
    return f;
  }

 private:
  static std::vector<double> joined(double rate, const std::vector<double>& coefficients) {
    std::vector<double> all = {rate};
    all.insert(all.end(), coefficients.begin(), coefficients.end());
    return all;
  }
  std::vector<double> coefficients_;
};

class ExponentialSumState final : public State {
 public:
  explicit ExponentialSumState(ExponentialSum f) : State("sum of exponentials", {}), f_(std::move(f)) {
    for (const ExponentialTerm& t : f_.terms) {
      const bool finite = std::isfinite(std::abs(t.coefficient)) && std::isfinite(std::abs(t.decay));
      if (!finite || t.power < 0) {
        throw ValueError("sum of exponentials: a coefficient or decay is not finite, or a power is " + std::to_string(t.power) +
                         " (expected finite numbers, powers >= 0)");
      }
    }
  }
  double value(double d) const override { return f_(d); }
  double derivative(std::size_t, double) const override { return 0; }
  DistanceFunction with(Parameters) const override { return DistanceFunction(f_); }
  std::optional<ExponentialSum> exponential_terms() const override { return f_; }
  double disc_bound(double c, double r) const override { return f_.disc_bound(c, r); }

 private:
  ExponentialSum f_;
};

}  // namespace

DistanceFunction::DistanceFunction(ExponentialSum f) : state_(std::make_shared<ExponentialSumState>(std::move(f))) {}
DistanceFunction::DistanceFunction(Exponential f) : state_(std::make_shared<ExponentialState>(f)) {}
DistanceFunction::DistanceFunction(DampedCosine f) : state_(std::make_shared<DampedCosineState>(f)) {}
DistanceFunction::DistanceFunction(ExponentiatedPolynomial f)
    : state_(std::make_shared<ExponentiatedPolynomialState>(std::move(f))) {}
DistanceFunction::DistanceFunction(Polynomial f) : state_(std::make_shared<PolynomialState>(std::move(f))) {}
DistanceFunction::DistanceFunction(PolynomialExponential f)
    : state_(std::make_shared<PolynomialExponentialState>(std::move(f))) {}

}  // namespace espalier
