// DistanceFunction: the closed forms behind one erased type, and the recognition of exponentials.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/functions/distance_function.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace espalier {

class DistanceFunction::State {
 public:
  State(std::string name, std::vector<double> parameters) : name_(std::move(name)), parameters_(std::move(parameters)) {
    for (std::size_t p = 0; p < parameters_.size(); ++p) {
      if (!std::isfinite(parameters_[p])) {
        throw ValueError(name_ + ": parameter " + std::to_string(p) + " is " + std::to_string(parameters_[p]) +
                         ", expected a finite number");
      }
    }
  }
  virtual ~State() = default;
  virtual double value(double d) const = 0;
  virtual double derivative(std::size_t p, double d) const = 0;
  virtual DistanceFunction with(std::span<const double> parameters) const = 0;
  virtual std::optional<ExponentialForm> exponential_form() const { return std::nullopt; }
  // Largest argument where only integers 0 .. last are arguments at all; negative: any real number is.
  virtual double last_integer() const { return -1; }

  const std::string& name() const { return name_; }
  const std::vector<double>& parameters() const { return parameters_; }

 protected:
  double at(std::size_t p) const { return parameters_[p]; }

 private:
  std::string name_;
  std::vector<double> parameters_;
};

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

class ExponentialState final : public State {
 public:
  explicit ExponentialState(const Exponential& f) : State("exponential", {f.rate, f.scale}) {}
  double value(double d) const override { return at(1) * std::exp(-at(0) * d); }
  double derivative(std::size_t p, double d) const override {
    const double e = std::exp(-at(0) * d);
    return p == 0 ? -d * at(1) * e : e;
  }
  DistanceFunction with(Parameters p) const override { return Exponential{p[0], p[1]}; }
  std::optional<ExponentialForm> exponential_form() const override { return ExponentialForm{at(1), -at(0)}; }
};

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
  DistanceFunction with(Parameters p) const override { return Gaussian{p[0], p[1]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(1) == 0) return ExponentialForm{0, 0};
    return std::nullopt;
  }
};

class RationalState final : public State {
 public:
  explicit RationalState(const Rational& f) : State("rational", {f.width, f.power, f.scale}) {
    if (f.width <= 0) throw ValueError("rational: width is " + std::to_string(f.width) + ", expected a number > 0");
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
  DistanceFunction with(Parameters p) const override { return Rational{p[0], p[1], p[2]}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (at(2) == 0) return ExponentialForm{0, 0};
    if (at(1) == 0) return ExponentialForm{at(2) / 2, 0};
    return std::nullopt;
  }

 private:
  double term(double d) const {
    if (d < 0) throw ValueError("rational: defined for d >= 0, got " + std::to_string(d));
    return std::pow(d / at(0), at(1));
  }
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
  DistanceFunction with(Parameters p) const override { return Polynomial{to_vector(p)}; }
  std::optional<ExponentialForm> exponential_form() const override {
    if (!zero_from(parameters(), 1)) return std::nullopt;
    return ExponentialForm{coefficient(parameters(), 0), 0};
  }
};

class FunctionTableState final : public State {
 public:
  explicit FunctionTableState(FunctionTable f) : State("table", std::move(f.values)) {
    if (parameters().empty()) throw ValueError("table: no values, expected at least the value at d = 0");
  }
  double value(double d) const override { return at(index(d)); }
  double derivative(std::size_t p, double d) const override { return index(d) == p ? 1.0 : 0.0; }
  DistanceFunction with(Parameters p) const override { return FunctionTable{to_vector(p)}; }
  double last_integer() const override { return static_cast<double>(parameters().size() - 1); }

 private:
  std::size_t index(double d) const {
    if (!(d >= 0 && d <= last_integer() && d == std::floor(d))) {
      throw ValueError("table: no value at d = " + std::to_string(d) + ", expected an integer from 0 to " +
                       std::to_string(parameters().size() - 1));
    }
    return static_cast<std::size_t>(d);
  }
};

class CallableState final : public State {
 public:
  explicit CallableState(Callable f) : State(std::move(f.name), {}), f_(std::move(f.f)) {
    if (!f_) throw ValueError("callable: empty, expected a function of one number");
  }
  double value(double d) const override { return f_(d); }
  double derivative(std::size_t, double) const override { return 0; }
  DistanceFunction with(Parameters) const override { return Callable{f_, name()}; }

 private:
  std::function<double(double)> f_;
};

}  // namespace

DistanceFunction::DistanceFunction(Exponential f) : state_(std::make_shared<ExponentialState>(f)) {}
DistanceFunction::DistanceFunction(Gaussian f) : state_(std::make_shared<GaussianState>(f)) {}
DistanceFunction::DistanceFunction(Rational f) : state_(std::make_shared<RationalState>(f)) {}
DistanceFunction::DistanceFunction(DampedCosine f) : state_(std::make_shared<DampedCosineState>(f)) {}
DistanceFunction::DistanceFunction(ExponentiatedPolynomial f)
    : state_(std::make_shared<ExponentiatedPolynomialState>(std::move(f))) {}
