// Flops and predicted times of products in chunk-basis form and by sliding windows on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>

#include "backend/chunked.hpp"
#include "backend/sliding.hpp"

namespace espalier {

// Useful flops a token of m features and c columns (m = 0: none), of `gap` chunks on each of `sides` sides, and of a far part
// with basis: R summed over the sides; basis_states: the sum of R r.
double near_flops(Index chunk, Index gap, double sides, double m, double c);
double far_flops(Index chunk, double basis, double basis_states, double m, double c);

// Exact tiles run at the speed of tiles; moments, rows and states at chunk_flops (chunk_plain_flops without features), padded
// to whole vectors of columns; each row whose columns are no whole number of vectors is copied once a tile and once a sweep;
// each sweep passes once over its operands. Windows: each sums every moment once a step.
template <class T>
double chunked_seconds(const backend::ChunkedToeplitz<T>& p, Shape shape, const CostModel& cost);

// Windows of single tokens: each takes a step for every row.
template <class T>
double sliding_seconds(const backend::SlidingToeplitz<T>& p, Index columns, const CostModel& cost);

}  // namespace espalier
