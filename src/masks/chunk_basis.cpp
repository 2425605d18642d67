// Chunk-basis form on the host: states of the sums, basis by singular vectors, exhaustive certificate.
// SPDX-License-Identifier: Apache-2.0
#include "masks/chunk_basis.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "masks/chunk_form.hpp"

namespace espalier {

using namespace chunk_form;

namespace {

// What the search for one side needs.
struct SideProblem {
  States states;
  Matrix basis;
  double least = 0;  // of |f| that count for the pointwise error
};

SideProblem side_problem(const std::vector<double>& f, const ExponentialSum& sum, Index chunk, Index gap, ToleranceKind kind) {
  SideProblem p;
  p.states = states_of(sum, chunk, gap);
  if (p.states.row.cols() > 1) p.basis = basis_of(sum, static_cast<Index>(f.size()), chunk, gap, kind);
  for (const double v : f) p.least = std::max(p.least, 1e-7 * std::abs(v));
  return p;
}

}  // namespace

template <class T>
ChunkBasis<T> chunk_basis(const ToeplitzValues& m, const SideSums& sums, Index chunk, Index gap, double tolerance,
                          ToleranceKind kind, const SetUpWatch& watch) {
  ChunkBasis<T> result;
  const auto length = static_cast<Index>(m.lower.size());
  backend::ChunkedToeplitz<T>& product = result.product;
  product.length = length;
  product.chunk = chunk;
  product.gap = gap;
  product.has_lower = m.has_lower;
  product.has_upper = m.has_upper;
  const std::vector<double>& upper = m.symmetric ? m.lower : m.upper;
  double near_error = 0, largest = 0;
  for (Index o = 1 - gap * chunk; o < gap * chunk; ++o) {
    const Index d = o < 0 ? -o : o;
    double v = 0;
    if (d < length && (o == 0 || (o > 0 ? m.has_lower : m.has_upper)))
      v = (o >= 0 ? m.lower : upper)[static_cast<std::size_t>(d)];
    product.near.push_back(static_cast<T>(v));
    near_error += std::abs(rounded<T>(v) - v);
  }
  if (m.has_lower)
    for (const double v : m.lower) largest = std::max(largest, std::abs(v));
  if (m.has_upper)
    for (const double v : upper) largest = std::max(largest, std::abs(v));

  const bool far = length > gap * chunk;
  const bool with_lower = far && m.has_lower, with_upper = far && m.has_upper;
  std::vector<SideProblem> problems;
  if (with_lower || (with_upper && m.symmetric)) problems.push_back(side_problem(m.lower, sums.lower, chunk, gap, kind));
  if (with_upper && !m.symmetric) problems.push_back(side_problem(m.upper, sums.upper, chunk, gap, kind));
  Index most = 0;
  for (const SideProblem& p : problems) most = std::max(most, p.states.row.cols());

  std::vector<Side> sides(problems.size());
  std::vector<Errors> errors(problems.size());
  const auto is_upper = [&](std::size_t k) { return with_upper && !m.symmetric && k + 1 == problems.size(); };
  const auto measure = [&](Index count, bool all) {
    for (std::size_t k = 0; k < problems.size(); ++k) {
      errors[k] = Errors();  // 16 bytes a token that are not needed beside the new ones
      sides[k] = project<T>(problems[k].states, problems[k].basis, count);
      errors[k] = errors_of(sides[k], is_upper(k) ? m.upper : m.lower, problems[k].least, gap, all, watch);
    }
    Errors* low = with_lower ? &errors.front() : nullptr;
    Errors* high = with_upper ? &errors.back() : nullptr;
    Certificate c;
    c.row = worst_row(low, high, m, near_error, chunk, gap);
    double entry = 0, pointwise = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());
    result.fitted_negative = 0;
    for (const Errors& e : errors) {
      entry = std::max(entry, e.entry), pointwise = std::max(pointwise, e.pointwise), result.fitted_negative += e.negative;
    }
    c.entry = largest > 0 ? std::max(entry / largest, 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon())) : 0.0;
    if (pointwise <= 1) c.pointwise = pointwise;
    result.certificate = c;
    const double value = kind == ToleranceKind::row ? *c.row : kind == ToleranceKind::entry ? *c.entry : pointwise;
    return value <= tolerance;
  };
  // A quick look at a few distances finds where to begin; the whole check decides.
  Index count = 1;
  while (count < most && !measure(count, false)) ++count;
  for (; !(result.met = measure(count, true)) && count < most; ++count) {
  }
  if (result.met && kind == ToleranceKind::pointwise) {
    // Four times the standard deviation, of unit roundoffs.
    const double unit = 4 * 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());
    for (std::size_t k = 0; k < sides.size(); ++k) {
      result.entry_rounding = std::max(result.entry_rounding, unit * entry_rounding(sides[k], is_upper(k) ? m.upper : m.lower,
                                                                                    problems[k].least, gap, watch));
    }
  }
  if (with_lower) product.lower = stored<T>(sides.front());
  if (with_upper) {
    backend::ChunkedToeplitz<T> as_lower;
    as_lower.lower = stored<T>(sides.back());
    product.upper = backend::transposed(as_lower).upper;
  }
  return result;
}

