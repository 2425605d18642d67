// Sequence engines on the host: which chunk and gap, fits, reports.
// SPDX-License-Identifier: Apache-2.0
#include "masks/sequence.hpp"

#include <espalier/core/error.hpp>
#include <espalier/functions/exponential_sum.hpp>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <span>
#include <sstream>

#include "masks/certified_error.hpp"
#include "masks/chunk_columns.hpp"
#include "masks/chunk_cost.hpp"
#include "masks/grid_table.hpp"

namespace espalier {

namespace {

// Forms are chosen for this size; others keep the order of what is cheaper nearly everywhere.
constexpr Index kReferenceWidth = 64;
// More basis vectors never pay: at 24 and m = c = 64 the far part costs as much as tiles over 3,000 tokens.
constexpr Index kMostBasis = 24;

// What the first product takes for the fit and the certificate, and keeps of it: values by distance, errors by chunk.
constexpr std::size_t kSetUpBytes = 6u << 20, kSetUpBytesPerToken = 256;

// A derivative's search that fails takes up to a second, and fails again a step later: it is made again after so many.
constexpr Index kStepsWithout = 32;

// Functions with more parameters than this are taken for tables: each derivative costs a fit and basis vectors.
constexpr std::size_t kMostParameters = 6;

struct Shaped {
  Index chunk, gap;
  Index basis[2]{};  // expected R, lower and upper side
  double flops = std::numeric_limits<double>::infinity();
};

double near_flops(Index chunk, Index gap, double sides, double m, double c) {
  // A causal mask's own chunk is half empty, but its tiles are whole.
  const double chunks = sides == 2 ? 2 * static_cast<double>(gap) - 1 : static_cast<double>(gap);
  return 2 * chunks * static_cast<double>(chunk) * (m + c);
}
// basis: R summed over the sides; states likewise as sum of R r.
double far_flops(Index chunk, double basis, double basis_states, double m, double c) {
  const double width = std::max(1.0, m) * c;
  return 4 * basis * width + 4 * basis_states * width / static_cast<double>(chunk);
}

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
    slot.form =
        std::make_unique<const SequenceForm<T>>(kind == Kind::band ? make_band(plain, watch) : make_exponentials(plain, watch));
    slot.ready.store(slot.form.get(), std::memory_order_release);
  });
  return *slot.form;
}

