// Sequence engines on the host: forms made once, reports, products, gradients.
// SPDX-License-Identifier: Apache-2.0
#include "masks/sequence.hpp"

#include <espalier/core/error.hpp>
#include <espalier/functions/exponential_sum.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "masks/chunk_columns.hpp"
#include "masks/chunk_cost.hpp"
#include "masks/grid_table.hpp"

namespace espalier {

namespace {

// What the first product takes for the fit and the certificate, and keeps of it: values by distance, errors by chunk.
constexpr std::size_t kSetUpBytes = 6u << 20, kSetUpBytesPerToken = 256;

// A derivative's search that fails takes up to a second, and fails again a step later: it is made again after so many.
constexpr Index kStepsWithout = 32;

// Functions with more parameters than this are taken for tables: each derivative costs a fit and basis vectors.
constexpr std::size_t kMostParameters = 6;

}  // namespace

template <class T>
SequenceEngines<T>::SequenceEngines(Index length, std::function<SequenceValues()> values, const MaskOptions& options,
                                    double tolerance, SequenceStart start)
    : length_(length), make_values_(std::move(values)), options_(options), tolerance_(tolerance), start_(std::move(start)) {}

template <class T>
const SequenceValues& SequenceEngines<T>::source() const {
  std::call_once(source_once_, [&] { source_ = make_values_(); });
  return source_;
}

template <class T>
bool SequenceEngines<T>::serves(const std::string& engine) const {
  return engine == "exponentials" || engine == "band";
}

template <class T>
std::unique_ptr<const GridEngine<T>> SequenceEngines<T>::with_source(const GridSource& source) const {
  return std::make_unique<SequenceEngines<T>>(length_, grid_sequence_values(source), options_, tolerance_, found());
}

template <class T>
SequenceStart SequenceEngines<T>::found() const {
  SequenceStart found = start_;
  for (int plain = 0; plain < 2; ++plain) {
    const SequenceForm<T>* f = slots_[plain].ready.load(std::memory_order_acquire);
    if (f == nullptr || !f->met()) continue;
    found.lower[plain] = f->lower;
    found.upper[plain] = f->upper;
  }
  for (int kind = 0; kind < 2; ++kind) {
    Index& failed = found.failed[kind];
    if (learning_[kind].searched.load(std::memory_order_acquire)) {
      failed = learning_[kind].failed.load(std::memory_order_relaxed) ? 1 : 0;
    } else if (failed > 0) {
      failed = failed < kStepsWithout ? failed + 1 : 0;
    }
  }
  return found;
}

template <class T>
bool SequenceEngines<T>::wanted(const char* name) const {
  return options_.engine == "auto" || options_.engine == name;
}

template <class T>
const SequenceForm<T>& SequenceEngines<T>::form(Kind kind, bool plain, const SetUpWatch& watch) const {
  Slot& slot = slots_[(kind == Kind::band ? 2 : 0) + (plain ? 1 : 0)];
  std::call_once(slot.once, [&] {
    slot.form = std::make_unique<const SequenceForm<T>>(
        kind == Kind::band ? band_form<T>(source().values, plain, tolerance_, options_.tolerance_kind, watch)
                           : exponential_form<T>(source(), start_, plain, tolerance_, options_.tolerance_kind, watch));
    slot.ready.store(slot.form.get(), std::memory_order_release);
  });
  return *slot.form;
}

template <class T>
Report SequenceEngines<T>::report(Kind kind, const SequenceForm<T>& form, Shape shape) const {
  const backend::ChunkedToeplitz<T>& p = form.basis.product;
  const double m = static_cast<double>(shape.rank), c = static_cast<double>(shape.columns);
  const double heads = static_cast<double>(shape.heads), length = static_cast<double>(p.length), element = sizeof(T);
  const double sides = (p.has_lower ? 1 : 0) + (p.has_upper ? 1 : 0);
  const auto side_work = [](const backend::ChunkSide<T>& s) { return static_cast<double>(s.basis * s.states); };
  Report r;
  r.engine = kind == Kind::band ? "band" : "exponentials";
  // Near pairs of chunks: at the ends of the sequence some are missing; the first `gap` chunks of a side have nothing far.
  const double chunks = std::ceil(length / static_cast<double>(p.chunk)), gap = std::min(static_cast<double>(p.gap), chunks);
  const double pairs = sides == 2 ? chunks * (2 * gap - 1) - gap * (gap - 1) : chunks * gap - gap * (gap - 1) / 2;
  const double size = length / chunks;
  r.flops =
      heads * (2 * pairs * size * size * (m + c) + (chunks - gap) * size *
                                                       far_flops(p.chunk, static_cast<double>(p.lower.basis + p.upper.basis),
                                                                 side_work(p.lower) + side_work(p.upper), m, c));
  // Each sweep reads a, b and x and writes y; the second reads y as well.
  const double sweeps = kind == Kind::band ? 1 : std::max(1.0, sides);
  r.bytes = heads * element * length * (sweeps * (2 * m + 2 * c) + (sweeps - 1) * c);
  r.predicted_seconds = chunked_seconds(p, shape, options_.cost);
  r.terms = static_cast<Index>(form.lower.terms.size() + form.upper.terms.size());
  r.certificate = form.basis.certificate;
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8 + form.basis.entry_rounding + form.rounding;
  r.row_wise = true;
  r.fitted_negative = form.basis.fitted_negative;
  r.extra_bytes = backend::chunked_bytes(p, shape.rank, shape.columns) + kSetUpBytes +
                  kSetUpBytesPerToken * static_cast<std::size_t>(p.length);
  std::ostringstream reason;
  if (kind == Kind::band) {
    reason << form.reason;
  } else {
    reason << r.terms << " exponentials (" << form.reason << "), " << p.lower.basis
           << (p.has_lower && p.has_upper ? " + " : "");
    if (p.has_upper) reason << p.upper.basis;
    reason << " products a chunk of " << p.chunk << " tokens, exact tiles within " << p.gap << " chunks";
  }
  r.reason = reason.str();
  if (form.basis.fitted_negative > 0) {
    r.warnings.push_back("the fitted mask is negative at " + std::to_string(form.basis.fitted_negative) +
                         " distances where the mask is not");
  }
  if (options_.tolerance_kind != ToleranceKind::pointwise && form.basis.certificate.pointwise.value_or(1) > 1e-3) {
    r.warnings.push_back(
        "entries far below the largest are not accurate one by one: a row whose large keys are far away loses digits "
        "(tolerance "
        "kind pointwise avoids it)");
  }
  return r;
}

template <class T>
void SequenceEngines<T>::add_candidates(Shape shape, double best_other, std::vector<Report>& all,
                                        const SetUpWatch& watch) const {
  if (tolerance_ == 0) return;
  const bool plain = shape.rank == 0;
  const auto length = static_cast<double>(length_);
  const double m = static_cast<double>(shape.rank), c = static_cast<double>(shape.columns);
  const double least = near_flops(plain ? 32 : 64, 1, 1, m, c) + far_flops(64, 1, 1, m, c);
  const double speed = options_.cost.tile_flops / (sizeof(T) / 4.0);
  const bool pays = static_cast<double>(shape.heads) * length * least / speed < best_other;
  for (const Kind kind : {Kind::exponentials, Kind::band}) {
    const char* name = kind == Kind::band ? "band" : "exponentials";
    const bool forced = options_.engine == name;
    if (!forced && !(pays && wanted(name))) continue;
    const SequenceForm<T>& f = form(kind, plain, watch);
    if (f.met()) all.push_back(report(kind, f, shape));
    if (!f.met() && forced) throw ValueError("engine '" + std::string(name) + "' cannot serve this mask: " + f.reason);
  }
}

template <class T>
void SequenceEngines<T>::multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                                  const Context<Cpu>& context) const {
  const auto& product = form(engine == "band" ? Kind::band : Kind::exponentials, true).basis.product;
  if (transpose) {
    backend::chunked_multiply<T, Cpu>(backend::transposed(product), x, y, context);
  } else {
    backend::chunked_multiply<T, Cpu>(product, x, y, context);
  }
}