Index far_rank(const std::vector<double>& values, Index chunk, Index gap, double tolerance, ToleranceKind kind, Index most) {
  constexpr Index kNarrow = 32;
  if (chunk > kNarrow) {
    const Index rank = far_rank(values, kNarrow, (gap - 1) * chunk / kNarrow + 1, tolerance, kind, most);
    if (rank > most) return rank;
  }
  const Index first = (gap - 1) * chunk + 1, last = static_cast<Index>(values.size()) - chunk;
  if (last < first) return 0;
  const auto evaluate = [&](Index t, std::span<double> out) { std::copy_n(values.begin() + t, out.size(), out.begin()); };
  const Eigen::VectorXd s = left_vectors(weighted_family(first, last, chunk, kind, evaluate)).singularValues();
  // Row kind: the sum of |error| is at most the root of (weighted squares of the errors) x (sum of |f|), and so is the sum of
  // |f| near values included; the other kinds have samples of their own size.
  double allowed = tolerance * tolerance * s.squaredNorm();
  double near = 0, far = 0;
  for (std::size_t d = 0; d < values.size(); ++d) (static_cast<Index>(d) < first ? near : far) += std::abs(values[d]);
  if (kind == ToleranceKind::row && far > 0) allowed *= std::pow((near + far) / far, 2);
  if (kind == ToleranceKind::entry) {
    double largest = 0;
    for (const double v : values) largest = std::max(largest, std::abs(v));
    allowed = std::pow(tolerance * largest, 2) * static_cast<double>(chunk);
  }
  if (kind == ToleranceKind::pointwise) allowed = tolerance * tolerance * static_cast<double>(chunk);
  Index rank = s.size();
  for (double tail = 0; rank > 0 && tail + s[rank - 1] * s[rank - 1] <= allowed; --rank) tail += s[rank - 1] * s[rank - 1];
  return rank;
}

Index last_step(const std::vector<double>& values, double tolerance) {
  double largest = 0;
  for (const double v : values) largest = std::max(largest, std::abs(v));
  Index last = 0, run = 0;  // where the last step is, where the run of equal values begins
  std::size_t runs = 1;
  for (Index d = 1; d < static_cast<Index>(values.size()); ++d) {
    const double step = std::abs(values[static_cast<std::size_t>(d)] - values[static_cast<std::size_t>(d - 1)]);
    if (step == 0) continue;
    if (d - run >= 4 && step > tolerance * largest) last = d;
    run = d;
    if (16 * ++runs > values.size()) return 0;
  }
  return last;
}

Index band_width(const ToeplitzValues& m, double tolerance, ToleranceKind kind) {
  const auto width = [&](const std::vector<double>& f, double largest) {
    double total = 0, tail = 0;
    for (const double v : f) total += std::abs(v);
    auto w = static_cast<Index>(f.size()) - 1;
    for (; w > 0; --w) {
      const double v = std::abs(f[static_cast<std::size_t>(w)]);
      tail += v;
      const bool drop = kind == ToleranceKind::row     ? tail <= 0.9 * tolerance * total
                        : kind == ToleranceKind::entry ? v <= 0.9 * tolerance * largest
                                                       : v < 1e-7 * largest;
      if (!drop) break;
    }
    return w;
  };
  double largest = 0;
  for (const std::vector<double>* f : {&m.lower, &m.upper}) {
    for (const double v : *f) largest = std::max(largest, std::abs(v));
  }
  Index w = 0;
  if (m.has_lower || m.symmetric) w = width(m.lower, largest);
  if (m.has_upper && !m.symmetric) w = std::max(w, width(m.upper, largest));
  return w;
}

template ChunkBasis<float> chunk_basis(const ToeplitzValues&, const SideSums&, Index, Index, double, ToleranceKind,
                                       const SetUpWatch&);
template ChunkBasis<double> chunk_basis(const ToeplitzValues&, const SideSums&, Index, Index, double, ToleranceKind,
                                        const SetUpWatch&);

}  // namespace espalier
