// Predicted times of a grid's tiles and FFT on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>

#include <cstddef>
#include <vector>

namespace espalier {

// Seconds that this much kernel work (backend/work.hpp) takes at `flops` flop/s for floats.
double work_seconds(double work, double flops);

// Tiles: 2 (m + c) flops an entry, columns padded to what the register tile takes; causal tiles above the diagonal are skipped.
// On several axes each run along the last axis is copied for every source, unless the tile lies within one: 3 multiply-adds of
// whole vectors and 3 for each vector of 64 bytes.
double tile_seconds(const std::vector<Index>& sizes, bool causal, Shape shape, std::size_t element, const CostModel& cost);

// FFT: two transforms a pair of columns (with features, of the column of row sums too) and feature. A line of h = 2^k q points
// costs 4 log2(2 h) flops a point times 1 (q = 1) to 4 (k < 2: its steps cannot be vectors), 12 for loading and storing each,
// 30 where it is turned number by number, and 250, or 2250 where FFTW has no single step of this size.
double fft_seconds(const std::vector<Index>& sizes, Shape shape, std::size_t element, const CostModel& cost);

}  // namespace espalier