template <class T>
void SequenceEngines<T>::multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                                           const LowRankOutputs<T, Cpu>& out, bool transpose,
                                           const Context<Cpu>& context) const {
  const auto& product = form(engine == "band" ? Kind::band : Kind::exponentials, false).basis.product;
  if (transpose) {
    backend::chunked_low_rank<T, Cpu>(backend::transposed(product), in, out, context);
  } else {
    backend::chunked_low_rank<T, Cpu>(product, in, out, context);
  }
}

template <class T>
const typename SequenceEngines<T>::Learning& SequenceEngines<T>::learning(Kind kind, const SetUpWatch& watch) const {
  Learning& l = learning_[kind == Kind::band ? 1 : 0];
  std::call_once(l.once, [&] { make_learning(kind, l, watch); });
  return l;
}

template <class T>
void SequenceEngines<T>::make_learning(Kind kind, Learning& l, const SetUpWatch& watch) const {
  const SequenceValues& s = source();
  const std::optional<DistanceFunction>& any = s.lower ? s.lower : s.upper;
  // Tables have a parameter a distance: their gradient is a correlation.
  if (!any || s.parameters == 0 || s.parameters > kMostParameters) return;
  if (start_.failed[kind == Kind::band ? 1 : 0] > 0) return;
  l.failed = !find_derivatives(kind, l, watch);
  l.usable = !l.failed;
  l.searched.store(true, std::memory_order_release);
}

