// Far-field form of a grid mask: from patches to the product as stored, with its certificate.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field_form.hpp"

#include <espalier/core/random.hpp>

#include <Eigen/Dense>

#include <array>
#include <limits>
#include <sstream>

#include "backend/block_product.hpp"
#include "backend/work.hpp"
#include "masks/certified_error.hpp"
#include "masks/far_field_field.hpp"

namespace espalier {

using namespace far_field;

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
    // 3 or 4 patches, doubled: no level then has a patch with children beyond the grid.
    Index parts = (n + wanted - 1) / wanted, whole = parts <= 4 ? parts : 3;
    while (whole < parts) whole = whole % 3 == 0 ? whole / 3 * 4 : whole / 2 * 3;
    parts = whole;
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

double near_runs(const PatchPlan& plan, bool cross) {
  const auto close = [&](std::size_t t) {
    const auto patches = static_cast<double>(plan.patches.front()[t]);
    return patches > 1 ? 3 - 2 / patches : 1;
  };
  const double rows = cross ? static_cast<double>(plan.patches.front()[1]) : close(1);
  return static_cast<double>(backend::count(plan.patches.front())) * close(0) * rows;
}

double near_pairs(const PatchPlan& plan, bool cross) {
  double pairs = 1, same[3], close[3];  // pairs of points of one axis in one patch, in neighbours
  for (std::size_t t = 0; t < 3; ++t) {
    const Index n = plan.sizes[t], p = plan.patch[t], patches = plan.patches.front()[t];
    const auto begin = [&](Index k) { return std::min(n, std::max<Index>(0, k) * p); };
    same[t] = close[t] = 0;
    for (Index k = 0; k < patches; ++k) {
      const double own = static_cast<double>(begin(k + 1) - begin(k));
      same[t] += own * own;
      close[t] += own * static_cast<double>(begin(k + 2) - begin(k - 1));
    }
    pairs *= close[t];
  }
  if (!cross) return pairs;
  const auto all = [&](std::size_t t) { return static_cast<double>(plan.sizes[t]) * static_cast<double>(plan.sizes[t]); };
  return pairs + same[1] * (all(2) - close[2]) + same[2] * (all(1) - close[1]);
}

bool is_rough(const PatchPlan& plan, const std::vector<double>& table, double tolerance) {
  Axes block{}, sizes{};
  for (std::size_t t = 0; t < 3; ++t) {
    sizes[t] = 2 * plan.sizes[t] - 1;
    block[t] = plan.sizes[0] > 1 ? 4 : plan.sizes[1] > 1 ? 8 : 64;
    block[t] = std::min(block[t], plan.patch[t]);
  }
  const Index points = backend::count(block), columns = 3 * points / 2;
  // So few points have full rank at many a tolerance, and cost nothing to try.
  if (points < 48) return false;
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
double worst_row(const PatchPlan& plan, const std::vector<double>& table, const std::vector<std::vector<double>>& errors) {
  std::vector<double> sizes_of_entries(table);
  for (double& v : sizes_of_entries) v = std::abs(v);
  const Axes &n = plan.sizes, leaves = plan.patches[0];
  const BoxSums norms(sizes_of_entries, {2 * n[0] - 1, 2 * n[1] - 1, 2 * n[2] - 1});
  std::vector<BoxSums> sums;
  for (std::size_t l = 0; l < errors.size(); ++l) sums.emplace_back(errors[l], Offsets(plan.patches[l]).sizes);
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
          backend::flat({p[0] / plan.patch[0], p[1] / plan.patch[1], p[2] / plan.patch[2]}, leaves))];
      least = std::min(least, window(norms, p, n) - slack * norms.all());
    }
    for (Index leaf = 0; leaf < backend::count(leaves); ++leaf) {
      double error = 0;
      Axes at = backend::place(leaf, leaves);
      for (std::size_t l = 0; l < errors.size(); ++l) {
        for (std::size_t t = 0; t < 3; ++t) at[t] /= plan.split[l][t];
        error += window(sums[l], at, plan.patches[l]) + slack * sums[l].all();
      }
      const double least = norm[static_cast<std::size_t>(leaf)];
      if (error > 0) worst = std::max(worst, least > 0 ? error / least : std::numeric_limits<double>::infinity());
    }
  }
  return worst;
}

