// The errors of a mask as applied, in the three measures of a certificate, from both matrices.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "support/reference.hpp"

namespace espalier::test {

// Relative: a row by its sum of entries, an entry by the largest, pointwise by itself (entries above 1e-7 of the largest).
struct TrueErrors {
  double row = 0, entry = 0, pointwise = 0;
};
inline TrueErrors true_errors(const DenseMatrix& got, const DenseMatrix& exact) {
  TrueErrors e;
  double largest = 0;
  for (const double v : exact.values) largest = std::max(largest, std::abs(v));
  for (Index i = 0; i < exact.rows; ++i) {
    double error = 0, norm = 0;
    for (Index j = 0; j < exact.cols; ++j) {
      const double d = std::abs(got(i, j) - exact(i, j)), v = std::abs(exact(i, j));
      error += d, norm += v;
      e.entry = std::max(e.entry, d / largest);
      if (v >= 1e-7 * largest) e.pointwise = std::max(e.pointwise, d / v);
    }
    e.row = std::max(e.row, error / norm);
  }
  return e;
}

}  // namespace espalier::test
