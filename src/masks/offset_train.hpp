// A table of grid offsets as a short train of one-axis tables, found by its singular vectors and checked entry by entry.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>

#include <string>
#include <vector>

#include "backend/toeplitz_train.hpp"
#include "masks/set_up_watch.hpp"

namespace espalier {

// t[o_1, ..., o_d] = sum over k of prod_t v_t[k_{t-1}, k_t](o_t), as backend::ToeplitzTrain applies it.
template <class T>
struct OffsetTrain {
  std::vector<backend::TrainAxis<T>> axes;  // second longest first, longest last; axes of one point left out
  Certificate certificate;                  // of the tables as stored
  bool met = false;                         // within the tolerance
  bool too_fine = false;                    // not met: rounding the tables alone is more than the tolerance
  Index terms = 0;                          // the largest number of terms between two axes
  double amplification = 1;                 // max over rows of the sum of |products|, over that of |M|
  double largest = 0;                       // of |M|
  double entry_rounding = 0;                // kind pointwise: of a product, for the worst single entry and relative to it
  Index fitted_negative = 0;                // offsets where the mask is >= 0 and the train negative
  std::string reason;                       // how many terms; why there is none, where not met
};

// The train with about the fewest terms whose error is within the tolerance. Cross approximation with full pivoting (stopped
// early on tables that it does not shrink: noise), its factors made orthogonal, cut at ever smaller singular values until the
// certificate, computed from every offset and every row, is met. With `fold` even axes may be folded (never where the tolerance
// is pointwise). Axes along which the table is even are worked on by half. Not met: where it takes more than kMostTerms terms
// or more arithmetic than the entries themselves. sizes: at least two longer than 1.  Cost: O(table x terms) time, memory of a
// few tables.
template <class T>
OffsetTrain<T> offset_train(const std::vector<Index>& sizes, const std::vector<double>& table, double tolerance,
                            ToleranceKind kind, bool fold = true, const SetUpWatch& watch = SetUpWatch());

// Terms between two axes that are tried: from about 8 on an FFT is faster on every grid measured.
inline constexpr Index kMostTerms = 32;

}  // namespace espalier
