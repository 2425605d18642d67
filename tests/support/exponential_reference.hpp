// The errors of a sum of exponentials against a function, by a slow loop in long double: what certificates are held to.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/exponential_sum.hpp>

#include <string>
#include <vector>

namespace espalier::test {

// Re sum_k c_k d^{p_k} exp(-s_k d), each term on its own.
long double exponential_value(const ExponentialSum& sum, long double d);

struct TrueErrors {
  long double row = 0, entry = 0, pointwise = 0;
  bool zero_row = false;  // a row of norm 0 with an error in it
  // Fitted distances with f >= 0 and f~ < 0: for certain, and with those where f~ is 0 up to rounding.
  Index negative = 0, perhaps_negative = 0;
};

// On the integers 0 .. count-1, row by row: every row of the mask is summed anew.
TrueErrors true_errors(const DistanceFunction& f, const ExponentialSum& sum, Index count, Index first, bool one_sided);

// Everything that a fit promises and does not keep; empty: all is well. The certificate, the counts, the bounds of the options.
std::vector<std::string> broken_promises(const ExponentialFit& fit, const DistanceFunction& f, Index count,
                                         const FitOptions& options);

}  // namespace espalier::test
