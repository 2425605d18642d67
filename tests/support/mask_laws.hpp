// The laws that every mask obeys, one call a mask. Truth is a slow double loop over a matrix that the test gives; nothing here
// sees the library's sources.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/mask.hpp>

#include "support/reference.hpp"

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier::test {

// What a test says of its mask: a name, the mask, and the exact entries.
template <class T>
struct MaskCase {
  std::string name;
  std::shared_ptr<const Mask<T>> mask;
  // The exact entries, from a formula of the test's own, for parameters in the order of mask->parameters().
  std::function<DenseMatrix(std::span<const double> parameters)> reference;

  // Everything below has a default that fits an exact mask.
  // The same mask made with MaskOptions::engine set: then every engine that engines() names is checked, each by itself.
  std::function<std::shared_ptr<const Mask<T>>(const std::string& engine)> with_engine{};
  // Bound on E = ||Y~ - Y||_F / || |M| |X| ||_F and its low-rank twin; 0: the house's 1e-12 (double) and 1e-6 (float).
  double product_bound = 0;
  // Bound on parameter gradients against central differences of the reference, relative to the gradient's max-norm, in
  // double; 0: 1e-6. In float the bound is eps (20 + sqrt(rows cols)) relative to the same sums with absolute values.
  double gradient_bound = 0;
};

// Checks every law and prints what is broken with its error and bound. The laws, by the names that `broken_laws` returns:
//   size                rows() and cols() are those of the reference
//   product             Y = M X for 1, 3, 33 columns; inputs positive, signed, alternating, one spike, log-normal
//   transpose           Y = Mᵀ X, the same
//   low-rank product    Y = (M ∘ A Bᵀ) X for columns and ranks among 1, 3, 33; also with the row sums not wanted
//   low-rank transpose  the same with Mᵀ
//   row sums            r_i = sum_j M_ij (A_i . B_j), and those of Mᵀ
//   adjointness         |<u, P v> - <Pᵀ u, v>| <= 20 eps sqrt(L) <|u|, |P| |v|>, plain and low-rank
//   linearity           P (2 x - 3 z) = 2 P x - 3 P z
//   input gradient      x_bar of the plain product; a_bar, b_bar, x_bar of the low-rank product
//   parameter gradient  of both products, against central differences of the reference
//   gradient subsets    every subset of gradients and cotangents gives what all of them give
//   parameters          with_parameters(parameters()) is the same mask; changed ones follow the reference; the old mask stays
//   bad parameters      a wrong count is a ShapeError, NaN and infinity are a ValueError
//   bounds              nothing is written beside an output: margins and gaps between rows keep their bits
//   gaps                NaN in the gaps between input rows does no harm
//   repeatability       the same bits twice
//   threads             the same bits for 1, 2 and 3 threads
//   shapes, overlap     wrong shapes and overlapping outputs throw and write nothing
//   cancellation        a call whose stop was asked for throws Cancelled
//   empty               no columns and rank 0 are legal
//   nan                 NaN in data neither throws nor vanishes
//   entries             tiles of entries() equal the reference
//   entries gradient    entries_gradient and fold_entries_gradient, over tiles, give the parameters' gradient
//   engines             engines() are named, sorted and finite, report() is the first; forced ones are what they say
template <class T>
void check_mask_laws(const MaskCase<T>& c);

// The same laws as a list of the names of those broken, for the self-test of the checkers (empty: all hold).
template <class T>
std::vector<std::string> broken_laws(const MaskCase<T>& c);

// Sizes the house asks for: 1, 2, 3, 7, 8, 13, 64, 101.
std::vector<Index> law_sizes();

}  // namespace espalier::test
