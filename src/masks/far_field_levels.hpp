// Pieces of a far field's set-up on the host: offsets of patches, bases from a sketch, what each level adds to the error.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "backend/patches.hpp"
#include "masks/far_field_form.hpp"

namespace espalier::far_field {

using backend::Axes;

// Counts the offsets of patches that a set-up goes through, which are nearly all of its work, and tells what share is done. How
// many attempts it takes is not known: each is three quarters of what is left.
class Steps {
 public:
  explicit Steps(const SetUpWatch& watch) : watch_(watch) {}
  // Of an attempt with about so many offsets.
  void begin(Index offsets) {
    from_ = share();
    done_ = 0;
    offsets_ = offsets;
  }
  // Before one offset. Errors: Cancelled.
  void next() {
    if (done_++ % kSome == 0) watch_.tell("far field set-up", share());
  }
  void end() const { watch_.tell("far field set-up", 1); }

 private:
  // Offsets between two looks: a millisecond.
  static constexpr Index kSome = 16;
  double share() const {
    if (offsets_ == 0) return from_;
    return from_ + 0.75 * (1 - from_) * std::min(1.0, static_cast<double>(done_) / static_cast<double>(offsets_));
  }
  const SetUpWatch& watch_;
  double from_ = 0;
  Index done_ = 0, offsets_ = 0;  // offsets_: 0 before the first attempt
};

// Offsets of two patches of one level, -(n_t - 1) .. n_t - 1 along each axis.
struct Offsets {
  Axes patches{1, 1, 1}, sizes{1, 1, 1};
  explicit Offsets(const Axes& n) : patches(n) {
    for (std::size_t t = 0; t < 3; ++t) sizes[t] = 2 * n[t] - 1;
  }
  Index size() const { return backend::count(sizes); }
  Axes at(Index k) const {
    Axes o = backend::place(k, sizes);
    for (std::size_t t = 0; t < 3; ++t) o[t] -= patches[t] - 1;
    return o;
  }
  Index index(Axes o) const {
    for (std::size_t t = 0; t < 3; ++t) o[t] += patches[t] - 1;
    return backend::flat(o, sizes);
  }
};

// The table continued smoothly to every offset of two points of whole patches, n_t patches of p_t points along axis t.
struct WholeTable {
  Axes reach{}, sizes{};  // reach_t = n_t p_t - 1
  std::vector<double> values;
  double largest = 0, sum = 0;  // of |table|

  WholeTable(const PatchPlan& plan, const std::vector<double>& table);
  // The largest and the smallest |M| between patches at offset o, of those at least `least`; smallest: infinity without any.
  struct Extremes {
    double largest, smallest;
  };
  Extremes extremes(const Axes& o, const Axes& patch, double least) const;
  // Entries between patches at offset o, [P, stride]: row position a, mirrored source position.
  void block(const Axes& o, const Axes& patch, double* out, Index stride) const;
};

// What is known of the entries between two patches of a level, by offset.
struct Magnitudes {
  std::vector<double> largest, smallest;  // of |M|; smallest: among those at least 1e-7 of the mask's largest
};

// By offset: bounds on sum_j |M~ - M| over the sources of a pair for its worst row, on the largest error, and on the largest
// relative one.
struct LevelErrors {
  std::vector<double> row, entry, pointwise;
  explicit LevelErrors(Index offsets = 0) {
    for (auto* v : {&row, &entry, &pointwise}) v->assign(static_cast<std::size_t>(offsets), 0.0);
  }
};

// One level in double: R vectors on `rows` coordinates (points of a leaf; children times their basis above), [rows, stride],
// and the coefficients of every far offset, [R, R] each.
struct Level {
  Index rows = 0, basis = 0, stride = 0;
  std::vector<double> vectors;
  std::vector<std::vector<double>> coefficients;  // by offset; empty where not wanted
};

// How a block of entries, or of coefficients, [rows, stride], comes by offset.
using BlockOf = std::function<void(Index offset, double* out, Index stride)>;

struct Weights {
  ToleranceKind kind = ToleranceKind::row;
  double largest = 0;
  // Of a block with entries up to `size`: rows' errors are sums, to which many small blocks add as much as a large one.
  double operator()(double size) const {
    if (size == 0) return 0;
    if (kind == ToleranceKind::row) return 1 / std::sqrt(std::max(size, 1e-6 * largest));
    return kind == ToleranceKind::pointwise ? 1 / std::max(size, 1e-7 * largest) : 1.0;
  }
};

// The most basis vectors of a level. Above the leaves kinks along an axis need as many as a patch is wide, and patches are few.
inline constexpr Index kMostBasis = 128, kMostUpperBasis = 320;

// Fills level.coefficients from its vectors, for every wanted offset.
void fill_coefficients(const Offsets& offsets, const std::vector<char>& wanted, const BlockOf& block, Level& level,
                       Steps& steps);

// Vectors by falling weight, at most `most` and those with at least `precision` of the first's weight, with the
// coefficients of every wanted offset in them. round: to the type that is stored.
Level full_level(const Offsets& offsets, const std::vector<char>& wanted, Index rows, const BlockOf& block,
                 const std::vector<double>& sizes, const Weights& weights, double precision, Index most,
                 const std::function<double(double)>& round, Steps& steps);

// The number of leading vectors with which the estimate of the level's error is at most `tolerance`; kind row: of the sum over
// all offsets relative to `sum`, entry: of the largest relative to `largest`, pointwise: relative to the block's smallest.
// points: of a patch.
Index needed_basis(const Level& level, const Offsets& offsets, const Magnitudes& sizes, const WholeTable& table, double points,
                   ToleranceKind kind, double tolerance);

// The leading `basis` vectors alone.
Level leading(const Level& level, Index basis, const std::function<double(double)>& round);

}  // namespace espalier::far_field
