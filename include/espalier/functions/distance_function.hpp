// Functions of a distance or of a signed offset, as values: closed forms with parameters, tables, callables.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace espalier {

// Closed forms. Parameters appear in `parameters()` in the order of the members.
struct Exponential {  // f(d) = scale exp(-rate d)
  double rate = 1;
  double scale = 1;
};
struct Gaussian {  // f(d) = scale exp(-(d / width)^2), width != 0
  double width = 1;
  double scale = 1;
};
struct Rational {  // f(d) = scale / (1 + (d / width)^power), width > 0, d >= 0
  double width = 1;
  double power = 1;
  double scale = 1;
};
struct DampedCosine {  // f(d) = scale cos(frequency d) exp(-rate d)
  double frequency = 1;
  double rate = 1;
  double scale = 1;
};
struct ExponentiatedPolynomial {  // f(d) = exp(sum_k coefficients[k] d^k)
  std::vector<double> coefficients;
};
struct Polynomial {  // f(d) = sum_k coefficients[k] d^k
  std::vector<double> coefficients;
};
struct FunctionTable {  // f(d) = values[d] for integers 0 <= d < size; any other d is a ValueError
  std::vector<double> values;
};
// Any callable; its derivatives are unknown, so it has no parameters. Must be safe to call from several threads.
struct Callable {
  std::function<double(double)> f;
  std::string name = "callable";
};

// f(d) = factor exp(slope d), the functions that a tree sweep can integrate exactly; factor may be 0 or negative.
struct ExponentialForm {
  double factor, slope;
};

// A type-erased function of one real number; immutable, cheap to copy (shared state).
class ESPALIER_EXPORT DistanceFunction {
 public:
  // Errors: ValueError for NaN or infinite parameters and for those the closed form excludes.
  DistanceFunction(Exponential);
  DistanceFunction(Gaussian);
  DistanceFunction(Rational);
  DistanceFunction(DampedCosine);
  DistanceFunction(ExponentiatedPolynomial);
  DistanceFunction(Polynomial);
  DistanceFunction(FunctionTable);
  DistanceFunction(Callable);

  double operator()(double distance) const;
  std::span<const double> parameters() const;
  // df / d parameters()[p] at this distance.
  double derivative(std::size_t parameter, double distance) const;
  DistanceFunction with_parameters(std::span<const double> parameters) const;
  // The closed form factor exp(slope d), where f is one by construction.
  std::optional<ExponentialForm> exponential_form() const;
  std::string name() const;
  // Tables: the largest argument; arguments are the integers 0 .. last_integer(). Other functions take any number: -1.
  double last_integer() const;

  class State;  // the erased closed form, defined in the source

 private:
  explicit DistanceFunction(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

// Whether |f(d) - c e^{a d}| <= 1e-12 |f(d)| at 64 seeded points of [0, range] for some a, c (f = 0 included): then (c, a).
// Tables are looked at over the integers of the range that they have. Errors: ValueError for a negative or infinite range.
ESPALIER_EXPORT std::optional<ExponentialForm> recognise_exponential(const DistanceFunction& f, double range);

}  // namespace espalier
