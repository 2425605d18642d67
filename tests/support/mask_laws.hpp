// The laws that every mask obeys, one call a mask. Truth is a slow double loop over a matrix that the test gives; nothing here
// sees the library's sources.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/mask.hpp>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier::test {

// A dense reference matrix in double, row-major.
struct DenseMatrix {
  Index rows = 0, cols = 0;
  std::vector<double> values;
  double& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

template <class T>
struct MaskCase {
  std::string name;
  std::shared_ptr<const Mask<T>> mask;
  // The exact entries, from a formula of the test's own, for given parameters (those of mask->parameters() by default).
  std::function<DenseMatrix(std::span<const double> parameters)> reference;
  // Bounds on E = ||Y~ - Y||_F / || |M| |X| ||_F and its low-rank twin; 0: the house's 1e-12 (double) and 1e-6 (float).
  double product_bound = 0;
  // Bound on gradients against central differences of the reference, relative to the gradient's max-norm; double only.
  double gradient_bound = 1e-6;
  bool exact_zero_rows = true;
};

// Checks, with doctest assertions: multiply, transpose, low-rank product and its transpose, row sums against the slow loop for
// columns 1, 3, 33 and inputs all positive, signed, alternating, one spike, log-normal; linearity; adjointness; every vjp
// (double: central differences of the reference); with_parameters; guard values around outputs and NaN in stride gaps; the same
// bits twice and for 1 and 2 threads; wrong shapes and overlaps throw and write nothing; a cancelled call throws Cancelled;
// every engine of `engines()` agrees (masks are rebuilt by `with_engine` where given).
template <class T>
void check_mask_laws(const MaskCase<T>& c);

// The same laws as a list of the names of those broken, for the self-test of the checkers (empty: all hold).
template <class T>
std::vector<std::string> broken_laws(const MaskCase<T>& c);

// Sizes the house asks for: 1, 2, 3, 7, 8, 13, 64, 101.
std::vector<Index> law_sizes();

}  // namespace espalier::test
