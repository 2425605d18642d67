// The setting up of a far field: levels from the leaves up, and their errors.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field_field.hpp"

#include <limits>

#include "backend/block_product.hpp"

namespace espalier::far_field {

using backend::block_product;
using backend::padded_width;

Absolute::Absolute(const std::vector<double>& vectors, Index n, Index r, Index stride) : points(n), basis(r) {
  values.reserve(static_cast<std::size_t>(n * r));
  sum.assign(static_cast<std::size_t>(r), 0.0);
  largest = sum;
  for (Index a = 0; a < n; ++a) {
    for (Index q = 0; q < r; ++q) {
      const double v = std::abs(vectors[static_cast<std::size_t>(a * stride + q)]);
      values.push_back(v);
      sum[static_cast<std::size_t>(q)] += v;
      largest[static_cast<std::size_t>(q)] = std::max(largest[static_cast<std::size_t>(q)], v);
    }
  }
}

FieldSetup::FieldSetup(const PatchPlan& plan, const WholeTable& table, ToleranceKind kind, OffsetSets meets,
                       std::function<double(double)> round, Steps& steps)
    : plan_(plan),
      table_(table),
      kind_(kind),
      meets_(std::move(meets)),
      wanted_(meets_),
      round_(std::move(round)),
      steps_(steps) {
  for (std::size_t l = plan_.patches.size() - 1; l > 0; --l) {
    const Offsets all = offsets(l);
    const Index children = backend::count(plan_.split[l]);
    for (Index k = 0; k < all.size(); ++k) {
      for (Index c = 0; wanted(l, k) && c < children * children; ++c) {
        const Index child = child_offset(l, all.at(k), c / children, c % children);
        if (child >= 0) wanted_[l - 1][static_cast<std::size_t>(child)] = 1;
      }
    }
  }
  measure_leaves();
}

BlockOf FieldSetup::leaf_block() const {
  return [this](Index k, double* out, Index stride) { table_.block(offsets(0).at(k), plan_.patch, out, stride); };
}

void FieldSetup::measure_leaves() {
  const Offsets all = offsets(0);
  for (Index k = 0; k < all.size(); ++k) {
    WholeTable::Extremes e{0, 0};
    if (wanted(0, k)) e = table_.extremes(all.at(k), plan_.patch, 1e-7 * table_.largest);
    leaf_sizes_.largest.push_back(e.largest);
    leaf_sizes_.smallest.push_back(std::isfinite(e.smallest) ? e.smallest : 0);
  }
}

// Offset of children c (of the row's patch) and c (of the source's, mirrored) below offset o, as an index; -1 off the grid.
Index FieldSetup::child_offset(std::size_t level, const Axes& o, Index row_child, Index source_child) const {
  const Axes &split = plan_.split[level], r = backend::place(row_child, split), s = backend::place(source_child, split);
  const Offsets below = offsets(level - 1);
  Axes child{};
  for (std::size_t t = 0; t < 3; ++t) {
    child[t] = split[t] * o[t] + r[t] + s[t] - (split[t] - 1);
    if (child[t] >= below.patches[t] || child[t] <= -below.patches[t]) return -1;
  }
  return below.index(child);
}
// Coefficients of one offset in the bases of the children, [children R, stride].
BlockOf FieldSetup::coefficient_block(std::size_t level) const {
  return [this, level](Index k, double* out, Index stride) {
    const Level& below = levels_[level - 1];
    const Index children = backend::count(plan_.split[level]), r = below.basis;
    const Axes o = offsets(level).at(k);
    for (Index c = 0; c < children; ++c) {
      for (Index d = 0; d < children; ++d) {
        const Index child = child_offset(level, o, c, d);
        for (Index p = 0; p < r; ++p) {
          double* to = out + (c * r + p) * stride + d * r;
          if (child < 0) {
            std::fill_n(to, r, 0.0);
          } else {
            std::copy_n(below.coefficients[static_cast<std::size_t>(child)].data() + p * r, r, to);
          }
        }
      }
    }
  };
}
Magnitudes FieldSetup::parent_sizes(std::size_t level, const Magnitudes& below) const {
  Magnitudes m;
  const Offsets all = offsets(level);
  const Index children = backend::count(plan_.split[level]);
  for (Index k = 0; k < all.size(); ++k) {
    double largest = 0, smallest = std::numeric_limits<double>::infinity();
    for (Index c = 0; wanted(level, k) && c < children * children; ++c) {
      const Index child = child_offset(level, all.at(k), c / children, c % children);
      if (child < 0) continue;
      largest = std::max(largest, below.largest[static_cast<std::size_t>(child)]);
      const double s = below.smallest[static_cast<std::size_t>(child)];
      if (s > 0) smallest = std::min(smallest, s);
    }
    m.largest.push_back(largest);
    m.smallest.push_back(std::isfinite(smallest) ? smallest : 0);
  }
  return m;
}

void FieldSetup::find_leaves(double precision) {
  precision_ = precision;
  leaves_ = full_level(offsets(0), wanted_[0], backend::count(plan_.patch), leaf_block(), leaf_sizes_.largest, weights(),
                       precision_, kMostBasis, round_, steps_);
}

void FieldSetup::take_leaves(const FarFieldStart& start) {
  precision_ = start.precision;
  leaves_ = Level();
  leaves_.rows = backend::count(plan_.patch);
  leaves_.basis = start.found;
  leaves_.stride = padded_width(start.found);
  leaves_.vectors = start.vectors;
  fill_coefficients(offsets(0), wanted_[0], leaf_block(), leaves_, steps_);
}

Index FieldSetup::offsets_of_an_attempt() const {
  // A sketch, coefficients and errors on each level.
  Index count = 0;
  for (const std::vector<char>& set : wanted_) count += std::count(set.begin(), set.end(), 1);
  return 3 * count;
}

std::size_t FieldSetup::bytes() const {
  // A sketch and its decomposition take several matrices of rows x 384, a block and its products several of rows x rows.
  const Index work = 16 * most_rows_ * (most_rows_ + 448),
              whole = backend::count(plan_.patch) * backend::count(plan_.patches[0]);
  Index offsets_of_all = 0;
  for (const std::vector<char>& set : wanted_) offsets_of_all += static_cast<Index>(set.size());
  // The bases at every point of a patch of the top level.
  const Index vectors = 4 * whole * kMostUpperBasis / 16;
  return sizeof(double) * static_cast<std::size_t>(2 * coefficients_ + 16 * offsets_of_all + work + vectors);
}

bool FieldSetup::choose(double tolerance, Index most) {
  levels_.clear();
  Index coefficients = 0;
  const auto note = [&](const Level& level) {
    for (const std::vector<double>& c : level.coefficients) coefficients += static_cast<Index>(c.size());
    coefficients_ = std::max(coefficients_, coefficients);
    most_rows_ = std::max(most_rows_, level.rows);
  };
  note(leaves_);
  sizes_ = {leaf_sizes_};
  double points = static_cast<double>(backend::count(plan_.patch));
  const auto tops = static_cast<double>(std::max<std::size_t>(1, plan_.patches.size() - 1));
  for (std::size_t l = 0; l < plan_.patches.size(); ++l) {
    Level all;
    if (l > 0) {
      points *= static_cast<double>(backend::count(plan_.split[l]));
      sizes_.push_back(parent_sizes(l, sizes_.back()));
      const Index rows = levels_.back().basis * backend::count(plan_.split[l]);
      if (rows > 0) {
        all = full_level(offsets(l), wanted_[l], rows, coefficient_block(l), sizes_.back().largest, weights(), precision_,
                         kMostUpperBasis, round_, steps_);
      }
      all.rows = rows;
      all.coefficients.resize(static_cast<std::size_t>(offsets(l).size()));
    }
    const Level& from = l == 0 ? leaves_ : all;
    // Bounds above the leaves are several times the errors themselves.
    const double mine = tolerance * (l == 0 ? 0.5 : 0.15 / tops);
    const Index basis = needed_basis(from, offsets(l), sizes_.back(), table_, points, kind_, mine);
    if (basis >= (l == 0 ? most : kMostUpperBasis)) return false;
    levels_.push_back(leading(from, basis, round_));
    if (l > 0) note(all);
    note(levels_.back());
  }
  return true;
}

std::vector<LevelErrors> FieldSetup::errors() const {
  std::vector<LevelErrors> errors{leaf_errors()};
  std::vector<double> vectors = levels_[0].vectors;
  Absolute below(vectors, levels_[0].rows, levels_[0].basis, levels_[0].stride);
  for (std::size_t l = 1; l < levels_.size(); ++l) {
    errors.push_back(upper_errors(l, below));
    vectors = vectors_of(l, vectors);
    const Level& level = levels_[l];
    below =
        Absolute(vectors, level.stride > 0 ? static_cast<Index>(vectors.size()) / level.stride : 0, level.basis, level.stride);
  }
  return errors;
}

namespace {

// b -= U C Uᵀ.
void subtract(const Level& l, const std::vector<double>& c, double* b, Index stride) {
  const Index r = l.basis, rows = l.rows;
  if (r == 0) return;
  std::vector<double> half(static_cast<std::size_t>(rows * l.stride)),
      coefficients(static_cast<std::size_t>(r * l.stride), 0.0), turned(static_cast<std::size_t>(r * stride), 0.0);
  for (Index q = 0; q < r; ++q) {
    for (Index p = 0; p < r; ++p)
      coefficients[static_cast<std::size_t>(q * l.stride + p)] = -c[static_cast<std::size_t>(q * r + p)];
    for (Index i = 0; i < rows; ++i)
      turned[static_cast<std::size_t>(q * stride + i)] = l.vectors[static_cast<std::size_t>(i * l.stride + q)];
  }
  block_product(rows, r, r, l.vectors.data(), l.stride, 1, coefficients.data(), l.stride, half.data(), l.stride, false);
  block_product(rows, rows, r, half.data(), l.stride, 1, turned.data(), stride, b, stride, true);
}

}  // namespace

namespace {

struct EntryErrors {
  double row = 0, entry = 0, pointwise = 0;  // the worst row's sum, the largest, the largest relative one
};

// Of e against m, [p, stride], columns p and beyond zero in both; relative: entries of at least `least`. Eight sums side by
// side: one would wait for each addition.
EntryErrors entry_errors(const double* m, const double* e, Index p, Index stride, double least) {
  constexpr Index kLanes = 8;
  double largest[kLanes] = {}, relative[kLanes] = {};
  EntryErrors errors;
  for (Index a = 0; a < p; ++a, m += stride, e += stride) {
    double sum[kLanes] = {};
    for (Index b = 0; b < stride; b += kLanes) {
      for (Index l = 0; l < kLanes; ++l) {
        const double size = std::abs(m[b + l]), d = std::abs(m[b + l] - e[b + l]), ratio = size >= least ? d / size : 0;
        sum[l] += d;
        largest[l] = largest[l] > d ? largest[l] : d;
        relative[l] = relative[l] > ratio ? relative[l] : ratio;
      }
    }
    for (Index l = 1; l < kLanes; ++l) sum[0] += sum[l];
    errors.row = std::max(errors.row, sum[0]);
  }
  for (Index l = 0; l < kLanes; ++l) {
    errors.entry = std::max(errors.entry, largest[l]);
    errors.pointwise = std::max(errors.pointwise, relative[l]);
  }
  return errors;
}

}  // namespace

// M - V C Vᵀ over every entry of every offset of leaves.
LevelErrors FieldSetup::leaf_errors() const {
  const Level& l = levels_[0];
  const Offsets all = offsets(0);
  const Index p = l.rows, stride = padded_width(p), r = l.basis;
  LevelErrors errors(all.size());
  std::vector<double> m(static_cast<std::size_t>(p * stride)), e(m.size(), 0.0), half(static_cast<std::size_t>(p * l.stride)),
      turned(static_cast<std::size_t>(r * stride), 0.0), c(static_cast<std::size_t>(r * l.stride), 0.0);
  for (Index a = 0; a < p; ++a) {
    for (Index q = 0; q < r; ++q)
      turned[static_cast<std::size_t>(q * stride + a)] = l.vectors[static_cast<std::size_t>(a * l.stride + q)];
  }
  for (Index k = 0; k < all.size(); ++k) {
    if (!wanted(0, k)) continue;
    steps_.next();
    table_.block(all.at(k), plan_.patch, m.data(), stride);
    for (Index q = 0; q < r; ++q)
      std::copy_n(l.coefficients[static_cast<std::size_t>(k)].data() + q * r, r, c.data() + q * l.stride);
    if (r > 0) {
      block_product(p, r, r, l.vectors.data(), l.stride, 1, c.data(), l.stride, half.data(), l.stride, false);
      block_product(p, p, r, half.data(), l.stride, 1, turned.data(), stride, e.data(), stride, false);
    }
    const EntryErrors of_block = entry_errors(m.data(), e.data(), p, stride, 1e-7 * table_.largest);
    errors.row[static_cast<std::size_t>(k)] = of_block.row;
    errors.entry[static_cast<std::size_t>(k)] = of_block.entry;
    errors.pointwise[static_cast<std::size_t>(k)] = of_block.pointwise;
  }
  return errors;
}

// What replacing the children's coefficients B by U C Uᵀ adds: |V (B - U C Uᵀ) Vᵀ| <= |V| |B - U C Uᵀ| |V|ᵀ, V of the level
// below.
LevelErrors FieldSetup::upper_errors(std::size_t level, const Absolute& below) const {
  const Level& l = levels_[level];
  const Offsets all = offsets(level);
  const Index rows = l.rows, stride = padded_width(rows), children = backend::count(plan_.split[level]);
  LevelErrors errors(all.size());
  const BlockOf block = coefficient_block(level);
  std::vector<double> b(static_cast<std::size_t>(rows * stride)), gathered(static_cast<std::size_t>(below.basis));
  for (Index k = 0; rows > 0 && k < all.size(); ++k) {
    if (!wanted(level, k)) continue;
    steps_.next();
    block(k, b.data(), stride);
    const std::vector<double>& c = l.coefficients[static_cast<std::size_t>(k)];
    subtract(l, c, b.data(), stride);
    double worst = 0, entry = 0;
    for (Index child = 0; child < children; ++child) {
      std::fill(gathered.begin(), gathered.end(), 0.0);
      for (Index other = 0; other < children; ++other) {
        if (child_offset(level, all.at(k), child, other) < 0) continue;
        double peak = 0;
        for (Index p = 0; p < below.basis; ++p) {
          double sum = 0, top = 0;
          for (Index q = 0; q < below.basis; ++q) {
            const double d =
                std::abs(b[static_cast<std::size_t>((child * below.basis + p) * stride + other * below.basis + q)]);
            sum += d * below.sum[static_cast<std::size_t>(q)];
            top += d * below.largest[static_cast<std::size_t>(q)];
          }
          gathered[static_cast<std::size_t>(p)] += sum;
          peak += below.largest[static_cast<std::size_t>(p)] * top;
        }
        entry = std::max(entry, peak);
      }
      for (Index a = 0; a < below.points; ++a) {
        double sum = 0;
        for (Index p = 0; p < below.basis; ++p)
          sum += below.values[static_cast<std::size_t>(a * below.basis + p)] * gathered[static_cast<std::size_t>(p)];
        worst = std::max(worst, sum);
      }
    }
    errors.row[static_cast<std::size_t>(k)] = worst;
    errors.entry[static_cast<std::size_t>(k)] = entry;
    const double smallest = sizes_[level].smallest[static_cast<std::size_t>(k)];
    if (smallest > 0) errors.pointwise[static_cast<std::size_t>(k)] = entry / smallest;
  }
  return errors;
}

namespace {

std::vector<double> absolute(std::vector<double> values) {
  for (double& v : values) v = std::abs(v);
  return values;
}

}  // namespace

// Of the pairs that meet as leaves, without the roundings' number.
double FieldSetup::leaf_rounding() const {
  const Level& l = levels_[0];
  const Offsets all = offsets(0);
  const Index p = l.rows, r = l.basis, stride = padded_width(p);
  const std::vector<double> v = absolute(l.vectors);
  std::vector<double> m(static_cast<std::size_t>(p * stride)), e(m.size(), 0.0), half(static_cast<std::size_t>(p * l.stride)),
      turned(static_cast<std::size_t>(r * stride), 0.0), c(static_cast<std::size_t>(r * l.stride), 0.0);
  for (Index a = 0; a < p; ++a) {
    for (Index q = 0; q < r; ++q)
      turned[static_cast<std::size_t>(q * stride + a)] = v[static_cast<std::size_t>(a * l.stride + q)];
  }
  double worst = 0;
  for (Index k = 0; r > 0 && k < all.size(); ++k) {
    if (meets_[0][static_cast<std::size_t>(k)] == 0) continue;
    steps_.next();
    table_.block(all.at(k), plan_.patch, m.data(), stride);
    const std::vector<double> coupling = absolute(l.coefficients[static_cast<std::size_t>(k)]);
    for (Index q = 0; q < r; ++q) std::copy_n(coupling.data() + q * r, r, c.data() + q * l.stride);
    block_product(p, r, r, v.data(), l.stride, 1, c.data(), l.stride, half.data(), l.stride, false);
    block_product(p, p, r, half.data(), l.stride, 1, turned.data(), stride, e.data(), stride, false);
    for (Index i = 0; i < p; ++i) {
      for (Index j = 0; j < p; ++j) {
        const auto at = static_cast<std::size_t>(i * stride + j);
        if (std::abs(m[at]) >= 1e-7 * table_.largest) worst = std::max(worst, e[at] / std::abs(m[at]));
      }
    }
  }
  return worst;
}

double FieldSetup::entry_rounding() const {
  double operations = 4 + 3 * static_cast<double>(levels_[0].basis), worst = std::sqrt(operations) * leaf_rounding();
  std::vector<double> below = absolute(levels_[0].vectors);
  for (std::size_t level = 1; level < levels_.size(); ++level) {
    const Level &l = levels_[level], &lower = levels_[level - 1];
    const Index r = l.basis, children = backend::count(plan_.split[level]);
    const Index points = lower.stride > 0 ? static_cast<Index>(below.size()) / lower.stride : 0;
    const std::vector<double> transfer = absolute(l.vectors);
    std::vector<double> here(static_cast<std::size_t>(children * points * l.stride), 0.0), largest(static_cast<std::size_t>(r));
    for (Index c = 0; r > 0 && c < children; ++c) {
      block_product(points, r, lower.basis, below.data(), lower.stride, 1, transfer.data() + c * lower.basis * l.stride,
                    l.stride, here.data() + c * points * l.stride, l.stride, false);
    }
    for (Index a = 0; a < children * points; ++a) {
      for (Index q = 0; q < r; ++q) {
        double& most = largest[static_cast<std::size_t>(q)];
        most = std::max(most, here[static_cast<std::size_t>(a * l.stride + q)]);
      }
    }
    operations += 2 * static_cast<double>(r) + static_cast<double>(r - lower.basis);
    for (std::size_t k = 0; k < meets_[level].size(); ++k) {
      const double smallest = sizes_[level].smallest[k];
      if (meets_[level][k] == 0 || smallest == 0) continue;
      double sum = 0;
      for (Index q = 0; q < r; ++q) {
        for (Index s = 0; s < r; ++s) {
          sum += largest[static_cast<std::size_t>(q)] * std::abs(l.coefficients[k][static_cast<std::size_t>(q * r + s)]) *
                 largest[static_cast<std::size_t>(s)];
        }
      }
      worst = std::max(worst, std::sqrt(operations) * sum / smallest);
    }
    below = std::move(here);
  }
  return worst;
}

// The vectors of a level at the points of its patches, child after child, [points, stride].
std::vector<double> FieldSetup::vectors_of(std::size_t level, const std::vector<double>& points_below) const {
  const Level &l = levels_[level], &below = levels_[level - 1];
  const Index children = backend::count(plan_.split[level]);
  const Index points = below.stride > 0 ? static_cast<Index>(points_below.size()) / below.stride : 0;
  std::vector<double> v(static_cast<std::size_t>(children * points * l.stride), 0.0);
  for (Index c = 0; l.basis > 0 && c < children; ++c) {
    block_product(points, l.basis, below.basis, points_below.data(), below.stride, 1,
                  l.vectors.data() + c * below.basis * l.stride, l.stride, v.data() + c * points * l.stride, l.stride, false);
  }
  return v;
}

}  // namespace espalier::far_field
