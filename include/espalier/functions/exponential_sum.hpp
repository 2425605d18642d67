// Functions of a distance as short sums of exponentials, with bounds on the error that are checked everywhere.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/functions/exponential_term.hpp>

#include <memory>
#include <stop_token>
#include <string>

namespace espalier {

struct FitOptions {
  double tolerance = 1e-6;                  // >= 0; 0: only sums that equal f in exact arithmetic
  ToleranceKind kind = ToleranceKind::row;  // what the tolerance bounds, see `certify`
  Index first = 0;                 // distances below are served exactly by the caller: they count in norms, not in errors
  Index max_slots = 48;            // real numbers of state, ExponentialSum::slots
  double max_amplification = 1e3;  // see ExponentialFit::amplification
  Index row_entries = 0;           // real ranges: a row has at most so many entries and one at distance 0; 0: unknown
  bool one_sided = false;          // rows of a causal mask: distances 0 .. i; otherwise 0 .. i and 0 .. count - 1 - i
  std::shared_ptr<const ExponentialSum> start{};  // a fit of a nearby function: polished first, which is far cheaper
  std::stop_token stop{};                         // looked at between steps of the search and of the check: Cancelled
};

struct ExponentialFit {
  // Within tolerance, slots and amplification (closed forms: whatever theirs is). Otherwise `sum` is the best found, if any.
  bool met = false;
  ExponentialSum sum{};
  // row, entry, pointwise on the fitted distances. Pointwise is empty where it is above 1, row where some row has norm 0.
  Certificate certificate{};
  Index fitted_negative = 0;  // fitted distances with f >= 0 and f~ < 0
  // Largest sum_k |c_k d^p exp(-s d)| over largest |f|: how many times more a rounding error costs than in f itself.
  double amplification = 0;
  // "closed form", "exponential", "zero", "constant", "jets" (polynomials), "real decays", "complex decays"; from old terms:
  // "shared decays", "refit", "shared decays with jets"; where not met: "best of the search" or one of these.
  std::string method{};
  std::string reason{};  // one sentence with the numbers that decided; where not met, what was tried and why it fails
  // What it cost: values of f taken (the exhaustive check included), least-squares problems solved, rows x slots of them all.
  Index evaluations = 0, solves = 0;
  double work = 0;
};

// f on the integers 0 .. count-1 as the sum of exponentials with the fewest slots found:
//   sum_d |f~(d) - f(d)| over a row <= tolerance sum_d |f(d)| over that row, for every row (kind row), or
//   max |f~ - f| <= tolerance max |f| (entry), or |f~ - f| <= tolerance |f| where |f| >= 1e-7 max |f| (pointwise).
// No term grows: Re s >= 0. Closed forms are taken as they are (exponential, damped cosine, polynomial times exponential);
// otherwise decays start from a rational interpolation of the spectrum of f, or from a logarithmic grid, and are polished by a
// Levenberg-Marquardt iteration on the variable projection functional; terms are added and dropped until one less misses.
// Cost: O(count) values of f, O(count slots) for the check, and 5 ms to 1 s for the search; memory about 32 bytes a distance.
// Accuracy: the certificate is computed from every integer distance, the rounding of the check added; a closed form has 0.
// Functions that are no short sum (white noise, steps) come back with met = false and the reason.
// Errors: ValueError for count < 1, first outside 0 .. count, a tolerance that is negative or NaN, values that are not finite;
// Cancelled.
// Source: G. Golub, V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413, sections 2 and 5 (variable projection);
// N. Derevianko, G. Plonka, M. Petz, IMA J. Numer. Anal. 43 (2023) 789 (exponential sums by rational interpolation of spectra).
ESPALIER_EXPORT ExponentialFit fit_exponentials(const DistanceFunction& f, Index count, const FitOptions& options = {});

// Distances that are real numbers, as on trees with real edge weights: 0 <= first <= last, finite.
struct RealRange {
  double first = 0, last = 1;
};

// The same on all real distances of a range. options.first is ignored (say it in the range).
// The certificate: entry = sup |f~ - f| / sup |f|; pointwise = sup |f~ - f| / |f| where |f| >= 1e-7 sup |f|. row bounds the row
// error of every mask with such distances: without row_entries it is sup |f~ - f| / |f| over the whole range (empty where f
// falls below 1e-7 sup |f|); with n = row_entries, and a range from 0 on, 2 sup |f~ - f| / (|f| + |f(0)| / n), since
// sum_j (|f(d_j)| + |f(0)| / n) <= sum_j |f(d_j)| + |f(0)| <= 2 sum_j |f(d_j)|.
// It is proved: the range is cut until on each piece f~ - f is a polynomial of degree 15 up to a Cauchy remainder, and such a
// polynomial is at most 1.072 times its largest value at 64 Chebyshev nodes. Callables and views of derivatives have no bound
// off the real line: for them it is sampled, and `estimated`. Errors: as above, and ValueError for tables (integers only).
// Source: H. Ehlich, K. Zeller, Math. Z. 86 (1964) 41 (polynomials on Chebyshev nodes).
ESPALIER_EXPORT ExponentialFit fit_exponentials(const DistanceFunction& f, RealRange range, const FitOptions& options = {});

// The errors of a given sum, checked as above on the integers 0 .. count-1 (options: first, one_sided).
ESPALIER_EXPORT Certificate certify(const DistanceFunction& f, const ExponentialSum& sum, Index count,
                                    const FitOptions& options = {});
// On a real range.
ESPALIER_EXPORT Certificate certify(const DistanceFunction& f, const ExponentialSum& sum, RealRange range,
                                    const FitOptions& options = {});

}  // namespace espalier
