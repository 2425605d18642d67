// The separable engine: when it is worth looking for, its report, its products.
// SPDX-License-Identifier: Apache-2.0
#include "masks/separable.hpp"

#include <espalier/core/error.hpp>

#include <algorithm>
#include <limits>

#include "backend/work.hpp"
#include "masks/grid_cost.hpp"
#include "masks/grid_table.hpp"

namespace espalier {

namespace {

constexpr const char* kName = "separable";

// What the search takes: tables of the problem, factors of the cross approximation and their orthogonal forms, in double.
std::size_t search_bytes(const std::vector<Index>& sizes) {
  const auto table = static_cast<std::size_t>(grid_table_size(sizes));
  Index longest = 1, shortest = std::numeric_limits<Index>::max();
  for (const Index n : sizes) {
    if (n > 1) longest = std::max(longest, 2 * n - 1), shortest = std::min(shortest, 2 * n - 1);
  }
  const std::size_t line = table / static_cast<std::size_t>(shortest) + static_cast<std::size_t>(longest);
  return sizeof(double) * (12 * table + 8 * static_cast<std::size_t>(kMostTerms + 8) * line);
}

}  // namespace

template <class T>
SeparableEngine<T>::SeparableEngine(const GridSource& source, const MaskOptions& options, double tolerance)
    : sizes_(source.sizes), table_(source.table), causal_(source.causal), options_(options), tolerance_(tolerance) {}

template <class T>
bool SeparableEngine<T>::serves(const std::string& engine) const {
  return engine == kName;
}

template <class T>
std::unique_ptr<const GridEngine<T>> SeparableEngine<T>::with_source(const GridSource& source) const {
  return std::make_unique<SeparableEngine<T>>(source, options_, tolerance_);
}

template <class T>
const typename SeparableEngine<T>::Form& SeparableEngine<T>::form(const SetUpWatch& watch) const {
  std::call_once(once_, [&] {
    // A row's error is a sum of absolute values; for one token alone the root of a sum of squares counts, which on a small grid
    // may be a larger share. Half of the tolerance leaves room, where tables in T reach it.
    const bool by_row = options_.tolerance_kind == ToleranceKind::row;
    form_.found = offset_train<T>(sizes_, table_, by_row ? tolerance_ / 2 : tolerance_, options_.tolerance_kind, true, watch);
    if (by_row && form_.found.too_fine) {
      form_.found = offset_train<T>(sizes_, table_, tolerance_, options_.tolerance_kind, true, watch);
    }
    if (form_.found.met) form_.product = std::make_unique<backend::ToeplitzTrain<T>>(sizes_, std::move(form_.found.axes));
    if (form_.product) make_long(form_, watch);
  });
  return form_;
}

// Two long axes: half of the tolerance for the sum of products, a quarter for each side's factors.
template <class T>
void SeparableEngine<T>::make_long(Form& form, const SetUpWatch& watch) const {
  Index longer = 0, shortest = std::numeric_limits<Index>::max();
  for (const Index n : sizes_) {
    if (n > 1) ++longer, shortest = std::min(shortest, n);
  }
  if (longer != 2 || shortest < kLongAxis || options_.tolerance_kind != ToleranceKind::row) return;
  const OffsetTrain<T> train = offset_train<T>(sizes_, table_, tolerance_ / 2, ToleranceKind::row, false, watch);
  if (!train.met || train.terms > kMostLongTerms) return;
  auto made = std::make_unique<LongAxes<T>>(sizes_, train, 0.24 * tolerance_ / train.amplification, options_, watch);
  if (!made->linear() || *made->certificate().row > tolerance_) return;
  form.long_terms = train.terms;
  form.long_axes = std::move(made);
}

template <class T>
bool SeparableEngine<T>::runs_long(const Form& form, Index columns) const {
  return form.long_axes && form.long_axes->seconds(columns) < seconds(form.product->flops(true), form.product->calls(),
                                                                      form.product->passes(), {.columns = columns});
}

// Of one column: flops, block products, passes.
template <class T>
double SeparableEngine<T>::seconds(double flops, double calls, double passes, Shape shape) const {
  const CostModel& cost = options_.cost;
  const double c = static_cast<double>(shape.columns), elements = c * static_cast<double>(grid_length(sizes_));
  const double speed = cost.tile_flops * (4.0 / sizeof(T));
  const double work = passes * backend::KernelWork::kPass * elements + c * calls * backend::KernelWork::kBlockCall;
  const double memory = backend::KernelWork::memory_bytes(4 * sizeof(T) * elements, 2 * sizeof(T) * elements);
  return static_cast<double>(shape.heads) *
         (cost.call_seconds + c * flops / speed + work_seconds(work, cost.tile_flops) + memory / cost.bandwidth);
}

template <class T>
void SeparableEngine<T>::add_candidates(Shape shape, double best_other, std::vector<Report>& all,
                                        const SetUpWatch& watch) const {
  const bool forced = options_.engine == kName;
  if (tolerance_ == 0 || shape.rank > 0 || (options_.engine != "auto" && !forced)) return;
  // In raster order the zeros are differences of terms, small but not 0, which a key far larger than the rest would show.
  if (causal_ && !forced) return;
  if (!forced) {
    double sum = 0;
    for (const Index n : sizes_) sum += n > 1 ? static_cast<double>(n) : 0;
    // One product; an axis of which only few offsets count may take less than half, rarely a quarter. In linear time an axis
    // costs as much as some 128 points of it.
    sum = std::min(sum, 2 * 128 / 0.25);
    if (seconds(0.25 * 2 * sum * static_cast<double>(grid_length(sizes_)), 0, 0, shape) >= best_other) return;
  }
  const Form& f = form(watch);
  if (f.product) {
    all.push_back(report(f, shape));
  } else if (forced) {
    throw ValueError("engine '" + std::string(kName) + "' cannot serve this mask: " + f.found.reason);
  }
}

template <class T>
Report SeparableEngine<T>::report(const Form& form, Shape shape) const {
  Report r;
  r.engine = kName;
  const double columns = static_cast<double>(shape.columns * shape.heads);
  r.reason = form.found.reason + ", one axis after the other";
  r.certificate = form.found.certificate;
  r.terms = form.found.terms;
  r.fitted_negative = form.found.fitted_negative;
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8 + form.found.entry_rounding;
  r.predicted_seconds = seconds(form.product->flops(true), form.product->calls(), form.product->passes(), shape);
  r.flops = columns * form.product->flops(false);
  r.bytes = 2 * sizeof(T) * columns * static_cast<double>(grid_length(sizes_));
  r.extra_bytes = form.product->bytes(shape.columns) + form.product->kept_bytes() + search_bytes(sizes_);
  if (runs_long(form, shape.columns)) {
    const LongAxes<T>& l = *form.long_axes;
    const double heads = static_cast<double>(shape.heads);
    r.terms = form.long_terms;
    r.reason = std::to_string(r.terms) + (r.terms == 1 ? " product" : " products") + " of masks by axis (" + l.engines() + ")";
    r.certificate = l.certificate();
    r.predicted_seconds = heads * (options_.cost.call_seconds + l.seconds(shape.columns));
    r.flops = heads * l.flops(shape.columns);
    r.extra_bytes += l.bytes(shape.columns);
  }
  r.row_wise = true;
  if (causal_) r.warnings.push_back("entries above the diagonal are rounding errors of its terms, not exactly 0");
  if (r.fitted_negative > 0) {
    r.warnings.push_back("the sum of products is negative at " + std::to_string(r.fitted_negative) +
                         " offsets where the mask is not");
  }
  if (options_.tolerance_kind != ToleranceKind::pointwise && r.certificate->pointwise.value_or(1) > 1e-3) {
    r.warnings.push_back(
        "entries far below the largest are not accurate one by one: a row whose large keys are far away loses digits "
        "(tolerance kind pointwise avoids it)");
  }
  return r;
}

template <class T>
void SeparableEngine<T>::multiply(const std::string&, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                                  const Context<Cpu>& context) const {
  const Form& f = form();
  if (runs_long(f, x.cols)) return f.long_axes->multiply(x, y, transpose, context);
  f.product->multiply(x, y, transpose, context);
}

template <class T>
void SeparableEngine<T>::multiply_low_rank(const std::string&, const LowRankInputs<T, Cpu>&, const LowRankOutputs<T, Cpu>&,
                                           bool, const Context<Cpu>&) const {
  throw ValueError("engine 'separable' makes the plain product only");
}
template <class T>
bool SeparableEngine<T>::multiply_low_rank_vjp(const std::string&, const LowRankInputs<T, Cpu>&,
                                               const LowRankCotangents<T, Cpu>&, const LowRankGradients<T, Cpu>&, bool,
                                               std::vector<double>&, const Context<Cpu>&) const {
  throw ValueError("engine 'separable' makes the plain product only");
}

template class SeparableEngine<float>;
template class SeparableEngine<double>;

}  // namespace espalier