// Pairs of patches of a level at offset o that meet there: those on the grid whose parents are not apart.
double meeting_pairs(const PatchPlan& plan, std::size_t level, const Axes& o, bool cross) {
  const bool top = level + 1 == plan.patches.size();
  // Along each axis the parents' offset is one of two.
  struct Parents {
    Index low = 0;
    double count[2] = {0, 0};
  };
  std::array<Parents, 3> parents;
  for (std::size_t t = 0; t < 3; ++t) {
    const Index n = plan.patches[level][t], split = top ? 1 : plan.split[level + 1][t];
    Parents& p = parents[t];
    p.low = o[t] >= 0 ? o[t] / split : -((-o[t] + split - 1) / split);
    for (Index i = std::max<Index>(0, o[t]); i < std::min(n, n + o[t]); ++i) ++p.count[i / split - (i - o[t]) / split - p.low];
  }
  double pairs = 0;
  for (std::size_t k = 0; k < 8; ++k) {
    const std::size_t a = k & 1, b = (k >> 1) & 1, c = k >> 2;
    const Axes above{parents[0].low + static_cast<Index>(a), parents[1].low + static_cast<Index>(b),
                     parents[2].low + static_cast<Index>(c)};
    if (top || !backend::apart(above, cross)) pairs += parents[0].count[a] * parents[1].count[b] * parents[2].count[c];
  }
  return pairs;
}

// A field's moments, transfers and couplings.
FarWork field_work(const PatchPlan& plan, const FieldSetup& field, bool cross) {
  const backend::KernelWork w = backend::kernel_work(sizeof(float));
  FarWork work;
  work.basis = static_cast<double>(field.levels().front().basis);
  // Children of a patch, or points of a leaf: how many in all, vectors of each, rows of a block product.
  double parts = static_cast<double>(backend::count(plan.sizes)), each = 1;
  double part_rows = parts / static_cast<double>(backend::count(plan.patches.front()));
  for (std::size_t l = 0; l < plan.patches.size(); ++l) {
    const Offsets all(plan.patches[l]);
    const double r = static_cast<double>(field.levels()[l].basis),
                 patches = static_cast<double>(backend::count(plan.patches[l]));
    double meeting = 0;
    for (Index k = 0; k < all.size(); ++k) {
      if (field.meets()[l][static_cast<std::size_t>(k)] != 0) meeting += meeting_pairs(plan, l, all.at(k), cross);
    }
    work.flops += 4 * parts * each * r + 2 * r * r * meeting;
    const double up = parts * each * (l == 0 ? r : w.block_rows(r)),
                 down = parts * w.block_rows(part_rows) * (l == 0 ? 1 / part_rows : 1) * r;
    work.executed += 2 * (up + down + w.block_rows(r) * r * meeting);
    work.calls += 2 * (l == 0 ? patches : parts) + meeting;
    parts = patches, each = r, part_rows = r;
  }
  return work;
}