namespace {

// Of a form that has been made, at the width that forms are chosen for.
template <class T>
double flops_a_token(const backend::ChunkedToeplitz<T>& m, bool plain) {
  const double width = static_cast<double>(kReferenceWidth), rank = plain ? 0 : width;
  const double sides = (m.has_lower ? 1 : 0) + (m.has_upper ? 1 : 0);
  const auto basis_states = [](const backend::ChunkSide<T>& s) { return static_cast<double>(s.basis * s.states); };
  return near_flops(m.chunk, m.gap, sides, rank, width) + far_flops(m.chunk, static_cast<double>(m.lower.basis + m.upper.basis),
                                                                    basis_states(m.lower) + basis_states(m.upper), rank, width);
}

// Chunks and gaps by the cost of their form as the numerical rank of the far values suggests it, cheapest first.
std::vector<Shaped> shapes_by_cost(const ToeplitzValues& m, bool plain, double tolerance, ToleranceKind kind) {
  const auto length = static_cast<Index>(m.lower.size());
  const double width = static_cast<double>(kReferenceWidth), rank = plain ? 0 : width;
  const double sides = (m.has_lower ? 1 : 0) + (m.has_upper ? 1 : 0);
  std::vector<Shaped> all;
  Index steps = m.has_lower || m.symmetric ? last_step(m.lower, tolerance) : 0;
  if (m.has_upper && !m.symmetric) steps = std::max(steps, last_step(m.upper, tolerance));
  double best = std::numeric_limits<double>::infinity();
  for (const Index chunk : plain ? std::vector<Index>{32} : std::vector<Index>{64, 128}) {
    for (const Index gap : {1, 2, 3, 5, 9, 17, 33}) {
      if (gap > 1 && (gap + 1) * chunk > length) break;
      Shaped s{chunk, gap};
      const double near = near_flops(chunk, gap, sides, rank, width);
      if (near >= best) break;
      if (steps > (gap - 1) * chunk + 1) continue;
      if (m.has_lower) s.basis[0] = far_rank(m.lower, chunk, gap, tolerance, kind, kMostBasis);
      if (m.has_upper) s.basis[1] = m.symmetric ? s.basis[0] : far_rank(m.upper, chunk, gap, tolerance, kind, kMostBasis);
      if (m.symmetric && !m.has_lower) s.basis[1] = far_rank(m.lower, chunk, gap, tolerance, kind, kMostBasis);
      if (std::max(s.basis[0], s.basis[1]) > kMostBasis) continue;
      const double low = static_cast<double>(s.basis[0]), high = static_cast<double>(s.basis[1]);
      // A basis of R stands for about 2 R states.
      s.flops = near + far_flops(chunk, low + high, 2 * (low * low + high * high), rank, width);
      all.push_back(s);
      best = std::min(best, s.flops);
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Shaped& p, const Shaped& q) { return p.flops < q.flops; });
  return all;
}

// Running sums over the distances 0 .. d of one side: of the sum's terms, with absolute values, and of |f|.
struct RunningSums {
  std::vector<double> terms, values;
};
RunningSums running_sums(const std::vector<double>& f, const ExponentialSum& sum, Index first) {
  ExponentialSum sizes;
  for (const ExponentialTerm& t : sum.terms) sizes.terms.push_back({std::abs(t.coefficient), t.decay.real(), t.power});
  RunningSums r{std::vector<double>(f.size()), std::vector<double>(f.size())};
  sizes.evaluate(first, std::span(r.terms).subspan(static_cast<std::size_t>(first)));
  double terms = 0, values = 0;
  for (std::size_t d = 0; d < f.size(); ++d) {
    r.terms[d] = terms += r.terms[d];
    r.values[d] = values += std::abs(f[d]);
  }
  return r;
}

// The largest row of the terms' absolute values, relative to that row of |M|: how many times more than M itself its sums cost
// in rounding. At most about 1 where no terms cancel.
double row_amplification(const ToeplitzValues& m, const SideSums& sums, Index first) {
  const std::size_t n = m.lower.size();
  RunningSums low, high;
  if (m.has_lower || m.symmetric) low = running_sums(m.lower, sums.lower, first);
  if (m.has_upper && !m.symmetric) high = running_sums(m.upper, sums.upper, first);
  const RunningSums& up = m.symmetric ? low : high;
  double worst = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double terms = 0, values = std::abs(m.lower.front());
    if (m.has_lower) terms += low.terms[i], values += low.values[i] - low.values.front();
    if (m.has_upper) terms += up.terms[n - 1 - i], values += up.values[n - 1 - i] - up.values.front();
    if (values > 0) worst = std::max(worst, terms / values);
  }
  return worst;
}

}  // namespace

template <class T>
std::optional<ExponentialSum> SequenceEngines<T>::fit_side(bool is_lower, bool plain, Index chunk, Index gap,
                                                           double max_amplification, std::string& reason,
                                                           const SetUpWatch& watch) const {
  const ToeplitzValues& m = source().values;
  FitOptions options;
  // Half of the tolerance for the sum, the rest for the basis and for rounding what is stored.
  options.tolerance = tolerance_ / 2;
  options.kind = options_.tolerance_kind;
  options.max_amplification = max_amplification;
  options.first = (gap - 1) * chunk + 1;
  options.one_sided = !(m.has_lower && m.has_upper);
  options.stop = watch.stop();
  const std::optional<DistanceFunction>& closed = is_lower ? source().lower : source().upper;
  const std::vector<double>& values = is_lower || m.symmetric ? m.lower : m.upper;
  const ExponentialSum& start = (is_lower || m.symmetric ? start_.lower : start_.upper)[plain ? 1 : 0];
  if (!start.terms.empty()) options.start = std::make_shared<const ExponentialSum>(start);
  const auto length = static_cast<Index>(values.size());
  const ExponentialFit fit = fit_exponentials(closed ? *closed : DistanceFunction(FunctionTable{values}), length, options);
  reason = fit.method;
  if (fit.met) return fit.sum;
  reason = fit.reason;
  return std::nullopt;
}

template <class T>
SequenceForm<T> SequenceEngines<T>::make_exponentials(bool plain, const SetUpWatch& watch) const {
  const std::vector<Shaped> shapes = shapes_by_cost(source().values, plain, tolerance_, options_.tolerance_kind);
  SequenceForm<T> form;
  if (shapes.empty()) {
    form.reason = "its values have no low rank away from the diagonal: more than " + std::to_string(kMostBasis) +
                  " basis vectors a chunk of " + std::to_string(plain ? 32 : 64);
    return form;
  }
  // The rank says what a basis can do, not what a sum of exponentials can: further shapes are tried where a fit fails, or where
  // it turned out dearer than the rank of another shape promises.
  constexpr std::size_t kTries = 3;
  constexpr double kPromise = 0.95;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t k = 0; k < std::min(kTries, shapes.size()) && shapes[k].flops < kPromise * least; ++k) {
    SequenceForm<T> next = form_of_shape(plain, shapes[k].chunk, shapes[k].gap, watch);
    const double flops = next.met() ? flops_a_token(next.basis.product, plain) : std::numeric_limits<double>::infinity();
    if (k > 0 && flops >= least) continue;
    form = std::move(next);
    least = flops;
  }
  return form;
}