DistanceFunction::DistanceFunction(Polynomial f) : state_(std::make_shared<PolynomialState>(std::move(f))) {}
DistanceFunction::DistanceFunction(FunctionTable f) : state_(std::make_shared<FunctionTableState>(std::move(f))) {}
DistanceFunction::DistanceFunction(Callable f) : state_(std::make_shared<CallableState>(std::move(f))) {}
DistanceFunction::DistanceFunction(std::shared_ptr<const State> state) : state_(std::move(state)) {}

double DistanceFunction::operator()(double distance) const {
  return state_->value(distance);
}
std::span<const double> DistanceFunction::parameters() const {
  return state_->parameters();
}
double DistanceFunction::derivative(std::size_t parameter, double distance) const {
  if (parameter >= state_->parameters().size()) {
    throw ValueError(state_->name() + ": no parameter " + std::to_string(parameter) + ", it has " +
                     std::to_string(state_->parameters().size()));
  }
  return state_->derivative(parameter, distance);
}
DistanceFunction DistanceFunction::with_parameters(std::span<const double> parameters) const {
  if (parameters.size() != state_->parameters().size()) {
    throw ShapeError(state_->name() + ": parameters", static_cast<Index>(parameters.size()),
                     static_cast<Index>(state_->parameters().size()));
  }
  return state_->with(parameters);
}
std::optional<ExponentialForm> DistanceFunction::exponential_form() const {
  return state_->exponential_form();
}
std::string DistanceFunction::name() const {
  return state_->name();
}
double DistanceFunction::last_integer() const {
  return state_->last_integer();
}

namespace {

// 0, range, and 62 seeded points: half of them uniform, half uniform in the logarithm down to 1e-9 range, so that functions
// that underflow over most of a long range still show themselves. For tables: integers.
std::vector<double> sample_points(double range, bool integers) {
  std::vector<double> d = {0.0, range};
  const Random random(64);
  for (std::uint64_t k = 0; k < 62; ++k) {
    const double u = random.uniform(k);
    d.push_back(k % 2 == 0 ? range * u : range * std::pow(10.0, -9 * u));
  }
  if (integers) {
    for (double& v : d) v = std::floor(v);
  }
  return d;
}

}  // namespace

std::optional<ExponentialForm> recognise_exponential(const DistanceFunction& f, double range) {
  if (!(range >= 0) || !std::isfinite(range)) throw ValueError("recognise_exponential: range must be finite and >= 0");
  if (const auto form = f.exponential_form()) return form;
  const bool integers = f.last_integer() >= 0;
  if (integers && f.last_integer() < range) range = f.last_integer();
  const std::vector<double> d = sample_points(range, integers);
  std::vector<double> value;
  value.reserve(d.size());
  for (const double x : d) value.push_back(f(x));
  if (!std::all_of(value.begin(), value.end(), [](double v) { return std::isfinite(v); })) return std::nullopt;
  if (std::all_of(value.begin(), value.end(), [](double v) { return v == 0; })) return ExponentialForm{0, 0};

  // Least squares of log |f| on d over the values that have not underflowed; centred, in long double, because the slope must
  // hold to 1e-12 of a logarithm that may be 700.
  constexpr double kSmallest = std::numeric_limits<double>::min();
  long double n = 0, mean_d = 0, mean_log = 0;
  for (std::size_t k = 0; k < d.size(); ++k) {
    if (std::abs(value[k]) < kSmallest) continue;
    n += 1, mean_d += d[k], mean_log += std::log(std::abs(static_cast<long double>(value[k])));
  }
  if (n == 0) return std::nullopt;
  mean_d /= n, mean_log /= n;
  long double square = 0, cross = 0;
  for (std::size_t k = 0; k < d.size(); ++k) {
    if (std::abs(value[k]) < kSmallest) continue;
    const long double u = d[k] - mean_d;
    square += u * u, cross += u * (std::log(std::abs(static_cast<long double>(value[k]))) - mean_log);
  }
  const long double slope = square > 0 ? cross / square : 0.0L;
  const double sign = value[0] < 0 ? -1.0 : 1.0;
  const long double intercept = mean_log - slope * mean_d;
  for (std::size_t k = 0; k < d.size(); ++k) {
    const long double fitted = sign * std::exp(intercept + slope * d[k]);
    const bool underflowed = std::abs(value[k]) < kSmallest && std::abs(fitted) < 2 * kSmallest;
    if (!underflowed && !(std::abs(value[k] - fitted) <= 1e-12L * std::abs(value[k]))) return std::nullopt;
  }
  return ExponentialForm{static_cast<double>(sign * std::exp(intercept)), static_cast<double>(slope)};
}

}  // namespace espalier