// Offsets at which some pair of patches meets, by level.
OffsetSets meeting_offsets(const PatchPlan& plan, bool cross) {
  OffsetSets sets;
  for (std::size_t l = 0; l < plan.patches.size(); ++l) {
    const Offsets all(plan.patches[l]);
    std::vector<char> set;
    for (Index k = 0; k < all.size(); ++k) {
      const Axes o = all.at(k);
      set.push_back(backend::apart(o, cross) && meeting_pairs(plan, l, o, cross) > 0 ? 1 : 0);
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

// The whole set-up. Functions of the sum of absolute offsets, say, have kinks along the axes. Between patches that are not
// level with each other these do not show: where all far offsets together need many vectors, level pairs of a grid of two axes
// go to the tiles, an n-th of all pairs for patches n to an axis, and the rest needs few.
template <class T>
class Builder {
 public:
  Builder(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind,
          const SetUpWatch& watch, std::shared_ptr<const FarFieldStart> start)
      : plan_(plan),
        given_(table),
        table_(plan, table),
        tolerance_(tolerance),
        kind_(kind),
        steps_(watch),
        start_(std::move(start)) {}

  FarFieldForm<T> build() {
    FarFieldForm<T> form = best_form();
    steps_.end();
    return form;
  }

 private:
  FarFieldForm<T> best_form() {
    if (start_) {
      FarFieldForm<T> again = form_of_start();
      if (again.met) return again;
    }
    const bool may_cross = plan_.sizes[0] == 1 && plan_.sizes[1] > 1;
    FarFieldForm<T> all = form_of(false, may_cross ? kEnough : kMostBasis);
    if (all.met || !may_cross) return all;
    FarFieldForm<T> cross = form_of(true, kMostBasis);
    if (cross.met) return cross;
    return form_of(false, kMostBasis);
  }

  // A basis of so few vectors of a leaf is better than level pairs by tiles.
  static constexpr Index kEnough = 48;

  FarFieldForm<T> form_of_start() {
    FarFieldForm<T> form = empty_form(start_->cross);
    FieldSetup field(plan_, table_, kind_, meeting_offsets(plan_, start_->cross), rounded<T>, steps_);
    steps_.begin(field.offsets_of_an_attempt());
    field.take_leaves(*start_);
    if (!field.choose(start_->share * tolerance_, start_->most)) return form;
    if (4 * field.levels().front().basis > 5 * start_->basis) return form;
    finish(field, form);
    form.start = start_;
    return form;
  }

  FarFieldForm<T> empty_form(bool cross) const {
    FarFieldForm<T> form;
    form.near_pairs = near_pairs(plan_, cross);
    form.grid.cross = cross;
    return form;
  }

  // The certificate, and where it is met all that is stored.
  void finish(const FieldSetup& field, FarFieldForm<T>& form) const {
    certify(field, form);
    if (!form.met) return;
    // Four times the standard deviation, of unit roundoffs.
    if (kind_ == ToleranceKind::pointwise) {
      form.entry_rounding = 4 * 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon()) * field.entry_rounding();
    }
    store(field, form);
  }

  FarFieldForm<T> form_of(bool cross, Index most) {
    FarFieldForm<T> form = empty_form(cross);
    FieldSetup field(plan_, table_, kind_, meeting_offsets(plan_, cross), rounded<T>, steps_);
    // Estimates choose, the certificate decides; vectors that do not matter at a thousandth of the tolerance are only looked at
    // where the others do not do.
    for (const double precision : {1e-3, 1e-6}) {
      steps_.begin(field.offsets_of_an_attempt());
      field.find_leaves(precision * tolerance_);
      double share = 0.5;
      for (int attempt = 0; attempt < 4 && field.choose(share * tolerance_, most); ++attempt) {
        if (attempt > 0) steps_.begin(field.offsets_of_an_attempt());
        finish(field, form);
        if (form.met) {
          const Level& leaves = field.leaves();
          form.start = std::make_shared<const FarFieldStart>(FarFieldStart{
              cross, precision * tolerance_, share, most, field.levels().front().basis, leaves.basis, leaves.vectors});
          return form;
        }
        share *= std::clamp(0.5 * tolerance_ / certified(form), 0.01, 0.5);
      }
    }
    std::ostringstream text;
    if (form.certificate.row) {
      text << "its form has " << missed_tolerance(form.certificate, kind_, tolerance_);
    } else {
      text << "its far values have no low rank: more than " << most << " basis vectors a patch";
    }
    form.reason = text.str();
    return form;
  }

  double certified(const FarFieldForm<T>& form) const { return error_of_kind(form.certificate, kind_).value_or(2); }

  void certify(const FieldSetup& field, FarFieldForm<T>& form) const {
    const double half = std::is_same_v<T, float> ? 0.5 * std::numeric_limits<float>::epsilon() : 0.0;
    double entry = 0, pointwise = 0;
    std::vector<std::vector<double>> rows;
    // A pair has the errors of every level up to where it meets.
    for (const LevelErrors& e : field.errors()) {
      entry += *std::max_element(e.entry.begin(), e.entry.end());
      pointwise += *std::max_element(e.pointwise.begin(), e.pointwise.end());
      rows.push_back(e.row);
    }
    form.maybe_negative = std::count_if(given_.begin(), given_.end(), [&](double v) { return v > 0 && v < entry; });
    form.certificate.row = worst_row(plan_, given_, rows) + half;
    form.certificate.entry = table_.largest > 0 ? entry / table_.largest + half : 0.0;
    form.certificate.pointwise.reset();
    if (pointwise + half <= 1) form.certificate.pointwise = pointwise + half;
    form.met = certified(form) <= tolerance_;
  }

  void store(const FieldSetup& field, FarFieldForm<T>& form) const;

  const PatchPlan& plan_;
  const std::vector<double>& given_;
  WholeTable table_;
  double tolerance_;
  ToleranceKind kind_;
  Steps steps_;
  std::shared_ptr<const FarFieldStart> start_;
};

template <class T>
void Builder<T>::store(const FieldSetup& setup, FarFieldForm<T>& form) const {
  backend::PatchedGrid<T>& grid = form.grid;
  grid.sizes = plan_.sizes;
  grid.patch = plan_.patch;
  backend::lay_out_patches(given_, grid);
  form.set_up_bytes = setup.bytes() + sizeof(double) * (3 * given_.size() + 6 * table_.values.size()) +
                      sizeof(double) * setup.leaves().vectors.size() +
                      2 * sizeof(T) * (grid.near.size() + grid.near_mirrored.size()) + 24 * grid.index.size();
  // Without vectors every far entry is 0, or small enough to be left out.
  if (setup.levels().front().basis == 0) return;
  form.far = field_work(plan_, setup, grid.cross);
  for (std::size_t l = 0; l < setup.levels().size(); ++l) {
    const Level& from = setup.levels()[l];
    backend::PatchLevel<T> to;
    to.patches = plan_.patches[l];
    to.split = plan_.split[l];
    to.basis = from.basis;
    std::vector<T>& vectors = l == 0 ? grid.leaf : to.transfer;
    for (Index i = 0; i < from.rows; ++i) {
      for (Index q = 0; q < from.basis; ++q) {
        vectors.push_back(static_cast<T>(from.vectors[static_cast<std::size_t>(i * from.stride + q)]));
      }
    }
    const Offsets all(plan_.patches[l]);
    for (Index k = 0; k < all.size(); ++k) {
      const std::vector<double>& c = from.coefficients[static_cast<std::size_t>(k)];
      const bool meets = setup.meets()[l][static_cast<std::size_t>(k)] != 0;
      if (!meets || std::all_of(c.begin(), c.end(), [](double v) { return v == 0; })) continue;
      to.offsets.push_back(all.at(k));
      for (const double v : c) to.coupling.push_back(static_cast<T>(v));
    }
    grid.levels.push_back(std::move(to));
  }
}

}  // namespace

template <class T>
FarFieldForm<T> far_field_form(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind,
                               const SetUpWatch& watch, const std::shared_ptr<const FarFieldStart>& start) {
  return Builder<T>(plan, table, tolerance, kind, watch, start).build();
}

template FarFieldForm<float> far_field_form(const PatchPlan&, const std::vector<double>&, double, ToleranceKind,
                                            const SetUpWatch&, const std::shared_ptr<const FarFieldStart>&);
template FarFieldForm<double> far_field_form(const PatchPlan&, const std::vector<double>&, double, ToleranceKind,
                                             const SetUpWatch&, const std::shared_ptr<const FarFieldStart>&);

}  // namespace espalier
