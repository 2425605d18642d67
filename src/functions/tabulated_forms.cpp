// Functions given by their values: tables, pieces, callables.
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

class FunctionTableState final : public State {
 public:
  explicit FunctionTableState(FunctionTable f) : State(std::move(f.name), std::move(f.values)) {
    if (parameters().empty()) throw ValueError("table: no values, expected at least the value at d = 0");
  }
  double value(double d) const override { return at(index(d)); }
  double derivative(std::size_t p, double d) const override { return index(d) == p ? 1.0 : 0.0; }
  DistanceFunction with(Parameters p) const override { return FunctionTable{{p.begin(), p.end()}, name()}; }
  std::optional<DistanceFunction> derivative_function(std::size_t p) const override {
    std::vector<double> unit(parameters().size());
    unit[p] = 1;
    return FunctionTable{std::move(unit), name()};
  }
  double last_integer() const override { return static_cast<double>(parameters().size() - 1); }

 private:
  std::size_t index(double d) const {
    if (!(d >= 0 && d <= last_integer() && d == std::floor(d))) {
      throw FunctionError(name(), "no value at d = " + number_text(d) + ", expected an integer from 0 to " +
                                      std::to_string(parameters().size() - 1));
    }
    return static_cast<std::size_t>(d);
  }
};

class PiecewiseConstantState final : public State {
 public:
  explicit PiecewiseConstantState(PiecewiseConstant f)
      : State("piecewise constant", f.values), breakpoints_(std::move(f.breakpoints)) {
    if (f.values.size() != breakpoints_.size() + 1) {
      throw ShapeError("piecewise constant: values", static_cast<Index>(f.values.size()),
                       static_cast<Index>(breakpoints_.size() + 1));
    }
    for (std::size_t k = 0; k < breakpoints_.size(); ++k) {
      if (!std::isfinite(breakpoints_[k]) || (k > 0 && !(breakpoints_[k] > breakpoints_[k - 1]))) {
        throw ValueError("piecewise constant: breakpoint " + std::to_string(k) + " is " + number_text(breakpoints_[k]) +
                         ", expected finite numbers that ascend strictly");
      }
    }
  }
  double value(double d) const override { return at(piece(d)); }
  double derivative(std::size_t p, double d) const override { return piece(d) == p ? 1.0 : 0.0; }
  DistanceFunction with(Parameters p) const override { return PiecewiseConstant{breakpoints_, {p.begin(), p.end()}}; }
  std::optional<ConstantPieces> constant_pieces() const override { return ConstantPieces{breakpoints_, parameters()}; }
  double disc_bound(double c, double r) const override {
    return piece(c - r) == piece(c + r) ? std::abs(value(c)) : std::numeric_limits<double>::infinity();
  }
  double variation(double a, double b) const override {
    const auto first = parameters().begin() + static_cast<std::ptrdiff_t>(piece(a));
    const auto [low, high] = std::minmax_element(first, parameters().begin() + static_cast<std::ptrdiff_t>(piece(b)) + 1);
    return *high - *low;
  }
  std::optional<ExponentialForm> exponential_form() const override {
    for (const double v : parameters()) {
      if (v != at(0)) return std::nullopt;
    }
    return ExponentialForm{at(0), 0};
  }
  std::optional<DistanceFunction> derivative_function(std::size_t p) const override {
    std::vector<double> unit(parameters().size());
    unit[p] = 1;
    return PiecewiseConstant{breakpoints_, std::move(unit)};
  }

 private:
  std::size_t piece(double d) const {
    if (std::isnan(d)) throw ValueError("piecewise constant: no value at d = nan");
    return static_cast<std::size_t>(std::upper_bound(breakpoints_.begin(), breakpoints_.end(), d) - breakpoints_.begin());
  }
  std::vector<double> breakpoints_;
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

DistanceFunction::DistanceFunction(FunctionTable f) : state_(std::make_shared<FunctionTableState>(std::move(f))) {}
DistanceFunction::DistanceFunction(PiecewiseConstant f) : state_(std::make_shared<PiecewiseConstantState>(std::move(f))) {}
DistanceFunction::DistanceFunction(Callable f) : state_(std::make_shared<CallableState>(std::move(f))) {}

PiecewiseConstant logarithmic_buckets(std::vector<double> values, double furthest) {
  const auto n = values.size(), exact = n / 2;
  if (n < 2 || !(furthest > static_cast<double>(exact)) || !std::isfinite(furthest)) {
    throw ValueError("logarithmic_buckets: " + std::to_string(n) + " values up to distance " + number_text(furthest) +
                     ", expected at least 2, and a distance above " + std::to_string(exact));
  }
  PiecewiseConstant f;
  const double base = furthest / static_cast<double>(exact);
  for (std::size_t k = 1; k < n; ++k) {
    const double share = static_cast<double>(k) - static_cast<double>(exact);
    double border = share <= 0 ? static_cast<double>(k)
                               : static_cast<double>(exact) * std::pow(base, share / static_cast<double>(n - exact));
    // A border that is a whole number in exact arithmetic must not be missed by a rounding.
    if (std::abs(border - std::round(border)) <= 1e-12 * border) border = std::round(border);
    if (!f.breakpoints.empty() && !(border > f.breakpoints.back())) continue;
    f.breakpoints.push_back(border);
  }
  f.values = std::move(values);
  return f;
}

}  // namespace espalier