template <class T>
SequenceForm<T> SequenceEngines<T>::form_of_shape(bool plain, Index chunk, Index gap, const SetUpWatch& watch) const {
  SequenceForm<T> form = form_of_sums(plain, chunk, gap, FitOptions().max_amplification, watch);
  // Often there is another sum, some terms longer, that cancels less.
  if (form.rounding > most_rounding()) {
    const double unit = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());
    SequenceForm<T> next = form_of_sums(plain, chunk, gap, most_rounding() / unit / 4, watch);
    if (next.met()) form = std::move(next);
  }
  return form;
}

// What the terms of a sum may leave of a row: the tolerance, or twice an ordinary product (8 eps).
template <class T>
double SequenceEngines<T>::most_rounding() const {
  return std::max(tolerance_, 16 * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

template <class T>
SequenceForm<T> SequenceEngines<T>::form_of_sums(bool plain, Index chunk, Index gap, double max_amplification,
                                                 const SetUpWatch& watch) const {
  SequenceForm<T> form;
  const ToeplitzValues& m = source().values;
  SideSums sums;
  std::string low, high;
  const bool far = length_ > gap * chunk;
  const bool with_low = far && (m.has_lower || m.symmetric), with_high = far && m.has_upper && !m.symmetric;
  if (with_low) {
    const auto sum = fit_side(true, plain, chunk, gap, max_amplification, low, watch);
    if (!sum) {
      form.reason = "no sum of exponentials for its values: " + low;
      return form;
    }
    sums.lower = form.lower = *sum;
  }
  if (with_high) {
    const auto sum = fit_side(false, plain, chunk, gap, max_amplification, high, watch);
    if (!sum) {
      form.reason = "no sum of exponentials for its values above the diagonal: " + high;
      return form;
    }
    sums.upper = form.upper = *sum;
  }
  // With kind pointwise it is measured entry by entry (entry_rounding).
  if (far && options_.tolerance_kind != ToleranceKind::pointwise) {
    const double amplification = row_amplification(m, sums, (gap - 1) * chunk + 1);
    form.rounding = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon()) * amplification;
    if (form.rounding > most_rounding()) {
      std::ostringstream text;
      text << std::setprecision(3) << "the terms of its sum cancel: a row of them is up to " << amplification
           << " times the mask's, of which " << (sizeof(T) == 4 ? "float" : "double") << " leaves " << form.rounding
           << ", more than the tolerance " << tolerance_ << " has room for";
      form.reason = text.str();
      return form;
    }
  }
  form.basis = chunk_basis<T>(m, sums, chunk, gap, tolerance_, options_.tolerance_kind, watch);
  form.reason = !far ? "none needed" : with_low ? low : high;
  if (!form.met()) {
    std::ostringstream text;
    text << "its form by " << form.lower.slots() << " states has "
         << missed_tolerance(form.basis.certificate, options_.tolerance_kind, tolerance_);
    form.reason = text.str();
  }
  return form;
}

template <class T>
SequenceForm<T> SequenceEngines<T>::make_band(bool plain, const SetUpWatch& watch) const {
  SequenceForm<T> form;
  const ToeplitzValues& m = source().values;
  const auto length = static_cast<Index>(m.lower.size());
  const Index chunk = plain ? 32 : 64;
  const Index width = band_width(m, tolerance_, options_.tolerance_kind);
  const Index gap = (width + chunk - 1) / chunk + 1;
  if (2 * gap * chunk >= length) {
    form.reason = "its entries reach over " + std::to_string(width) + " tokens before they may be left out";
    return form;
  }
  form.basis = chunk_basis<T>(m, SideSums(), chunk, gap, tolerance_, options_.tolerance_kind, watch);
  form.reason = "entries beyond " + std::to_string(width) + " tokens are within the tolerance together";
  if (!form.met()) {
    form.reason = "its band of " + std::to_string(width) + " tokens, as stored, has " +
                  missed_tolerance(form.basis.certificate, options_.tolerance_kind, tolerance_);
  }
  return form;
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
