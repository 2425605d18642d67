// The terms of a sum of exponentials by decay: what a recurrence over the sum carries states for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/exponential_term.hpp>

#include <complex>
#include <vector>

namespace espalier {

// Terms of one decay share their states: one for each power up to the highest, a pair of them where some term is not real.
struct DecayGroup {
  std::complex<double> decay;
  bool real = true;
  std::vector<std::complex<double>> coefficients;  // by power
  int width() const { return real ? 1 : 2; }
};

// In the order of first appearance.
std::vector<DecayGroup> decay_groups(const ExponentialSum& sum);

// n!, for powers of the distance.
double factorial(int n);

}  // namespace espalier
