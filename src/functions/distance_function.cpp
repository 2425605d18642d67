// DistanceFunction: one erased type over all forms, views of derivatives, and the recognition of exponentials.
// SPDX-License-Identifier: Apache-2.0
#include "functions/function_state.hpp"

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>

#include "core/number_text.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace espalier {

DistanceFunction::State::State(std::string name, std::vector<double> parameters)
    : name_(std::move(name)), parameters_(std::move(parameters)) {
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    if (!std::isfinite(parameters_[p])) {
      throw ValueError(name_ + ": parameter " + std::to_string(p) + " is " + number_text(parameters_[p]) +
                       ", expected a finite number");
    }
  }
}
std::optional<ExponentialSum> DistanceFunction::State::exponential_terms() const {
  const auto form = exponential_form();
  if (!form) return std::nullopt;
  if (form->factor == 0) return ExponentialSum{};
  return ExponentialSum{{{form->factor, -form->slope, 0}}};
}
double DistanceFunction::State::disc_bound(double, double) const {
  return std::numeric_limits<double>::infinity();
}
double DistanceFunction::State::variation(double, double) const {
  return std::numeric_limits<double>::infinity();
}
std::optional<DistanceFunction> DistanceFunction::State::derivative_function(std::size_t) const {
  return std::nullopt;
}

namespace {

// d -> df / d parameters()[p]; keeps f alive.
class DerivativeState final : public DistanceFunction::State {
 public:
  DerivativeState(std::shared_ptr<const DistanceFunction::State> f, std::size_t parameter)
      : State("derivative " + std::to_string(parameter) + " of " + f->name(), {}), f_(std::move(f)), parameter_(parameter) {}
  double value(double d) const override { return f_->derivative(parameter_, d); }
  double derivative(std::size_t, double) const override { return 0; }
  DistanceFunction with(std::span<const double>) const override {
    return DistanceFunction(Callable{[f = f_, p = parameter_](double d) { return f->derivative(p, d); }, name()});
  }
  double last_integer() const override { return f_->last_integer(); }

 private:
  std::shared_ptr<const DistanceFunction::State> f_;
  std::size_t parameter_;
};

}  // namespace

DistanceFunction::DistanceFunction(std::shared_ptr<const State> state) : state_(std::move(state)) {}

double DistanceFunction::operator()(double distance) const {
  return state_->value(distance);
}
std::span<const double> DistanceFunction::parameters() const {
  return state_->parameters();
}
void DistanceFunction::check_parameter(std::size_t parameter) const {
  if (parameter < state_->parameters().size()) return;
  throw ValueError(state_->name() + ": no parameter " + std::to_string(parameter) + ", it has " +
                   std::to_string(state_->parameters().size()));
}
double DistanceFunction::derivative(std::size_t parameter, double distance) const {
  check_parameter(parameter);
  return state_->derivative(parameter, distance);
}
DistanceFunction DistanceFunction::with_parameters(std::span<const double> parameters) const {
  if (parameters.size() != state_->parameters().size()) {
    throw ShapeError(state_->name() + ": parameters", static_cast<Index>(parameters.size()),
                     static_cast<Index>(state_->parameters().size()));
  }
  return state_->with(parameters);
}
DistanceFunction DistanceFunction::derivative_function(std::size_t parameter) const {
  check_parameter(parameter);
  if (auto closed = state_->derivative_function(parameter)) return *closed;
  return DistanceFunction(std::make_shared<DerivativeState>(state_, parameter));
}
std::optional<ExponentialSum> DistanceFunction::exponential_terms() const {
  return state_->exponential_terms();
}
std::optional<ConstantPieces> DistanceFunction::constant_pieces() const {
  return state_->constant_pieces();
}
double DistanceFunction::disc_bound(double centre, double radius) const {
  return state_->disc_bound(centre, radius);
}
double DistanceFunction::variation(double first, double last) const {
  return state_->variation(first, last);
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
