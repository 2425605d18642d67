// Far-field form of a grid mask on the host: patches, nested bases, couplings, and the certificate of what is stored.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "backend/patches.hpp"
#include "masks/set_up_watch.hpp"

namespace espalier {

// What the form of a mask a parameter step away begins with: how the leaves were cut, and their vectors.
struct FarFieldStart {
  bool cross = false;
  double precision = 0, share = 0;  // of the tolerance: the least vector looked at, the estimates' aim
  Index most = 0;                   // vectors of a leaf
  Index basis = 0;                  // those that were taken when they were found
  Index found = 0;                  // those that were found
  std::vector<double> vectors;      // [points, stride]
};

// What the far part takes for each feature and column (a panel's columns: padded_width of them). executed: with rows of block
// products rounded up to what they take. calls: block products of a panel of features.
struct FarWork {
  double flops = 0, executed = 0, calls = 0;
  double basis = 0;  // vectors of a leaf
};

template <class T>
struct FarFieldForm {
  backend::PatchedGrid<T> grid;
  Certificate certificate;    // of the form as stored, near rounding included
  bool met = false;           // within the tolerance
  std::string reason;         // why not
  double entry_rounding = 0;  // kind pointwise: of a product, for the worst single far entry and relative to it
  // Offsets where M >= 0 is so small that M~ may be negative.
  Index maybe_negative = 0;
  double near_pairs = 0;  // pairs of points
  FarWork far;
  std::shared_ptr<const FarFieldStart> start;  // where met
  std::size_t set_up_bytes = 0;                // bound on what making the form takes, with what is kept
};

// How a grid is cut: at most three axes (those of size 1 left out), leaves of about 64 points (one axis), 16 x 16, or
// 4 x 8 x 8, evenly.
struct PatchPlan {
  backend::Axes sizes{1, 1, 1}, patch{1, 1, 1};
  std::vector<backend::Axes> patches, split;  // by level; the top has at most four patches an axis
  std::string refusal;                        // why this grid has no far field; empty: it has
};
PatchPlan patch_plan(const std::vector<Index>& sizes);

// Pairs of points in the same or in neighbouring leaves; with cross (two axes) also in leaves level along an axis.
double near_pairs(const PatchPlan& plan, bool cross = false);
// Blocks of points that tiles do for them: runs of leaves next to one another in patch order.
double near_runs(const PatchPlan& plan, bool cross = false);

// Whether values far from the centre change from point to point without any low rank, from a block of about 64 points: about a
// millisecond, whatever the grid.
bool is_rough(const PatchPlan& plan, const std::vector<double>& table, double tolerance);

// table: prod (2 n_t - 1), row-major. Basis of a level: the leading left singular vectors of { M(t + a) : a in a patch, t over
// all far offsets }, weighted as the kind of tolerance asks, from random combinations of all its columns; above the leaves in
// the coordinates of the level below, so that bases are nested exactly. The certificate looks at every entry of every pair of
// leaves' offset; what the levels above add is bounded through the absolute values of the bases.
// start: null, or that of a mask a parameter step away on the same plan. Its leaves' vectors are tried first, at two thirds of
// the cost, or far less where it took several attempts to find how to cut; where the certificate does not hold for them, or
// they are a quarter more than when they were found, everything is found anew. Cost: about 8 P^2 R flops for each offset of two
// leaves of P points.
template <class T>
FarFieldForm<T> far_field_form(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind,
                               const SetUpWatch& watch = SetUpWatch(),
                               const std::shared_ptr<const FarFieldStart>& start = nullptr);

}  // namespace espalier
