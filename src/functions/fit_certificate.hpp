// The errors of a sum of exponentials, checked at every integer or bounded on every piece of a real range.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "functions/fit_problem.hpp"

namespace espalier::fitting {

struct Checked {
  Certificate certificate{};
  Index negative = 0;
  double amplification = 0;
};

// Exhaustive, on the integers; rounding of the check added.
Checked check_integers(const Problem& problem, const ExponentialSum& sum);
// Proved piece by piece, or sampled (estimated) where f has no bounds.
Checked check_range(Problem& problem, const ExponentialSum& sum);

}  // namespace espalier::fitting
