// Forms of sequence masks on the host: which chunk and gap, fits, what cancelling terms leave, bands.
// SPDX-License-Identifier: Apache-2.0
#include "masks/sequence_form.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <memory>
#include <span>
#include <sstream>
#include <vector>

#include "masks/certified_error.hpp"
#include "masks/chunk_columns.hpp"
#include "masks/chunk_cost.hpp"

namespace espalier {

namespace {

// Forms are chosen for this size; others keep the order of what is cheaper nearly everywhere.
constexpr Index kReferenceWidth = 64;
// More basis vectors never pay: at 24 and m = c = 64 the far part costs as much as tiles over 3,000 tokens.
constexpr Index kMostBasis = 24;

struct Shaped {
  Index chunk, gap;
  Index basis[2]{};  // expected R, lower and upper side
  double flops = std::numeric_limits<double>::infinity();
};

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

// The search for exponentials of one mask, for products with or without features.
template <class T>
struct Search {
  // Unit roundoff of the type.
  static constexpr double kUnit = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());

  SequenceForm<T> cheapest() const;
  SequenceForm<T> form_of_shape(Index chunk, Index gap) const;
  SequenceForm<T> form_of_sums(Index chunk, Index gap, double max_amplification) const;
  std::optional<ExponentialSum> fit_side(bool is_lower, Index chunk, Index gap, double max_amplification,
                                         std::string& reason) const;
  double most_rounding() const;

  const SequenceValues& source;
  const SequenceStart& start;
  bool plain;
  double tolerance;
  ToleranceKind kind;
  const SetUpWatch& watch;
};

template <class T>
std::optional<ExponentialSum> Search<T>::fit_side(bool is_lower, Index chunk, Index gap, double max_amplification,
                                                  std::string& reason) const {
  const ToeplitzValues& m = source.values;
  FitOptions options;
  // Half of the tolerance for the sum, the rest for the basis and for rounding what is stored.
  options.tolerance = tolerance / 2;
  options.kind = kind;
  options.max_amplification = max_amplification;
  options.first = (gap - 1) * chunk + 1;
  options.one_sided = !(m.has_lower && m.has_upper);
  options.stop = watch.stop();
  const std::optional<DistanceFunction>& closed = is_lower ? source.lower : source.upper;
  const std::vector<double>& values = is_lower || m.symmetric ? m.lower : m.upper;
  const ExponentialSum& begin = (is_lower || m.symmetric ? start.lower : start.upper)[plain ? 1 : 0];
  if (!begin.terms.empty()) options.start = std::make_shared<const ExponentialSum>(begin);
  const auto length = static_cast<Index>(values.size());
  const ExponentialFit fit = fit_exponentials(closed ? *closed : DistanceFunction(FunctionTable{values}), length, options);
  reason = fit.method;
  if (fit.met) return fit.sum;
  reason = fit.reason;
  return std::nullopt;
}

template <class T>
SequenceForm<T> Search<T>::cheapest() const {
  const std::vector<Shaped> shapes = shapes_by_cost(source.values, plain, tolerance, kind);
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
    SequenceForm<T> next = form_of_shape(shapes[k].chunk, shapes[k].gap);
    const double flops = next.met() ? flops_a_token(next.basis.product, plain) : std::numeric_limits<double>::infinity();
    if (k > 0 && flops >= least) continue;
    form = std::move(next);
    least = flops;
  }
  return form;
}

template <class T>
SequenceForm<T> Search<T>::form_of_shape(Index chunk, Index gap) const {
  SequenceForm<T> form = form_of_sums(chunk, gap, FitOptions().max_amplification);
  // Often there is another sum, some terms longer, that cancels less.
  if (form.rounding > most_rounding()) {
    SequenceForm<T> next = form_of_sums(chunk, gap, most_rounding() / kUnit / 4);
    if (next.met()) form = std::move(next);
  }
  return form;
}

