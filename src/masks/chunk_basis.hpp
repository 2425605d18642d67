// Chunk-basis form of a Toeplitz mask, from sums of exponentials that stand for its far entries; checked entry by entry.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/functions/exponential_term.hpp>

#include <vector>

#include "backend/chunked.hpp"
#include "masks/set_up_watch.hpp"

namespace espalier {

// M_ij = lower[i - j] for i >= j, upper[j - i] for i < j, L = lower.size(). upper: as many, or empty where both sides
// are one (`symmetric`) or all of it is 0.
struct ToeplitzValues {
  std::vector<double> lower, upper;
  bool symmetric = false;
  bool has_lower = true, has_upper = true;  // false: that side is 0
};

// What stands for values at distances from (gap - 1) chunk + 1 on; `upper` is not looked at where both sides are one.
struct SideSums {
  ExponentialSum lower, upper;
};
// A derivative of the mask, of the same symmetry and sides.
struct ToeplitzDerivative {
  ToeplitzValues values;
  SideSums sums;
};

template <class T>
struct ChunkBasis {
  backend::ChunkedToeplitz<T> product;
  Certificate certificate;    // of the form as stored, near rounding included
  bool met = false;           // within the tolerance
  double entry_rounding = 0;  // kind pointwise: of a product, for the worst single far entry and relative to it
  Index fitted_negative = 0;  // entries M >= 0 whose M~ < 0, over one row position of each chunk
};

// The form with the fewest basis vectors R whose error, sums included, is within the tolerance; R = r where fewer do not do.
// Basis: the left singular vectors of {f~(t + a)}, a in a chunk, t from one gap on, weighted as the kind of tolerance asks.
// The certificate is computed from every entry of every pair of chunks: O(L chunk R).
template <class T>
ChunkBasis<T> chunk_basis(const ToeplitzValues& values, const SideSums& sums, Index chunk, Index gap, double tolerance,
                          ToleranceKind kind, const SetUpWatch& watch = SetUpWatch());

// The same mask with its derivatives by parameters beside it, for gradients: `derivatives` hold dM/dp with sums of their own,
// on the same chunks. Their states join those of M, and as many basis vectors are added as their errors need to be within the
// tolerance too. False, and nothing in `form`, where that takes more than 32.
template <class T>
bool derivative_form(const ToeplitzValues& values, const SideSums& sums, const std::vector<ToeplitzDerivative>& derivatives,
                     const ChunkBasis<T>& basis, double tolerance, ToleranceKind kind, backend::ChunkedToeplitz<T>& form,
                     const SetUpWatch& watch = SetUpWatch());

// The same where M's own states are the terms of its sums (few exponentials, as fitted) and every derivative is made of the
// same terms and of them times the distance, as rates, frequencies and factors of exponentials have them: then a gradient's
// pass needs nothing more for it. False, and nothing in `form`, otherwise. symmetric: as in ToeplitzValues.
template <class T>
bool term_form(bool symmetric, const SideSums& sums, const std::vector<ToeplitzDerivative>& derivatives,
               const ChunkBasis<T>& basis, backend::ChunkedToeplitz<T>& form);

// The number R that the far values of one side would need: their numerical rank over chunks at this tolerance, from a few
// hundred places. An estimate (a few milliseconds), for choosing; values that are no short sum of anything smooth have rank
// `chunk`. Above `most` it may be that of chunks of 32, as far away, which is known much sooner and is more than `most` too.
Index far_rank(const std::vector<double>& values, Index chunk, Index gap, double tolerance, ToleranceKind kind, Index most);
// Where the values are few runs of one number each, the distance of the last step between two, up to which sums of exponentials
// need exact tiles. A step has at least four equal values before it, unlike the steps of a smooth function that dies out, and
// is larger than the tolerance. 0: no steps.
Index last_step(const std::vector<double>& values, double tolerance);

// The least w such that leaving out all entries with |i - j| > w is within the tolerance. O(L).
Index band_width(const ToeplitzValues& values, double tolerance, ToleranceKind kind);

}  // namespace espalier
