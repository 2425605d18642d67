// The data of one fit: values of f, what error is allowed where, and graded samples that stand for all distances.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/exponential_sum.hpp>

#include <Eigen/Core>

#include <array>
#include <stop_token>
#include <vector>

namespace espalier::fitting {

// Points chosen so that on each piece between them f is a polynomial of degree 7 up to a twentieth of the allowed error.
struct Samples {
  Eigen::VectorXd distance, value;
  Eigen::VectorXd share;    // how many integers (or how much length) a sample stands for
  Eigen::VectorXd allowed;  // |f~ - f| that spends the tolerance evenly
  Index needed = 0;         // samples that f needs, before a rough function is thinned out
  bool rough = false;       // real ranges: so many that sampling was given up
};

struct Problem {
  const DistanceFunction* f = nullptr;
  bool integers = true;
  double first = 0, last = 0;  // fitted distances
  std::vector<double> all;     // integers: f(0) .. f(count - 1)
  std::vector<double> norm;    // integers: norm[k] = sum of |all| up to and including k
  double largest = 0;          // max |f| over all distances
  double tolerance = 0, max_amplification = 0;
  ToleranceKind kind = ToleranceKind::row;
  bool one_sided = false;
  Index max_slots = 0;
  double floor = 0;  // real ranges, kind row: |f(0)| / entries of a row, which every entry may err by in proportion
  Samples samples;
  std::vector<std::array<double, 2>> pieces;  // real ranges: where f is a polynomial of degree 7
  Index evaluations = 0, solves = 0;
  double work = 0;
  std::stop_token stop{};

  // Throws Cancelled where a stop was asked for.
  void look() const;
  // The error allowed at a distance whose value is y.
  double allowed(double d, double y) const;
  // By how much the errors at the samples pass the tolerance; <= 1: met, as far as samples tell.
  double excess(const Eigen::VectorXd& error) const;
};

Problem integer_problem(const DistanceFunction& f, Index count, const FitOptions& options);
Problem range_problem(const DistanceFunction& f, RealRange range, const FitOptions& options);
// Fills problem.samples.
void take_samples(Problem& problem);

}  // namespace espalier::fitting
