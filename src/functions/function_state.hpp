// The state behind a DistanceFunction: what every closed form, table and callable has to answer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/distance_function.hpp>

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace espalier {

class DistanceFunction::State {
 public:
  State(std::string name, std::vector<double> parameters);
  virtual ~State() = default;
  virtual double value(double d) const = 0;
  virtual double derivative(std::size_t p, double d) const = 0;
  virtual DistanceFunction with(std::span<const double> parameters) const = 0;
  virtual std::optional<ExponentialForm> exponential_form() const { return std::nullopt; }
  virtual std::optional<ExponentialSum> exponential_terms() const;
  virtual std::optional<ConstantPieces> constant_pieces() const { return std::nullopt; }
  virtual double disc_bound(double centre, double radius) const;
  virtual double variation(double first, double last) const;
  // nullopt: no closed form; the caller wraps `derivative`.
  virtual std::optional<DistanceFunction> derivative_function(std::size_t p) const;
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

}  // namespace espalier