// What the terms of a sum may leave of a row: the tolerance, or twice an ordinary product (8 eps).
template <class T>
double Search<T>::most_rounding() const {
  return std::max(tolerance, 32 * kUnit);
}

template <class T>
SequenceForm<T> Search<T>::form_of_sums(Index chunk, Index gap, double max_amplification) const {
  SequenceForm<T> form;
  const ToeplitzValues& m = source.values;
  SideSums sums;
  std::string low, high;
  const bool far = static_cast<Index>(m.lower.size()) > gap * chunk;
  const bool with_low = far && (m.has_lower || m.symmetric), with_high = far && m.has_upper && !m.symmetric;
  if (with_low) {
    const auto sum = fit_side(true, chunk, gap, max_amplification, low);
    if (!sum) {
      form.reason = "no sum of exponentials for its values: " + low;
      return form;
    }
    sums.lower = form.lower = *sum;
  }
  if (with_high) {
    const auto sum = fit_side(false, chunk, gap, max_amplification, high);
    if (!sum) {
      form.reason = "no sum of exponentials for its values above the diagonal: " + high;
      return form;
    }
    sums.upper = form.upper = *sum;
  }
  // With kind pointwise it is measured entry by entry (entry_rounding).
  if (far && kind != ToleranceKind::pointwise) {
    const double amplification = row_amplification(m, sums, (gap - 1) * chunk + 1);
    form.rounding = kUnit * amplification;
    if (form.rounding > most_rounding()) {
      std::ostringstream text;
      text << std::setprecision(3) << "the terms of its sum cancel: a row of them is up to " << amplification
           << " times the mask's, of which " << (sizeof(T) == 4 ? "float" : "double") << " leaves " << form.rounding
           << ", more than the tolerance " << tolerance << " has room for";
      form.reason = text.str();
      return form;
    }
  }
  form.basis = chunk_basis<T>(m, sums, chunk, gap, tolerance, kind, watch);
  form.reason = !far ? "none needed" : with_low ? low : high;
  if (!form.met()) {
    std::ostringstream text;
    text << "its form by " << form.lower.slots() << " states has " << missed_tolerance(form.basis.certificate, kind, tolerance);
    form.reason = text.str();
  }
  return form;
}

}  // namespace

template <class T>
SequenceForm<T> exponential_form(const SequenceValues& source, const SequenceStart& start, bool plain, double tolerance,
                                 ToleranceKind kind, const SetUpWatch& watch) {
  return Search<T>{source, start, plain, tolerance, kind, watch}.cheapest();
}

template <class T>
SequenceForm<T> band_form(const ToeplitzValues& m, bool plain, double tolerance, ToleranceKind kind, const SetUpWatch& watch) {
  SequenceForm<T> form;
  const auto length = static_cast<Index>(m.lower.size());
  const Index chunk = plain ? 32 : 64;
  const Index width = band_width(m, tolerance, kind);
  const Index gap = (width + chunk - 1) / chunk + 1;
  if (2 * gap * chunk >= length) {
    form.reason = "its entries reach over " + std::to_string(width) + " tokens before they may be left out";
    return form;
  }
  form.basis = chunk_basis<T>(m, SideSums(), chunk, gap, tolerance, kind, watch);
  form.reason = "entries beyond " + std::to_string(width) + " tokens are within the tolerance together";
  if (!form.met()) {
    form.reason = "its band of " + std::to_string(width) + " tokens, as stored, has " +
                  missed_tolerance(form.basis.certificate, kind, tolerance);
  }
  return form;
}

#define ESPALIER_INSTANTIATE(T)                                                                                       \
  template SequenceForm<T> exponential_form(const SequenceValues&, const SequenceStart&, bool, double, ToleranceKind, \
                                            const SetUpWatch&);                                                       \
  template SequenceForm<T> band_form(const ToeplitzValues&, bool, double, ToleranceKind, const SetUpWatch&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
