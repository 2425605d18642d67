// Far-field form of a grid mask: from patches to the product as stored, with its certificate.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field_form.hpp"

#include <espalier/core/random.hpp>

#include <Eigen/Dense>

#include <limits>
#include <sstream>

#include "backend/block_product.hpp"
#include "masks/far_field_levels.hpp"

namespace espalier {

using namespace far_field;
using backend::block_product;
using backend::padded_width;

PatchPlan patch_plan(const std::vector<Index>& sizes) {
  PatchPlan plan;
  std::vector<Index> axes;
  for (const Index n : sizes) {
    if (n > 1) axes.push_back(n);
  }
  if (axes.size() > 3) {
    plan.refusal = "it has more than three axes";
    return plan;
  }
  static constexpr Index kPoints[3][3] = {{64}, {16, 16}, {4, 8, 8}};
  Axes patches{1, 1, 1};
  for (std::size_t t = 0; t < axes.size(); ++t) {
    const std::size_t to = 3 - axes.size() + t;
    const Index n = axes[t], wanted = std::min(kPoints[axes.size() - 1][t], std::max<Index>(4, (n + 3) / 4));
    plan.sizes[to] = n;
    const Index parts = (n + wanted - 1) / wanted;
    plan.patch[to] = (n + parts - 1) / parts;
    patches[to] = (n + plan.patch[to] - 1) / plan.patch[to];
  }
  if (*std::max_element(patches.begin(), patches.end()) < 3) {
    plan.refusal = "no two patches of the grid are apart";
    return plan;
  }
  plan.patches.push_back(patches);
  plan.split.push_back({1, 1, 1});
  while (*std::max_element(patches.begin(), patches.end()) > 4) {
    Axes split{};
    for (std::size_t t = 0; t < 3; ++t) {
      split[t] = patches[t] > 1 ? 2 : 1;
      patches[t] = (patches[t] + split[t] - 1) / split[t];
    }
    plan.patches.push_back(patches);
    plan.split.push_back(split);
  }
  return plan;
}

double near_pairs(const PatchPlan& plan) {
  double pairs = 1;
  for (std::size_t t = 0; t < 3; ++t) {
    double axis = 0;
    const Index n = plan.sizes[t], p = plan.patch[t], patches = plan.patches.front()[t];
    const auto begin = [&](Index k) { return std::min(n, std::max<Index>(0, k) * p); };
    for (Index k = 0; k < patches; ++k) {
      axis += static_cast<double>(begin(k + 1) - begin(k)) * static_cast<double>(begin(k + 2) - begin(k - 1));
    }
    pairs *= axis;
  }
  return pairs;
}

bool is_rough(const PatchPlan& plan, const std::vector<double>& table, double tolerance) {
  Axes block{}, sizes{};
  for (std::size_t t = 0; t < 3; ++t) {
    sizes[t] = 2 * plan.sizes[t] - 1;
    block[t] = plan.sizes[0] > 1 ? 4 : plan.sizes[1] > 1 ? 8 : 64;
    block[t] = std::min(block[t], plan.patch[t]);
  }
  const Index points = backend::count(block), columns = 3 * points / 2;
  Eigen::MatrixXd family(points, columns);
  const Random random(23);
  std::uint64_t at = 0;
  for (Index k = 0; k < columns;) {
    Axes first{};
    bool far = false;
    for (std::size_t t = 0; t < 3; ++t) {
      first[t] = static_cast<Index>(random.below(at++, static_cast<std::uint64_t>(sizes[t] - block[t] + 1)));
      const Index low = first[t] - sizes[t] / 2, high = low + block[t] - 1;
      far = far || low >= plan.patch[t] || high <= -plan.patch[t];
    }
    if (!far) continue;
    for (Index a = 0; a < points; ++a) {
      Axes p = backend::place(a, block);
      for (std::size_t t = 0; t < 3; ++t) p[t] += first[t];
      family(a, k) = table[static_cast<std::size_t>(backend::flat(p, sizes))];
    }
    ++k;
  }
  // Each block counts alike: what is small everywhere but near must not hide that it is rough.
  for (Index k = 0; k < columns; ++k) {
    const double size = family.col(k).norm();
    if (size > 0) family.col(k) /= size;
  }
  const Eigen::VectorXd s = Eigen::BDCSVD<Eigen::MatrixXd>(family).singularValues();
  const double least = std::max(tolerance, 1e-5) * s[0];
  return s[0] > 0 && 4 * static_cast<Index>((s.array() > least).count()) > 3 * points;
}

namespace {

template <class T>
double rounded(double x) {
  return static_cast<double>(static_cast<T>(x));
}

// |V| of a level, [points of a patch, R] in any order of points, its column sums and maxima.
struct Absolute {
  Index points = 0, basis = 0;
  std::vector<double> values, sum, largest;
  explicit Absolute(const std::vector<double>& vectors, Index n, Index r, Index stride) : points(n), basis(r) {
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
};

// The whole set-up; one field so far: all far offsets.
template <class T>
class Builder {
 public:
  Builder(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind)
      : plan_(plan), table_(plan, table), original_(table), tolerance_(tolerance), kind_(kind) {}

