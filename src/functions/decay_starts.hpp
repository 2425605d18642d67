// Where the search for decays starts: a rational interpolation of the generating function, or a logarithmic grid.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "functions/fit_problem.hpp"

#include <Eigen/Core>

#include <complex>
#include <vector>

namespace espalier::fitting {

// Integers: the Loewner matrices of G(x) = F(z) / (1 + x), F(z) = sum_k f(first + k) z^k, z = (1 - x) / (1 + x), at points with
// z^n = -1, reduced by one singular value decomposition: a term c exp(-s d) is a pole of G at x = -tanh(s / 2), whatever
// the length n of the sum, and decays of every order of magnitude lie side by side on a logarithmic scale. Source: N.
// Derevianko, G. Plonka, M. Petz, "From ESPRIT to ESPIRA", IMA J. Numer. Anal. 43 (2023) 789, section 4 (points on the unit
// circle make the truncated sum rational); A. Mayo, A. Antoulas, Linear Algebra Appl. 425 (2007) 634, section 3.
class LoewnerStart {
 public:
  // refined: more points around the highest peaks of the spectrum, for functions that oscillate with little or slow decay; and
  // where the allowed error follows |f|, the same one at all frequencies.
  LoewnerStart(Problem& problem, bool refined);
  // Singular values, descending, in units of what the tolerance allows.
  const Eigen::VectorXd& singular_values() const { return values_; }
  // How many are above a bound.
  Index order(double bound) const;
  // The decays of the reduction to `slots` states; Re s > 0, one of each conjugate pair.
  std::vector<std::complex<double>> decays(Index slots) const;

 private:
  struct Points;
  void reduce(const Points& points);

  bool integers_;
  double slowest_, fastest_;
  Eigen::VectorXd values_;
  Eigen::MatrixXcd shifted_;  // the second Loewner matrix in the singular basis
};

// Real decays, evenly spaced in the logarithm over the range that the samples can tell apart.
std::vector<std::complex<double>> logarithmic_decays(const Problem& problem, Index count);

}  // namespace espalier::fitting
