// Engine "far-field" of grid masks: when it is offered, what it says of itself, its products.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field.hpp"

#include <espalier/core/error.hpp>

#include <algorithm>
#include <limits>
#include <sstream>

#include "masks/far_field_levels.hpp"

namespace espalier {

namespace {

using backend::Axes;

// Pairs of patches that meet on a level: far, with parents that are near. Axis by axis: pairs by |offset| and nearness.
double meetings(const PatchPlan& plan, std::size_t level) {
  const bool top = level + 1 == plan.patches.size();
  double close = 1, near = 1;  // pairs with near parents; near pairs, which are among them
  for (std::size_t t = 0; t < 3; ++t) {
    const Index n = plan.patches[level][t], split = top ? 1 : plan.split[level + 1][t];
    double c = 0, m = 0;
    for (Index i = 0; i < n; ++i) {
      const Index low = top ? 0 : std::max<Index>(0, (i / split - 1) * split);
      const Index high = top ? n : std::min(n, (i / split + 2) * split);
      c += static_cast<double>(high - low);
      m += static_cast<double>(std::min(n, i + 2) - std::max<Index>(0, i - 1));
    }
    close *= c;
    near *= m;
  }
  return close - near;
}

}  // namespace

template <class T>
FarFieldEngine<T>::FarFieldEngine(const GridSource& source, const MaskOptions& options, double tolerance)
    : plan_(patch_plan(source.sizes)), table_(source.table), options_(options), tolerance_(tolerance) {
  for (std::size_t l = 0; l < plan_.patches.size(); ++l) meetings_.push_back(meetings(plan_, l));
}

template <class T>
const FarFieldForm<T>& FarFieldEngine<T>::form() const {
  std::call_once(once_, [&] {
    if (is_rough(plan_, table_, tolerance_)) {
      form_.reason = "its values change from point to point: no low rank in a block of them";
      return;
    }
    form_ = far_field_form<T>(plan_, table_, tolerance_, options_.tolerance_kind);
  });
  return form_;
}

template <class T>
double FarFieldEngine<T>::far_flops(const std::vector<double>& basis, double fields, Shape shape) const {
  const double m = static_cast<double>(std::max<Index>(1, shape.rank)), c = static_cast<double>(shape.columns);
  double flops = 0;
  for (std::size_t l = 0; l < plan_.patches.size(); ++l) {
    const double r = basis[l];
    flops += meetings_[l] * 2 * r * r * m * c;
    if (l == 0) {
      flops += 4 * static_cast<double>(backend::count(plan_.sizes)) * r * m * c;
    } else {
      flops += 4 * static_cast<double>(backend::count(plan_.patches[l - 1])) * basis[l - 1] * r * m * c;
    }
  }
  return static_cast<double>(shape.heads) * fields * flops;
}

template <class T>
double FarFieldEngine<T>::seconds(double near, double far, double bytes, Shape shape) const {
  const CostModel& cost = options_.cost;
  const double slower = sizeof(T) / 4.0;
  const double far_speed = (shape.rank > 0 ? cost.chunk_flops : cost.chunk_plain_flops) / slower;
  return static_cast<double>(shape.heads) * cost.call_seconds + near * slower / cost.tile_flops + far / far_speed +
         bytes / cost.bandwidth;
}

template <class T>
Report FarFieldEngine<T>::report(Shape shape) const {
  const FarFieldForm<T>& f = form();
  const double heads = static_cast<double>(shape.heads), c = static_cast<double>(shape.columns);
  const double m = static_cast<double>(shape.rank), length = static_cast<double>(backend::count(plan_.sizes));
  const double near = heads * f.near_pairs * 2 * (m + c);
  double far = 0;
  std::ostringstream reason;
  for (const backend::PatchField<T>& field : f.grid.fields) {
    std::vector<double> basis;
    reason << (basis.empty() && &field == &f.grid.fields.front() ? "bases of " : "; ");
    for (const backend::PatchLevel<T>& l : field.levels) {
      reason << (basis.empty() ? "" : ", ") << l.basis;
      basis.push_back(static_cast<double>(l.basis));
    }
    far += far_flops(basis, 1, shape);
  }
  reason << (f.grid.fields.empty() ? "nothing far; " : " vectors by level, ") << "patches of " << backend::count(plan_.patch)
         << " points, exact tiles between neighbours";
  Report r;
  r.engine = "far-field";
  r.reason = reason.str();
  r.certificate = f.certificate;
  r.terms = f.grid.fields.empty() ? 0 : f.grid.fields.front().levels.front().basis;
  r.fitted_negative = f.maybe_negative;
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8;
  r.flops = near + far;
  // Into patch order and back, and the moments of every panel written and read.
  r.bytes = heads * sizeof(T) * length * (4 * m + 6 * c);
  r.predicted_seconds = seconds(near, far, r.bytes, shape);
  r.extra_bytes = backend::patch_bytes(f.grid, shape.rank, shape.columns) + f.set_up_bytes;
  r.row_wise = true;
  if (f.maybe_negative > 0) {
    r.warnings.push_back("the mask as applied may be negative at " + std::to_string(f.maybe_negative) +
                         " offsets where the mask is not");
  }
  if (options_.tolerance_kind != ToleranceKind::pointwise && f.certificate.pointwise.value_or(1) > 1e-3) {
    r.warnings.push_back(
        "entries far below the largest are not accurate one by one: a row whose large keys are far away loses digits "
        "(tolerance kind pointwise avoids it)");
  }
  return r;
}

template <class T>
void FarFieldEngine<T>::add_candidates(Shape shape, double best_other, std::vector<Report>& all) const {
  const bool forced = options_.engine == "far-field";
  const auto refuse = [&](const std::string& why) {
    if (forced) throw ValueError("engine 'far-field' cannot serve this mask: " + why);
  };
  if (tolerance_ == 0) return refuse("it is not exact, and the tolerance is 0");
  if (!plan_.refusal.empty()) return refuse(plan_.refusal);
  if (!forced && options_.engine != "auto") return;
  // Set-up takes a good part of a product's time: not where even bases of four vectors would not pay.
  const double near =
      static_cast<double>(shape.heads) * near_pairs(plan_) * 2 * static_cast<double>(shape.rank + shape.columns);
  const double least = seconds(near, far_flops(std::vector<double>(plan_.patches.size(), 4.0), 1, shape), 0, shape);
  if (!forced && least >= best_other) return;
  const FarFieldForm<T>& f = form();
  if (!f.met) return refuse(f.reason);
  all.push_back(report(shape));
}

template <class T>
void FarFieldEngine<T>::multiply(const std::string&, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                                 const Context<Cpu>& context) const {
  backend::patch_multiply<T, Cpu>(form().grid, x, y, transpose, context);
}
template <class T>
void FarFieldEngine<T>::multiply_low_rank(const std::string&, const LowRankInputs<T, Cpu>& in,
                                          const LowRankOutputs<T, Cpu>& out, bool transpose,
                                          const Context<Cpu>& context) const {
  backend::patch_low_rank<T, Cpu>(form().grid, in, out, transpose, context);
}
template <class T>
bool FarFieldEngine<T>::multiply_low_rank_vjp(const std::string&, const LowRankInputs<T, Cpu>& in,
                                              const LowRankCotangents<T, Cpu>& cotangents,
                                              const LowRankGradients<T, Cpu>& gradients, bool, std::vector<double>&,
                                              const Context<Cpu>& context) const {
  backend::patch_low_rank_vjp<T, Cpu>(form().grid, in, cotangents, gradients, context);
  return false;
}

template <class T>
std::unique_ptr<const GridEngine<T>> FarFieldEngine<T>::with_source(const GridSource& source) const {
  return std::make_unique<FarFieldEngine<T>>(source, options_, tolerance_);
}

template class FarFieldEngine<float>;
template class FarFieldEngine<double>;

}  // namespace espalier
