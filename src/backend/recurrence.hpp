// Backend primitive: one token through the states of a sum of exponentials.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

namespace espalier::backend {

// States S_q, q < count, each m x width numbers in double (width: c + 1 rounded up to a multiple of 8, the last used column for
// the row sum; padding zero). Coefficients of this token, all [count]:
//   S_q += decay_q S_q + sum over its couplings w S_q' + in_q b [x, 1]ᵀ           q' > q, as they were before
//   y = sum_i a_i (sum_q out_q S_q)_i                                             not computed where y is null
struct RecurrenceStep {
  Index count, m, width;
  const double* decay;  // expm1 of minus the decay
  const double* in;
  const double* out;
  const Index* couple_start;  // null: none
  const Index* couple_state;
  const double* couple_weight;
};
// a: [m], b: [m], x: [width] with 1 behind the values and zeros behind that, y: [width].
void recurrence_step(const RecurrenceStep& step, const double* a, const double* b, const double* x, double* state, double* y);

}  // namespace espalier::backend
