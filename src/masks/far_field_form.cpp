// Far-field form of a grid mask: from patches to the product as stored, with its certificate.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field_form.hpp"

#include <espalier/core/random.hpp>

#include <Eigen/Dense>

#include <array>
#include <limits>
#include <optional>
#include <sstream>

#include "backend/block_product.hpp"
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

// Pairs of patches of a level that meet at one of these offsets.
double meeting_pairs(const PatchPlan& plan, std::size_t level, const std::vector<char>& set) {
  const Offsets all(plan.patches[level]);
  const bool top = level + 1 == plan.patches.size();
  double pairs = 0;
  for (Index k = 0; k < all.size(); ++k) {
    if (set[static_cast<std::size_t>(k)] == 0) continue;
    const Axes o = all.at(k);
    double at_offset = 1;
    for (std::size_t t = 0; t < 3; ++t) {
      const Index split = top ? plan.patches[level][t] : plan.split[level + 1][t];
      Index n = 0;
      for (Index i = std::max<Index>(0, o[t]); i < std::min(plan.patches[level][t], plan.patches[level][t] + o[t]); ++i) {
        const Index d = i / split - (i - o[t]) / split;
        n += d >= -1 && d <= 1 ? 1 : 0;
      }
      at_offset *= static_cast<double>(n);
    }
    pairs += at_offset;
  }
  return pairs;
}

// Flops of a field's moments, transfers and couplings, for each feature and column.
double field_work(const PatchPlan& plan, const FieldSetup& field) {
  double work = 0, below = static_cast<double>(backend::count(plan.sizes));
  for (std::size_t l = 0; l < plan.patches.size(); ++l) {
    const double r = static_cast<double>(field.levels()[l].basis),
                 patches = static_cast<double>(backend::count(plan.patches[l]));
    work += 4 * below * r + 2 * r * r * meeting_pairs(plan, l, field.meets()[l]);
    below = patches * r;
  }
  return work;
}

