// Engine "far-field" of grid masks: when it is offered, what it says of itself, its products.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field.hpp"

#include <espalier/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "backend/block_product.hpp"
#include "backend/work.hpp"
#include "masks/grid_cost.hpp"

namespace espalier {

namespace {

// A set-up that found no form finds none a step later either: unless it is forced it is made again after so many.
constexpr Index kStepsWithout = 32;

}  // namespace

template <class T>
FarFieldEngine<T>::FarFieldEngine(const GridSource& source, const MaskOptions& options, double tolerance,
                                  std::shared_ptr<const FarFieldStart> start, Index failed)
    : plan_(patch_plan(source.sizes)),
      table_(source.table),
      options_(options),
      tolerance_(tolerance),
      start_(std::move(start)),
      failed_(failed) {
  double largest = 0;
  for (const double v : table_) largest = std::max(largest, std::abs(v));
  const double least = 1e-3 * tolerance * largest;
  const auto counts = std::count_if(table_.begin(), table_.end(), [&](double v) { return std::abs(v) > least; });
  filled_ = static_cast<double>(counts) / static_cast<double>(std::max<std::size_t>(1, table_.size()));
}

template <class T>
const FarFieldForm<T>& FarFieldEngine<T>::form(const SetUpWatch& watch) const {
  std::call_once(once_, [&] {
    if (is_rough(plan_, table_, tolerance_)) {
      form_.reason = "its values change from point to point: no low rank in a block of them";
      ready_.store(true, std::memory_order_release);
      return;
    }
    form_ = far_field_form<T>(plan_, table_, tolerance_, options_.tolerance_kind, watch, start_);
    ready_.store(true, std::memory_order_release);
  });
  return form_;
}

template <class T>
double FarFieldEngine<T>::seconds(const FarWork& far, double pairs, double runs, double vectors, Shape shape) const {
  const CostModel& cost = options_.cost;
  const backend::KernelWork w = backend::kernel_work(sizeof(T));
  const double m = static_cast<double>(shape.rank), c = static_cast<double>(shape.columns), f = std::max(1.0, m);
  const double length = static_cast<double>(backend::count(plan_.sizes)),
               points = static_cast<double>(backend::count(plan_.patch));
  const double padded = static_cast<double>(backend::padded_width(shape.columns)), along = static_cast<double>(plan_.patch[2]);
  // Panels of features whose moments and locals, 32 MiB, are kept; row sums are one plain product more, with b.
  const double most = std::clamp(std::floor((32 << 20) / (2 * sizeof(T) * std::max(1.0, vectors * padded))), 5.0, 13.0);
  const double panels = m > 0 ? std::ceil(m / most) : 1;
  double lanes = f * padded;
  if (m > 0) lanes += static_cast<double>(backend::padded_width(shape.rank));
  // Near: each run of leaves a product by tiles, rows rounded up to vectors; each row of a leaf that is no line is copied for
  // every source. Then into patch order and back, and the basis vectors at the leaves' points for every panel.
  double entry = w.entry(m, c);
  if (along < points) entry += 6 / along;
  double work = runs * backend::KernelWork::kTileCall + pairs * w.whole_lanes(points) / points * entry;
  work += length * backend::KernelWork::kRowCopy * ((m > 0 ? 4 : 2) + (vectors > 0 ? panels : 0));
  work += backend::KernelWork::kPass * length * (4 * m + 6 * c);
  if (vectors > 0) work += far.calls * (panels + (m > 0 ? 1 : 0)) * backend::KernelWork::kBlockCall;
  work += backend::KernelWork::kPass * 5 * vectors * lanes;
  // Features times basis vectors, for moments and for locals.
  work += 0.8 * length * m * far.basis;
  const double kept = 2 * sizeof(T) * vectors * std::min(lanes, most * padded);
  const double bytes = backend::KernelWork::memory_bytes(5 * sizeof(T) * vectors * lanes, kept);
  return static_cast<double>(shape.heads) *
         (cost.call_seconds + work_seconds(work, cost.tile_flops) +
          work_seconds(w.multiply_adds(far.executed / 2 * lanes), cost.chunk_flops) + bytes / cost.bandwidth);
}

template <class T>
Report FarFieldEngine<T>::report(Shape shape) const {
  const FarFieldForm<T>& f = form();
  const double heads = static_cast<double>(shape.heads), c = static_cast<double>(shape.columns);
  const double m = static_cast<double>(shape.rank), length = static_cast<double>(backend::count(plan_.sizes));
  const double near = heads * f.near_pairs * 2 * (m + c);
  const double far = heads * f.far.flops * std::max(1.0, m) * c;
  std::ostringstream reason;
  if (f.grid.levels.empty()) reason << "nothing far";
  for (const backend::PatchLevel<T>& l : f.grid.levels)
    reason << (&l == &f.grid.levels.front() ? "bases of " : ", ") << l.basis;
  reason << (f.grid.levels.empty() ? ", " : " vectors by level, ") << "patches of " << backend::count(plan_.patch)
         << " points, exact tiles between neighbours" << (f.grid.cross ? " and along the axes" : "");
  Report r;
  r.engine = "far-field";
  r.reason = reason.str();
  r.certificate = f.certificate;
  r.terms = f.grid.levels.empty() ? 0 : f.grid.levels.front().basis;
  r.fitted_negative = f.maybe_negative;
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8 + f.entry_rounding;
  r.flops = near + far;
  // Into patch order and back; x, and y both ways, once a panel of features; moments and locals written and read, twice where
  // patches couple.
  double vectors = 0;
  for (const backend::PatchLevel<T>& l : f.grid.levels) vectors += static_cast<double>(backend::count(l.patches) * l.basis);
  const double panels = std::ceil(m / 9);
  r.bytes = heads * sizeof(T) * (length * (4 * m + 6 * c + 3 * panels * c) + 5 * vectors * std::max(1.0, m) * c);
  r.predicted_seconds = seconds(f.far, f.near_pairs, near_runs(plan_, f.grid.cross), vectors, shape);
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
void FarFieldEngine<T>::add_candidates(Shape shape, double best_other, std::vector<Report>& all,
                                       const SetUpWatch& watch) const {
  const bool forced = options_.engine == "far-field";
  const auto refuse = [&](const std::string& why) {
    if (forced) throw ValueError("engine 'far-field' cannot serve this mask: " + why);
  };
  if (tolerance_ == 0) return refuse("it is not exact, and the tolerance is 0");
  if (!plan_.refusal.empty()) return refuse(plan_.refusal);
  if (!forced && options_.engine != "auto") return;
  // On one axis these, where they serve, move fewer numbers: two to three times faster.
  const bool sequence =
      std::any_of(all.begin(), all.end(), [](const Report& r) { return r.engine == "exponentials" || r.engine == "band"; });
  if (!forced && (sequence || failed_ > 0)) return;
  // Not where even bases of four vectors would not pay, nor where the set-up, which finding out takes, costs more than the
  // whole product by another engine: some 3000 flops (1500 to 5600 measured) for each offset of two leaves that has entries and
  // pair of points, and 3e5 for each point of the grid.
  const double points = static_cast<double>(backend::count(plan_.patch));
  double set_up = 3000 * points * points * filled_;
  for (const Index n : plan_.patches.front()) set_up *= static_cast<double>(2 * n - 1);
  set_up = (set_up + 3e5 * static_cast<double>(backend::count(plan_.sizes))) / options_.cost.chunk_flops;
  if (!forced && set_up >= best_other) return;
  const double length = static_cast<double>(backend::count(plan_.sizes));
  if (!forced && seconds({0, 16 * length, 0, 0}, near_pairs(plan_), near_runs(plan_), 0, shape) >= best_other) return;
  const FarFieldForm<T>& f = form(watch);
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
  const bool ready = ready_.load(std::memory_order_acquire);
  const Index failed = ready ? (form_.met ? 0 : 1) : failed_ > 0 && failed_ < kStepsWithout ? failed_ + 1 : 0;
  return std::make_unique<FarFieldEngine<T>>(source, options_, tolerance_, ready && form_.met ? form_.start : start_, failed);
}

template class FarFieldEngine<float>;
template class FarFieldEngine<double>;

}  // namespace espalier
