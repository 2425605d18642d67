// The setting up of a far field: the offsets it serves, its nested bases, and the errors of what is stored.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "masks/far_field_levels.hpp"

namespace espalier::far_field {

// Which offsets of patches are meant, by level.
using OffsetSets = std::vector<std::vector<char>>;

// |V| of a level, [points of a patch, R] in any order of points, its column sums and maxima.
struct Absolute {
  Index points = 0, basis = 0;
  std::vector<double> values, sum, largest;
  Absolute(const std::vector<double>& vectors, Index points, Index basis, Index stride);
};

class FieldSetup {
 public:
  // meets: the offsets whose pairs meet on a level in this field. round: to the type that is stored. Refers to plan, table and
  // steps.
  FieldSetup(const PatchPlan& plan, const WholeTable& table, ToleranceKind kind, OffsetSets meets,
             std::function<double(double)> round, Steps& steps);

  // Offsets that one choice and its errors go through.
  Index offsets_of_an_attempt() const;
  // Finds the leaves' vectors, those of at least `precision` of the first's weight.
  void find_leaves(double precision);
  // Takes a start's instead.
  void take_leaves(const FarFieldStart& start);
  const Level& leaves() const { return leaves_; }
  // Sets the levels by estimates for a tolerance; false where leaves would need `most` vectors, or some level more than there
  // may be.
  bool choose(double tolerance, Index most);

  const std::vector<Level>& levels() const { return levels_; }
  const OffsetSets& meets() const { return meets_; }
  // What the levels as they are stored add to the error, by level.
  std::vector<LevelErrors> errors() const;
  // The rounding of a product in units of 0.5 eps(T), for its worst single far entry and relative to that entry: sqrt(w) times
  // the largest of sum |V_q(i)| |K_qr| |V_r(j)| / |M_ij|, V a product of absolute transfers. w counts the operations behind one
  // term, moments and locals of every level and the coupling; why sqrt(w): chunk_form.hpp. Leaves entry by entry, above them by
  // the vectors' maxima and the smallest entry of each pair of patches.
  double entry_rounding() const;
  // Bound on the memory that the setting up has taken so far, the table apart.
  std::size_t bytes() const;

 private:
  Offsets offsets(std::size_t level) const { return Offsets(plan_.patches[level]); }
  bool wanted(std::size_t level, Index k) const { return wanted_[level][static_cast<std::size_t>(k)] != 0; }
  Weights weights() const { return {kind_, table_.largest}; }
  BlockOf leaf_block() const;
  BlockOf coefficient_block(std::size_t level) const;
  void measure_leaves();
  Index child_offset(std::size_t level, const Axes& o, Index row_child, Index source_child) const;
  Magnitudes parent_sizes(std::size_t level, const Magnitudes& below) const;
  LevelErrors leaf_errors() const;
  LevelErrors upper_errors(std::size_t level, const Absolute& below) const;
  double leaf_rounding() const;
  std::vector<double> vectors_of(std::size_t level, const std::vector<double>& points_below) const;

  const PatchPlan& plan_;
  const WholeTable& table_;
  ToleranceKind kind_;
  OffsetSets meets_, wanted_;  // wanted: those that meet, and what lies below them
  std::function<double(double)> round_;
  Steps& steps_;
  double precision_ = 0;
  Index coefficients_ = 0, most_rows_ = 0;  // over every attempt: elements of all levels at most, rows of one
  Magnitudes leaf_sizes_;
  std::vector<Magnitudes> sizes_;
  Level leaves_;
  std::vector<Level> levels_;
};

}  // namespace espalier::far_field