  FarFieldForm<T> build() {
    FarFieldForm<T> form;
    form.near_pairs = near_pairs(plan_);
    measure_leaves();
    const Level all = full_level(offsets(0), backend::count(plan_.patch), leaf_block(), leaf_sizes_.largest, weights(),
                                 tolerance_, rounded<T>);
    // Estimates choose, the certificate decides.
    for (double share = 0.5; share > 0.01 && !form.met; share /= 4) {
      if (!choose(all, share)) break;
      certify(form);
    }
    if (form.met) {
      store(form);
      return form;
    }
    std::ostringstream text;
    if (form.certificate.row) {
      text << "its form has a row error of " << *form.certificate.row;
    } else {
      text << "its far values have no low rank: more than " << kMostBasis << " basis vectors a patch";
    }
    form.reason = text.str();
    return form;
  }

 private:
  Offsets offsets(std::size_t level) const { return Offsets(plan_.patches[level]); }
  Weights weights() const { return {kind_, table_.largest}; }
  BlockOf leaf_block() const {
    return [this](Index k, double* out, Index stride) { table_.block(offsets(0).at(k), plan_.patch, out, stride); };
  }

  void measure_leaves() {
    const Offsets all = offsets(0);
    const Index p = backend::count(plan_.patch), stride = padded_width(p);
    std::vector<double> m(static_cast<std::size_t>(p * stride));
    for (Index k = 0; k < all.size(); ++k) {
      double largest = 0, smallest = std::numeric_limits<double>::infinity();
      if (Offsets::far(all.at(k))) {
        table_.block(all.at(k), plan_.patch, m.data(), stride);
        for (Index a = 0; a < p; ++a) {
          for (Index b = 0; b < p; ++b) {
            const double v = std::abs(m[static_cast<std::size_t>(a * stride + b)]);
            largest = std::max(largest, v);
            if (v >= 1e-7 * table_.largest) smallest = std::min(smallest, v);
          }
        }
      }
      leaf_sizes_.largest.push_back(largest);
      leaf_sizes_.smallest.push_back(std::isfinite(smallest) ? smallest : 0);
    }
  }