template <class T>
bool SequenceEngines<T>::find_derivatives(Kind kind, Learning& l, const SetUpWatch& watch) const {
  const SequenceValues& s = source();
  const SequenceForm<T>& f = this->form(kind, false);
  const ToeplitzValues& m = s.values;
  const Index length = length_, chunk = f.basis.product.chunk, gap = f.basis.product.gap;
  std::vector<ToeplitzDerivative> derivatives;
  Index width = 0;  // of the derivatives' bands
  for (std::size_t p = 0; p < s.parameters; ++p) {
    ToeplitzDerivative derivative;
    ToeplitzValues& d = derivative.values;
    d.symmetric = m.symmetric, d.has_lower = m.has_lower, d.has_upper = m.has_upper;
    for (const bool lower : {true, false}) {
      if (!lower && m.symmetric) continue;
      std::vector<double>& values = lower ? d.lower : d.upper;
      values.assign(static_cast<std::size_t>(length), 0.0);
      if (!(lower ? m.has_lower || m.symmetric : m.has_upper)) continue;
      for (Index x = 0; x < length; ++x) values[static_cast<std::size_t>(x)] = s.derivative(p, lower ? x : -x);
      if (kind == Kind::band) {
        // What the band leaves out must not matter for the derivative either.
        ToeplitzValues one;
        one.lower = values;
        one.has_upper = false;
        width = std::max(width, band_width(one, tolerance_, options_.tolerance_kind));
        continue;
      }
      FitOptions options;
      options.tolerance = tolerance_ / 2;
      options.first = (gap - 1) * chunk + 1;
      options.one_sided = !(m.has_lower && m.has_upper);
      options.stop = watch.stop();
      options.start = std::make_shared<const ExponentialSum>(lower || m.symmetric ? f.lower : f.upper);
      const DistanceFunction g = lower && s.lower ? s.lower->derivative_function(p) : DistanceFunction(FunctionTable{values});
      const bool zero = std::all_of(values.begin(), values.end(), [](double v) { return v == 0; });
      if (zero) continue;
      ExponentialFit fit = fit_exponentials(g, length, options);
      if (!fit.met) return false;
      (lower ? derivative.sums.lower : derivative.sums.upper) = std::move(fit.sum);
    }
    derivatives.push_back(std::move(derivative));
  }
  const Index reach = (width + chunk - 1) / chunk + 1;
  if (reach <= gap) {
    if (kind == Kind::exponentials && term_form<T>(m.symmetric, {f.lower, f.upper}, derivatives, f.basis, l.form)) return true;
    return derivative_form<T>(m, {f.lower, f.upper}, derivatives, f.basis, tolerance_, options_.tolerance_kind, l.form, watch);
  }
  if (2 * reach * chunk >= length) return false;
  const ChunkBasis<T> wider = chunk_basis<T>(m, SideSums(), chunk, reach, tolerance_, options_.tolerance_kind, watch);
  l.wider = wider.product;
  return derivative_form<T>(m, SideSums(), derivatives, wider, tolerance_, options_.tolerance_kind, l.form, watch);
}

template <class T>
bool SequenceEngines<T>::multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                                               const LowRankCotangents<T, Cpu>& cotangents,
                                               const LowRankGradients<T, Cpu>& gradients, bool learn,
                                               std::vector<double>& parameter_bar, const Context<Cpu>& context) const {
  const Kind kind = engine == "band" ? Kind::band : Kind::exponentials;
  const Learning* l = learn ? &learning(kind, SetUpWatch(context.progress)) : nullptr;
  if (l == nullptr || !l->usable) {
    chunked_vjp_by_columns<T>(form(kind, false).basis.product, nullptr, in, cotangents, gradients, nullptr, context);
    return false;
  }
  const SequenceValues& s = source();
  backend::ChunkedParameterGradient bar;
  const auto near = static_cast<Index>(l->form.near.size());
  bar.near.assign(static_cast<std::size_t>(near), 0.0);
  bar.far.assign(s.parameters, 0.0);
  const auto& product = l->wider.length > 0 ? l->wider : form(kind, false).basis.product;
  chunked_vjp_by_columns<T>(product, &l->form, in, cotangents, gradients, &bar, context);
  for (std::size_t p = 0; p < s.parameters; ++p) {
    double sum = bar.far[p];
    for (Index k = 0; k < near; ++k) {
      const Index offset = k - near / 2;
      const bool there = offset == 0 || (offset > 0 ? s.values.has_lower : s.values.has_upper);
      if (!there || offset <= -length_ || offset >= length_) continue;
      sum += bar.near[static_cast<std::size_t>(k)] * s.derivative(p, offset);
    }
    parameter_bar[p] += sum;
  }
  return true;
}

template class SequenceEngines<float>;
template class SequenceEngines<double>;

}  // namespace espalier
