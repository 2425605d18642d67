// Host-side set-up of GridMask: sizes, keys, tables from functions, parameter gradients. Exported for libraries of other
// backends. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/masks/grid.hpp>

#include "backend/seen.hpp"
#include "backend/transfers.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "masks/grid_engines.hpp"
#include "masks/sequence.hpp"

namespace espalier {

// prod n_t. Errors: ValueError for no sizes, a size < 1, or a table prod (2 n_t - 1) of 2^31 entries or more (keys are 32-bit).
ESPALIER_EXPORT Index grid_length(const std::vector<Index>& sizes);
// prod (2 n_t - 1), for sizes that passed grid_length.
ESPALIER_EXPORT Index grid_table_size(const std::vector<Index>& sizes);

// row[i] - column[j] = position of the offset i - j in the table. Along the last axis keys of consecutive i are consecutive.
struct GridKeys {
  std::vector<std::int32_t> row, column;
};
ESPALIER_EXPORT GridKeys grid_keys(const std::vector<Index>& sizes);

// f at the distance of every offset; with causal set offsets with j > i are 0 and f is not called for distances that only they
// have. Errors: ValueError where f is not finite, and for Distance::offset on more than one axis.
ESPALIER_EXPORT std::vector<double> grid_function_table(const std::vector<Index>& sizes, const DistanceFunction& f,
                                                        Distance distance, bool causal);
// Offsets of equal distance, over which the gradient of a function is summed before it meets df/dp: class c has the distance
// distance[c], and offsets' row c lists its positions in the table (none where only causality's zeros have that distance).
struct GridClasses {
  std::vector<double> distance;
  backend::SumRows offsets;
};
ESPALIER_EXPORT GridClasses grid_classes(const std::vector<Index>& sizes, Distance distance, bool causal);
// Row p: df/dp of every class that has offsets.
ESPALIER_EXPORT backend::SumRows grid_parameter_rows(const GridClasses& classes, const DistanceFunction& f);

// The table as applied: offsets with j > i zeroed where causal (they are the positions before the centre: the table is
// row-major, as the index is), entries below 1e-30 of the largest set to 0.
ESPALIER_EXPORT void finish_grid_table(bool causal, std::vector<double>& table);

// Where the table is not 0.
ESPALIER_EXPORT backend::SeenOffsets grid_seen_offsets(const std::vector<Index>& sizes, const std::vector<double>& table);

// A grid of one axis as a sequence, when called: values by distance on both sides of the diagonal, and closed forms where f is
// given.
std::function<SequenceValues()> grid_sequence_values(const GridSource& source);

// Throws ValueError naming the first entry that is not finite; `largest` is the largest magnitude the element type holds.
ESPALIER_EXPORT void check_grid_table(std::span<const double> table, double largest);

}  // namespace espalier