  // Offset of children c (of the row's patch) and c (of the source's, mirrored) below offset o, as an index; -1 off the grid.
  Index child_offset(std::size_t level, const Axes& o, Index row_child, Index source_child) const {
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
  BlockOf coefficient_block(std::size_t level) const {
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
  Magnitudes parent_sizes(std::size_t level, const Magnitudes& below) const {
    Magnitudes m;
    const Offsets all = offsets(level);
    const Index children = backend::count(plan_.split[level]);
    for (Index k = 0; k < all.size(); ++k) {
      double largest = 0, smallest = std::numeric_limits<double>::infinity();
      for (Index c = 0; Offsets::far(all.at(k)) && c < children * children; ++c) {
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

  // Sets levels_ for a share of the tolerance; false where some level would need more vectors than there may be.
  bool choose(const Level& leaves, double share) {
    levels_.clear();
    sizes_ = {leaf_sizes_};
    double points = static_cast<double>(backend::count(plan_.patch));
    const auto tops = static_cast<double>(std::max<std::size_t>(1, plan_.patches.size() - 1));
    for (std::size_t l = 0; l < plan_.patches.size(); ++l) {
      Level all;
      if (l > 0) {
        points *= static_cast<double>(backend::count(plan_.split[l]));
        sizes_.push_back(parent_sizes(l, sizes_.back()));
        const Index rows = levels_.back().basis * backend::count(plan_.split[l]);
        if (rows > 0)
          all = full_level(offsets(l), rows, coefficient_block(l), sizes_.back().largest, weights(), tolerance_, rounded<T>);
        all.rows = rows;
        all.coefficients.resize(static_cast<std::size_t>(offsets(l).size()));
      }
      const Level& from = l == 0 ? leaves : all;
      // Bounds above the leaves are several times the errors themselves.
      const double mine = tolerance_ * share * (l == 0 ? 0.5 : 0.15 / tops);
      const Index basis = needed_basis(from, offsets(l), sizes_.back(), table_, points, kind_, mine);
      if (basis >= kMostBasis) return false;
      levels_.push_back(leading(from, basis, rounded<T>));
    }
    return true;
  }

  void certify(FarFieldForm<T>& form) {
    std::vector<LevelErrors> errors;
    errors.push_back(leaf_errors());
    Absolute below(levels_[0].vectors, levels_[0].rows, levels_[0].basis, levels_[0].stride);
    for (std::size_t l = 1; l < levels_.size(); ++l) {
      errors.push_back(upper_errors(l, below));
      below = absolute(l, vectors_of(l));
    }
    const double half = std::is_same_v<T, float> ? 0.5 * std::numeric_limits<float>::epsilon() : 0.0;
    double entry = 0, pointwise = 0;
    for (const LevelErrors& e : errors) {
      entry += *std::max_element(e.entry.begin(), e.entry.end());
      pointwise += *std::max_element(e.pointwise.begin(), e.pointwise.end());
    }
    form.maybe_negative = 0;
    for (const double v : original_) form.maybe_negative += v >= 0 && v < entry && v > 0 ? 1 : 0;
    form.certificate.row = worst_row(errors) + half;
    form.certificate.entry = table_.largest > 0 ? entry / table_.largest + half : 0.0;
    form.certificate.pointwise.reset();
    if (pointwise + half <= 1) form.certificate.pointwise = pointwise + half;
    const double value = kind_ == ToleranceKind::row     ? *form.certificate.row
                         : kind_ == ToleranceKind::entry ? *form.certificate.entry
                                                         : form.certificate.pointwise.value_or(2);
    form.met = value <= tolerance_;
  }

  // M - V C Vᵀ over every entry of every offset of leaves.
  LevelErrors leaf_errors() const {
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
      if (!Offsets::far(all.at(k))) continue;
      table_.block(all.at(k), plan_.patch, m.data(), stride);
      for (Index q = 0; q < r; ++q)
        std::copy_n(l.coefficients[static_cast<std::size_t>(k)].data() + q * r, r, c.data() + q * l.stride);
      if (r > 0) {
        block_product(p, r, r, l.vectors.data(), l.stride, 1, c.data(), l.stride, half.data(), l.stride, false);
        block_product(p, p, r, half.data(), l.stride, 1, turned.data(), stride, e.data(), stride, false);
      }
      double worst = 0, entry = 0, pointwise = 0;
      for (Index a = 0; a < p; ++a) {
        double sum = 0;
        for (Index b = 0; b < p; ++b) {
          const double v = m[static_cast<std::size_t>(a * stride + b)],
                       d = std::abs(v - e[static_cast<std::size_t>(a * stride + b)]);
          sum += d;
          entry = std::max(entry, d);
          if (std::abs(v) >= 1e-7 * table_.largest) pointwise = std::max(pointwise, d / std::abs(v));
        }
        worst = std::max(worst, sum);
      }
      errors.row[static_cast<std::size_t>(k)] = worst;
      errors.entry[static_cast<std::size_t>(k)] = entry;
      errors.pointwise[static_cast<std::size_t>(k)] = pointwise;
    }
    return errors;
  }

  // What replacing the children's coefficients B by U C Uᵀ adds: |V (B - U C Uᵀ) Vᵀ| <= |V| |B - U C Uᵀ| |V|ᵀ, V of the level
  // below.
  LevelErrors upper_errors(std::size_t level, const Absolute& below) const {
    const Level& l = levels_[level];
    const Offsets all = offsets(level);
    const Index rows = l.rows, stride = padded_width(rows), r = l.basis, children = backend::count(plan_.split[level]);
    LevelErrors errors(all.size());
    const BlockOf block = coefficient_block(level);
    std::vector<double> b(static_cast<std::size_t>(rows * stride)), gathered(static_cast<std::size_t>(below.basis));
    for (Index k = 0; rows > 0 && k < all.size(); ++k) {
      if (!Offsets::far(all.at(k))) continue;
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
      (void)r;
      errors.row[static_cast<std::size_t>(k)] = worst;
      errors.entry[static_cast<std::size_t>(k)] = entry;
      const double smallest = sizes_[level].smallest[static_cast<std::size_t>(k)];
      if (smallest > 0) errors.pointwise[static_cast<std::size_t>(k)] = entry / smallest;
    }
    return errors;
  }

  // b -= U C Uᵀ.
  static void subtract(const Level& l, const std::vector<double>& c, double* b, Index stride) {
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

  // The vectors of a level at the points of its patches, child after child, [points, stride].
  std::vector<double> vectors_of(std::size_t level) {
    if (level == 1) points_ = levels_[0].vectors;
    const Level &l = levels_[level], &below = levels_[level - 1];
    const Index children = backend::count(plan_.split[level]);
    const Index points = below.stride > 0 ? static_cast<Index>(points_.size()) / below.stride : 0;
    std::vector<double> v(static_cast<std::size_t>(children * points * l.stride), 0.0);
    for (Index c = 0; l.basis > 0 && c < children; ++c) {
      block_product(points, l.basis, below.basis, points_.data(), below.stride, 1,
                    l.vectors.data() + c * below.basis * l.stride, l.stride, v.data() + c * points * l.stride, l.stride, false);
    }
    points_ = v;
    return v;
  }
  Absolute absolute(std::size_t level, const std::vector<double>& v) const {
    const Level& l = levels_[level];
    return Absolute(v, l.stride > 0 ? static_cast<Index>(v.size()) / l.stride : 0, l.basis, l.stride);
  }

  double worst_row(const std::vector<LevelErrors>& errors) const;
  void store(FarFieldForm<T>& form) const;

  const PatchPlan& plan_;
  WholeTable table_;
  const std::vector<double>& original_;
  double tolerance_;
  ToleranceKind kind_;
  Magnitudes leaf_sizes_;
  std::vector<Magnitudes> sizes_;
  std::vector<Level> levels_;
  std::vector<double> points_;
};

// Sums over boxes of a d-dimensional array of values >= 0.
class BoxSums {
 public:
  BoxSums(const std::vector<double>& values, const Axes& sizes) : sizes_{sizes[0] + 1, sizes[1] + 1, sizes[2] + 1} {
    sums_.assign(static_cast<std::size_t>(backend::count(sizes_)), 0.0);
    for (Index k = 0; k < static_cast<Index>(values.size()); ++k) {
      const Axes p = backend::place(k, sizes);
      sums_[static_cast<std::size_t>(backend::flat({p[0] + 1, p[1] + 1, p[2] + 1}, sizes_))] =
          values[static_cast<std::size_t>(k)];
    }
    for (std::size_t t = 0; t < 3; ++t) {
      const Index step = t == 2 ? 1 : t == 1 ? sizes_[2] : sizes_[1] * sizes_[2];
      for (Index k = 0; k < static_cast<Index>(sums_.size()); ++k) {
        if (backend::place(k, sizes_)[t] > 0) sums_[static_cast<std::size_t>(k)] += sums_[static_cast<std::size_t>(k - step)];
      }
    }
  }
  // low <= index < high along each axis.
  double operator()(const Axes& low, const Axes& high) const {
    double total = 0;
    for (int corner = 0; corner < 8; ++corner) {
      Axes at{};
      int minus = 0;
      for (std::size_t t = 0; t < 3; ++t) {
        const bool lower = ((corner >> t) & 1) != 0;
        at[t] = lower ? low[t] : high[t];
        minus += lower ? 1 : 0;
      }
      const double v = sums_[static_cast<std::size_t>(backend::flat(at, sizes_))];
      total += minus % 2 == 0 ? v : -v;
    }
    return total;
  }
  double all() const { return sums_.back(); }

 private:
  Axes sizes_;
  std::vector<double> sums_;
};

// The worst row of M and of Mᵀ. A row of M at grid point i sees the offsets i - (n - 1) .. i, a row of Mᵀ the offsets -i ..
// n - 1 - i; the patches of each level likewise, and each pair of patches that is far on a level adds that level's error there.
template <class T>
double Builder<T>::worst_row(const std::vector<LevelErrors>& errors) const {
  std::vector<double> sizes_of_entries(original_);
  for (double& v : sizes_of_entries) v = std::abs(v);
  const Axes &n = plan_.sizes, leaves = plan_.patches[0];
  const BoxSums norms(sizes_of_entries, {2 * n[0] - 1, 2 * n[1] - 1, 2 * n[2] - 1});
  std::vector<BoxSums> sums;
  for (std::size_t l = 0; l < errors.size(); ++l) sums.emplace_back(errors[l].row, offsets(l).sizes);
  // Differences of sums: what rounding may take from one.
  const double slack = 1e-13;
  double worst = 0;
  for (const bool transposed : {false, true}) {
    const auto window = [&](const BoxSums& box, const Axes& at, const Axes& size) {
      Axes low{}, high{};
      for (std::size_t t = 0; t < 3; ++t) {
        low[t] = transposed ? size[t] - 1 - at[t] : at[t];
        high[t] = low[t] + size[t];
      }
      return box(low, high);
    };
    std::vector<double> norm(static_cast<std::size_t>(backend::count(leaves)), std::numeric_limits<double>::infinity());
    for (Index i = 0; i < backend::count(n); ++i) {
      const Axes p = backend::place(i, n);
      double& least = norm[static_cast<std::size_t>(
          backend::flat({p[0] / plan_.patch[0], p[1] / plan_.patch[1], p[2] / plan_.patch[2]}, leaves))];
      least = std::min(least, window(norms, p, n) - slack * norms.all());
    }
    for (Index leaf = 0; leaf < backend::count(leaves); ++leaf) {
      double error = 0;
      Axes at = backend::place(leaf, leaves);
      for (std::size_t l = 0; l < errors.size(); ++l) {
        for (std::size_t t = 0; t < 3; ++t) at[t] /= plan_.split[l][t];
        error += window(sums[l], at, plan_.patches[l]) + slack * sums[l].all();
      }
      const double least = norm[static_cast<std::size_t>(leaf)];
      if (error > 0) worst = std::max(worst, least > 0 ? error / least : std::numeric_limits<double>::infinity());
    }
  }
  return worst;
}

template <class T>
void Builder<T>::store(FarFieldForm<T>& form) const {
  backend::PatchedGrid<T>& grid = form.grid;
  grid.sizes = plan_.sizes;
  grid.patch = plan_.patch;
  backend::lay_out_patches(original_, grid);
  backend::PatchField<T> field;
  for (std::size_t l = 0; l < levels_.size(); ++l) {
    const Level& from = levels_[l];
    backend::PatchLevel<T> to;
    to.patches = plan_.patches[l];
    to.split = plan_.split[l];
    to.basis = from.basis;
    std::vector<T>& vectors = l == 0 ? field.leaf : to.transfer;
    for (Index i = 0; i < from.rows; ++i) {
      for (Index q = 0; q < from.basis; ++q)
        vectors.push_back(static_cast<T>(from.vectors[static_cast<std::size_t>(i * from.stride + q)]));
    }
    const Offsets all = offsets(l);
    const bool top = l + 1 == levels_.size();
    for (Index k = 0; k < all.size(); ++k) {
      const Axes o = all.at(k);
      // Patches whose parents are near are at most three apart; on the top all meet.
      const bool meets = top || std::all_of(o.begin(), o.end(), [](Index v) { return v >= -3 && v <= 3; });
      const std::vector<double>& c = from.coefficients[static_cast<std::size_t>(k)];
      if (!Offsets::far(o) || !meets || std::all_of(c.begin(), c.end(), [](double v) { return v == 0; })) continue;
      to.offsets.push_back(o);
      for (const double v : c) to.coupling.push_back(static_cast<T>(v));
    }
    field.levels.push_back(std::move(to));
  }
  // Nothing far: every far entry is 0, or small enough to be left out.
  if (field.levels.front().basis > 0) grid.fields.push_back(std::move(field));
}

}  // namespace

template <class T>
FarFieldForm<T> far_field_form(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind) {
  return Builder<T>(plan, table, tolerance, kind).build();
}

template FarFieldForm<float> far_field_form(const PatchPlan&, const std::vector<double>&, double, ToleranceKind);
template FarFieldForm<double> far_field_form(const PatchPlan&, const std::vector<double>&, double, ToleranceKind);

}  // namespace espalier