// Offsets that meet on each level, those with `zeros`[t] equal to whether o_t is 0; all where `zeros` is empty.
OffsetSets meeting_offsets(const PatchPlan& plan, const std::optional<std::array<bool, 3>>& zeros) {
  OffsetSets sets;
  for (std::size_t l = 0; l < plan.patches.size(); ++l) {
    const Offsets all(plan.patches[l]);
    const bool top = l + 1 == plan.patches.size();
    std::vector<char> set;
    for (Index k = 0; k < all.size(); ++k) {
      const Axes o = all.at(k);
      // Patches whose parents are near are at most three apart; on the top all meet.
      bool meets = Offsets::far(o);
      for (std::size_t t = 0; t < 3; ++t) {
        meets = meets && (top || (o[t] >= -3 && o[t] <= 3)) && (!zeros || (*zeros)[t] == (o[t] == 0));
      }
      set.push_back(meets ? 1 : 0);
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

// The whole set-up: one field for all far offsets, or one for each set of axes along which patches are level with each other.
template <class T>
class Builder {
 public:
  Builder(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind)
      : plan_(plan), given_(table), table_(plan, table), tolerance_(tolerance), kind_(kind) {}

  FarFieldForm<T> build() {
    FarFieldForm<T> one = form_of({FieldSetup(plan_, table_, kind_, meeting_offsets(plan_, std::nullopt), rounded<T>)});
    const bool several = std::count_if(plan_.sizes.begin(), plan_.sizes.end(), [](Index n) { return n > 1; }) > 1;
    if (!several || (one.met && one.grid.fields.size() == 1 && one.grid.fields[0].levels[0].basis <= kEnough)) return one;
    FarFieldForm<T> split = form_of(fields_by_axes());
    return split.met && (!one.met || split.far_work < one.far_work) ? std::move(split) : std::move(one);
  }

 private:
  // A basis of so few vectors is not worth dividing.
  static constexpr Index kEnough = 40;

  // Kinks along the axes (of the sum of absolute offsets, say) are between patches unless these are level: then most pairs are
  // smooth, and the others few.
  std::vector<FieldSetup> fields_by_axes() const {
    std::vector<FieldSetup> fields;
    for (int zeros = 0; zeros < 7; ++zeros) {
      const std::array<bool, 3> level{(zeros & 1) != 0, (zeros & 2) != 0, (zeros & 4) != 0};
      OffsetSets sets = meeting_offsets(plan_, level);
      const bool any = std::any_of(sets.begin(), sets.end(),
                                   [](const std::vector<char>& s) { return std::count(s.begin(), s.end(), 1) > 0; });
      if (any) fields.emplace_back(plan_, table_, kind_, std::move(sets), rounded<T>);
    }
    return fields;
  }

  FarFieldForm<T> form_of(std::vector<FieldSetup> fields) const {
    FarFieldForm<T> form;
    form.near_pairs = near_pairs(plan_);
    // Estimates choose, the certificate decides; vectors that do not matter at a thousandth of the tolerance are only looked at
    // where the others do not do.
    for (const double precision : {1e-3, 1e-6}) {
      for (FieldSetup& field : fields) field.find_leaves(precision * tolerance_);
      double share = 0.5;
      for (int attempt = 0; attempt < 4; ++attempt) {
        const double each = kind_ == ToleranceKind::row ? static_cast<double>(fields.size()) : 1.0;
        if (!std::all_of(fields.begin(), fields.end(), [&](FieldSetup& f) { return f.choose(share * tolerance_ / each); }))
          break;
        certify(fields, form);
        if (form.met) {
          store(fields, form);
          return form;
        }
        share *= std::clamp(0.5 * tolerance_ / certified(form), 0.01, 0.5);
      }
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

  double certified(const FarFieldForm<T>& form) const {
    return kind_ == ToleranceKind::row     ? *form.certificate.row
           : kind_ == ToleranceKind::entry ? *form.certificate.entry
                                           : form.certificate.pointwise.value_or(2);
  }

  void certify(const std::vector<FieldSetup>& fields, FarFieldForm<T>& form) const {
    const double half = std::is_same_v<T, float> ? 0.5 * std::numeric_limits<float>::epsilon() : 0.0;
    double entry = 0, pointwise = 0;
    std::vector<std::vector<double>> rows(plan_.patches.size());
    for (const FieldSetup& field : fields) {
      // A pair belongs to one field and has the errors of every level up to where it meets.
      double field_entry = 0, field_pointwise = 0;
      const std::vector<LevelErrors> errors = field.errors();
      for (std::size_t l = 0; l < errors.size(); ++l) {
        field_entry += *std::max_element(errors[l].entry.begin(), errors[l].entry.end());
        field_pointwise += *std::max_element(errors[l].pointwise.begin(), errors[l].pointwise.end());
        rows[l].resize(errors[l].row.size(), 0.0);
        for (std::size_t k = 0; k < rows[l].size(); ++k) rows[l][k] += errors[l].row[k];
      }
      entry = std::max(entry, field_entry);
      pointwise = std::max(pointwise, field_pointwise);
    }
    form.maybe_negative = std::count_if(given_.begin(), given_.end(), [&](double v) { return v > 0 && v < entry; });
    form.certificate.row = worst_row(plan_, given_, rows) + half;
    form.certificate.entry = table_.largest > 0 ? entry / table_.largest + half : 0.0;
    form.certificate.pointwise.reset();
    if (pointwise + half <= 1) form.certificate.pointwise = pointwise + half;
    form.met = certified(form) <= tolerance_;
  }

  void store(const std::vector<FieldSetup>& fields, FarFieldForm<T>& form) const;

  const PatchPlan& plan_;
  const std::vector<double>& given_;
  WholeTable table_;
  double tolerance_;
  ToleranceKind kind_;
};

template <class T>
void Builder<T>::store(const std::vector<FieldSetup>& fields, FarFieldForm<T>& form) const {
  backend::PatchedGrid<T>& grid = form.grid;
  grid.sizes = plan_.sizes;
  grid.patch = plan_.patch;
  backend::lay_out_patches(given_, grid);
  form.far_work = 0;
  for (const FieldSetup& setup : fields) {
    backend::PatchField<T> field;
    for (std::size_t l = 0; l < setup.levels().size(); ++l) {
      const Level& from = setup.levels()[l];
      backend::PatchLevel<T> to;
      to.patches = plan_.patches[l];
      to.split = plan_.split[l];
      to.basis = from.basis;
      std::vector<T>& vectors = l == 0 ? field.leaf : to.transfer;
      for (Index i = 0; i < from.rows; ++i) {
        for (Index q = 0; q < from.basis; ++q) {
          vectors.push_back(static_cast<T>(from.vectors[static_cast<std::size_t>(i * from.stride + q)]));
        }
      }
      const Offsets all(plan_.patches[l]);
      for (Index k = 0; k < all.size(); ++k) {
        const std::vector<double>& c = from.coefficients[static_cast<std::size_t>(k)];
        if (setup.meets()[l][static_cast<std::size_t>(k)] == 0 ||
            std::all_of(c.begin(), c.end(), [](double v) { return v == 0; })) {
          continue;
        }
        to.offsets.push_back(all.at(k));
        for (const double v : c) to.coupling.push_back(static_cast<T>(v));
      }
      field.levels.push_back(std::move(to));
    }
    // Without vectors every far entry is 0, or small enough to be left out.
    if (field.levels.front().basis == 0) continue;
    form.far_work += field_work(plan_, setup);
    grid.fields.push_back(std::move(field));
  }
}

}  // namespace

template <class T>
FarFieldForm<T> far_field_form(const PatchPlan& plan, const std::vector<double>& table, double tolerance, ToleranceKind kind) {
  return Builder<T>(plan, table, tolerance, kind).build();
}

template FarFieldForm<float> far_field_form(const PatchPlan&, const std::vector<double>&, double, ToleranceKind);
template FarFieldForm<double> far_field_form(const PatchPlan&, const std::vector<double>&, double, ToleranceKind);

}  // namespace espalier
