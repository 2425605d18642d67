// Functions of a distance or of a signed offset, as values: closed forms with parameters, tables, callables.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>
#include <espalier/functions/exponential_term.hpp>

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
struct PowerLaw {  // f(d) = scale (1 + d / width)^-exponent, width > 0, d > -width
  double width = 1;
  double exponent = 1;
  double scale = 1;
};
struct StretchedExponential {  // f(d) = scale exp(-(d / width)^exponent), width > 0, exponent > 0, d >= 0
  double width = 1;
  double exponent = 0.5;
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
struct PolynomialExponential {  // f(d) = exp(-rate d) sum_k coefficients[k] d^k; parameters: rate, coefficients
  double rate = 1;
  std::vector<double> coefficients;
};
// f(d) = values[k] for breakpoints[k - 1] <= d < breakpoints[k] (the first piece starts at -infinity, the last ends at
// infinity); breakpoints ascend strictly, one fewer than values. Parameters: the values.
struct PiecewiseConstant {
  std::vector<double> breakpoints, values;
};
struct FunctionTable {  // f(d) = values[d] for integers 0 <= d < size; any other d is a FunctionError
  std::vector<double> values;
  std::string name = "table";
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

// The distance buckets of T5 for one side, values[k] the weight of bucket k of n = values.size() >= 2: with e = n / 2, bucket d
// for d < e, beyond that bucket e + floor((n - e) log(d / e) / log(furthest / e)), at most n - 1. In exact arithmetic (integer
// distances on a border of buckets may round the other way in float). Errors: ValueError for n < 2, furthest <= e.
// Source: C. Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", JMLR 21
// (2020) 140, section 2.1; the formula is that of the published code.
ESPALIER_EXPORT PiecewiseConstant logarithmic_buckets(std::vector<double> values, double furthest);

// The pieces of a function that is constant between breakpoints; views into it.
struct ConstantPieces {
  std::span<const double> breakpoints, values;
};

// A type-erased function of one real number; immutable, cheap to copy (shared state).
class ESPALIER_EXPORT DistanceFunction {
 public:
  // Errors: ValueError for NaN or infinite parameters and for those the closed form excludes.
  DistanceFunction(Exponential);
  DistanceFunction(Gaussian);
  DistanceFunction(Rational);
  DistanceFunction(PowerLaw);
  DistanceFunction(StretchedExponential);
  DistanceFunction(DampedCosine);
  DistanceFunction(ExponentiatedPolynomial);
  DistanceFunction(Polynomial);
  DistanceFunction(PolynomialExponential);
  DistanceFunction(PiecewiseConstant);
  DistanceFunction(ExponentialSum);  // no parameters
  DistanceFunction(FunctionTable);
  DistanceFunction(Callable);

  double operator()(double distance) const;
  std::span<const double> parameters() const;
  // df / d parameters()[p] at this distance.
  double derivative(std::size_t parameter, double distance) const;
  DistanceFunction with_parameters(std::span<const double> parameters) const;
  // d -> derivative(parameter, d): a closed form where the family has it, otherwise a view without parameters of its own.
  DistanceFunction derivative_function(std::size_t parameter) const;
  // The closed form factor exp(slope d), where f is one by construction.
  std::optional<ExponentialForm> exponential_form() const;
  // f as a finite sum of exponentials, where it is one by construction (growing ones included): equal in exact arithmetic.
  std::optional<ExponentialSum> exponential_terms() const;
  // The pieces, where f is constant between breakpoints by construction. Valid as long as a copy of f lives.
  std::optional<ConstantPieces> constant_pieces() const;
  // Upper bound of |f(z)| over |z - centre| <= radius in the complex plane; infinity where f is not analytic there, or where
  // nothing is known of it (tables, callables).
  double disc_bound(double centre, double radius) const;
  // Upper bound of max f - min f over 0 <= first <= d <= last; infinity where unknown.
  double variation(double first, double last) const;
  std::string name() const;
  // Tables: the largest argument; arguments are the integers 0 .. last_integer(). Other functions take any number: -1.
  double last_integer() const;

  class State;  // the erased closed form, defined in the source

 private:
  void check_parameter(std::size_t parameter) const;
  explicit DistanceFunction(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

// Whether |f(d) - c e^{a d}| <= 1e-12 |f(d)| at 64 seeded points of [0, range] for some a, c (f = 0 included): then (c, a).
// Tables are looked at over the integers of the range that they have. Errors: ValueError for a negative or infinite range.
ESPALIER_EXPORT std::optional<ExponentialForm> recognise_exponential(const DistanceFunction& f, double range);

}  // namespace espalier
