// Sums of exponentials as values: the terms, and their sum at one distance or at many.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <complex>
#include <span>
#include <vector>

namespace espalier {

// Re( coefficient d^power exp(-decay d) ). A term whose coefficient and decay have no imaginary part is real; any other
// stands for itself and its conjugate, of which the real part is (twice) the half.
struct ExponentialTerm {
  std::complex<double> coefficient{}, decay{};
  int power = 0;

  bool real() const { return coefficient.imag() == 0 && decay.imag() == 0; }
};

// f~(d) = Re sum_k c_k d^{p_k} exp(-s_k d), d >= 0.
struct ESPALIER_EXPORT ExponentialSum {
  std::vector<ExponentialTerm> terms;

  double operator()(double d) const;
  // out[k] = f~(first + k). Cost: 2 slots() multiply-adds a distance; exponentials are taken once in 64 distances.
  // Accuracy: (4 + |s| d) eps of each term. Errors: ValueError for first < 0.
  void evaluate(Index first, std::span<double> out) const;
  // out[k] = f~(distances[k]), each on its own.
  void evaluate(std::span<const double> distances, std::span<double> out) const;

  // Real numbers of state that a recurrence over this sum carries: 1 for a real decay, 2 for a complex one, times the highest
  // power + 1 (terms of one decay share their states).
  Index slots() const;
  // Upper bound of sum_k |c_k d^{p_k} exp(-s_k d)| over first <= d <= last, from the largest value of each term.
  double magnitude(double first, double last) const;
  // Upper bound of |f~(z)| over |z - centre| <= radius in the complex plane.
  double disc_bound(double centre, double radius) const;
  // Least Re s; infinity without terms. Negative: the sum grows.
  double least_decay() const;
};

}  // namespace espalier
