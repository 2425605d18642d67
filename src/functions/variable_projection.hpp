// Least squares over decays: coefficients are eliminated (variable projection), decays are polished.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "functions/fit_problem.hpp"

#include <Eigen/Core>

#include <complex>
#include <vector>

namespace espalier::fitting {

// Decays with Im >= 0; a real one is a column exp(-s d), a complex one two, exp(-a d) cos(b d) and exp(-a d) sin(b d); with
// `powers` > 0 each column is repeated times d / last, (d / last)^2, ... (jets).
struct Basis {
  std::vector<std::complex<double>> decays;
  int powers = 0;
  Index columns() const;
};

struct Solution {
  Basis basis;
  Eigen::VectorXd coefficients;  // one a column, for distances counted from problem.first
  Eigen::VectorXd error;         // f~ - f at the samples
  double cost = 0;               // weighted sum of squares; about 1 where the tolerance is just met
  double excess = 0;             // Problem::excess(error)
};

// Coefficients of a fixed basis by weighted, slightly damped least squares; weight: one a sample, squared.
Solution project(Problem& problem, const Basis& basis, const Eigen::VectorXd& weight);
// The weights that belong to the problem's kind of tolerance.
Eigen::VectorXd first_weights(const Problem& problem);
// Polishes decays (no jets): Levenberg-Marquardt with the Jacobian of Kaufman, at most `steps` steps, then up to `rounds` times
// new weights that move the norm from squares towards the one of the tolerance, and a few more steps.
Solution polish(Problem& problem, const Basis& start, int steps, int rounds);

// The solution as terms for distances counted from 0.
ExponentialSum to_sum(const Problem& problem, const Solution& solution);

}  // namespace espalier::fitting
