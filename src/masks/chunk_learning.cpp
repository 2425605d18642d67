// Chunk-basis form of a mask with its derivatives beside it, on the host.
// SPDX-License-Identifier: Apache-2.0
//
// Derivatives are read off the states of the mask and as few more as are within the tolerance, each by a matrix of its own in
// the place of `out`. Moments are taken on as few vectors as serve the mask and all derivatives: those that lose least of all
// their families together. Rows read on the mask's own.
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "masks/chunk_basis.hpp"
#include "masks/chunk_form.hpp"
#include "masks/shared_states.hpp"

namespace espalier {

using namespace chunk_form;

namespace {

// More vectors than this do not pay, see kMostBasis in sequence_form.cpp.
constexpr Index kMost = 32;

// One side as a lower side: the mask first, then its derivatives.
struct LearningSide {
  std::vector<const ExponentialSum*> sums;
  std::vector<const std::vector<double>*> values;  // by distance
  std::vector<const ToeplitzValues*> masks;        // what rows are measured by
  bool lower = true, upper = true;                 // the sides that it stands for
  Matrix own;                                      // [C, R] vectors that rows read
  const SetUpWatch* watch = nullptr;
};

Matrix reversed(const Matrix& m) {
  return m.colwise().reverse();
}

// `which` of the sums. All sums' terms, those of the others with coefficient 0, so that the states are the same for all.
ExponentialSum joint_sum(const std::vector<const ExponentialSum*>& sums, std::size_t which) {
  ExponentialSum joint;
  for (std::size_t k = 0; k < sums.size(); ++k) {
    for (ExponentialTerm t : sums[k]->terms) {
      if (k != which) t.coefficient = 0;
      joint.terms.push_back(t);
    }
  }
  return joint;
}

// Directions of the families {f~(t + a)} of a side's functions, each of size 1; none where the function is 0.
std::vector<Matrix> families_of(const LearningSide& side, Index chunk, Index gap, ToleranceKind kind) {
  constexpr double kSmall = 1e-14;
  const Index first = (gap - 1) * chunk + 1, length = static_cast<Index>(side.values[0]->size());
  std::vector<Matrix> families;
  for (const ExponentialSum* sum : side.sums) {
    const auto evaluate = [&](Index t, std::span<double> out) { sum->evaluate(t, out); };
    const auto family = left_vectors(weighted_family(first, std::max(first + 2 * chunk, length), chunk, kind, evaluate));
    const Eigen::VectorXd& sizes = family.singularValues();
    const double norm = sizes.norm();
    const Index count = norm > 0 ? (sizes.array() > kSmall * norm).count() : 0;
    families.push_back(family.matrixV().leftCols(count) * (sizes.head(count) / std::max(norm, 1e-300)).asDiagonal());
  }
  return families;
}

// States that take moments on the vectors `source`.
template <class T>
Side side_on(const States& states, const Matrix& row, const Matrix& source) {
  Side s;
  s.states = states;
  store_moves<T>(s.states);
  s.row = row;
  s.source = source;
  s.in = states.source.transpose() * source;
  s.out = row.transpose() * states.row;
  round_all<T>(s.row);
  round_all<T>(s.source);
  round_coefficients<T>(s);
  return s;
}

// The worst row's error of the k-th function of a side.
double error_of(const LearningSide& side, std::size_t k, const Side& form, Index gap, bool all) {
  Errors e = errors_of(form, *side.values[k], std::numeric_limits<double>::infinity(), gap, all, *side.watch);
  return worst_row(side.lower ? &e : nullptr, side.upper ? &e : nullptr, *side.masks[k], 0, form.row.rows(), gap);
}

bool is_zero(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return v == 0; });
}

// Errors of a side's forms over what is allowed; quick: at some distances only.
std::vector<double> excesses(const LearningSide& side, const std::vector<Side>& forms, Index gap,
                             const std::vector<double>& allowed, bool quick) {
  std::vector<double> all;
  for (std::size_t k = 0; k < forms.size(); ++k) {
    const double excess = is_zero(*side.values[k]) ? 0 : error_of(side, k, forms[k], gap, !quick) / allowed[k];
    all.push_back(std::isnan(excess) ? std::numeric_limits<double>::infinity() : excess);
  }
  return all;
}
double largest(const std::vector<double>& v) {
  return *std::max_element(v.begin(), v.end());
}

// Forms of a side's functions on the states of all of them. source: vectors of the moments that states take; row: those that
// derivatives read.
template <class T>
std::vector<Side> joint_forms(const LearningSide& side, const Matrix& row, const Matrix& source, Index gap) {
  std::vector<Side> forms;
  for (std::size_t k = 0; k < side.sums.size(); ++k) {
    const States states = states_of(joint_sum(side.sums, k), source.rows(), gap);
    forms.push_back(side_on<T>(states, k == 0 ? side.own : row, source));
    if (is_zero(*side.values[k])) forms.back().out.setZero();
  }
  return forms;
}

// The same on fewer states than `most`: the mask's own and what the derivatives need beside them; empty where there are none.
template <class T>
std::vector<Side> shared_forms(const LearningSide& side, const Matrix& row, const Matrix& source, Index gap,
                               const std::vector<double>& allowed, Index most) {
  constexpr double kLeastCut = sizeof(T) == 4 ? 1e-6 : 1e-11;
  if (source.cols() == 0) return {};
  SharedStates shared(side.sums, side.values, row, source, gap);
  do {
    const States states = states_of(shared.sum(), source.rows(), gap);
    if (states.row.cols() >= most) return {};
    // A residual is no row error, but of its size.
    if (states.row.cols() == 0 || shared.residual() > 4 * allowed.back()) continue;
    std::vector<Side> forms{side_on<T>(states, side.own, source)};
    const auto at_once = [&](std::size_t k) {
      forms.push_back(side_on<T>(states, row, source));
      Side& form = forms.back();
      if (is_zero(*side.values[k])) {
        form.out.setZero();
        return true;
      }
      for (double cut = 1e-3; cut >= kLeastCut; cut *= 0.1) {
        form.out = shared.out(k, form.states, form.in, cut);
        round_coefficients<T>(form);
        if (error_of(side, k, form, gap, false) <= allowed[k]) return true;
      }
      return false;
    };
    bool all = true;
    for (std::size_t k = 1; all && k < side.sums.size(); ++k) all = at_once(k);
    if (all && largest(excesses(side, forms, gap, allowed, false)) <= 1) return forms;
  } while (shared.grow());
  return {};
}

// forms[0] with the other forms' `out` as its derivatives'. row: the vectors whose moments are met by derivatives, where no
// stream of rows brings them.
template <class T>
backend::ChunkSide<T> stored_learning(const std::vector<Side>& forms, const Matrix& row) {
  Side all = forms[0];
  const Index basis = all.source.cols(), states = all.in.rows(), reads = all.row.cols();
  all.out.conservativeResize(basis, states);
  all.out.bottomRows(basis - reads).setZero();
  backend::ChunkSide<T> side = stored<T>(all);
  side.basis = basis;
  side.reads = reads;
  for (std::size_t k = 1; k < forms.size(); ++k) {
    std::vector<double> out;
    for (Index p = 0; p < basis; ++p) {
      for (Index q = 0; q < states; ++q) out.push_back(forms[k].out(p, q));
    }
    side.derivative_out.push_back(std::move(out));
  }
  for (Index p = 0; p < row.cols(); ++p) {
    for (Index a = 0; a < row.rows(); ++a) side.derivative_row.push_back(static_cast<T>(row(a, p)));
  }
  return side;
}

LearningSide learning_side(const ToeplitzValues& m, const SideSums& sums, const std::vector<ToeplitzDerivative>& derivatives,
                           bool lower, bool both, Index own, Index chunk, Index gap, ToleranceKind kind,
                           const SetUpWatch& watch) {
  LearningSide side;
  const bool first = lower || m.symmetric;
  const auto add = [&](const ToeplitzValues& v, const SideSums& of) {
    side.sums.push_back(first ? &of.lower : &of.upper);
    side.values.push_back(first ? &v.lower : &v.upper);
    side.masks.push_back(&v);
  };
  add(m, sums);
  for (const ToeplitzDerivative& d : derivatives) add(d.values, d.sums);
  side.watch = &watch;
  side.lower = lower || both;
  side.upper = !lower || both;
  const auto length = static_cast<Index>(m.lower.size());
  side.own = Matrix(chunk, 0);
  if (!side.sums[0]->terms.empty()) {
    const Matrix vectors = basis_of(*side.sums[0], length, chunk, gap, kind);
    side.own = vectors.leftCols(std::min(own, vectors.cols()));
  }
  return side;
}

// Vectors of sources and of rows for each side: as many as asked for, those that lose least of all families together, each
// counted by its weight.
class LearningVectors {
 public:
  LearningVectors(const std::vector<LearningSide>& sides, bool two_sided, Index chunk, Index gap, ToleranceKind kind)
      : two_sided_(two_sided), weights_(sides.front().sums.size(), 1.0) {
    for (const LearningSide& s : sides) families_.push_back(families_of(s, chunk, gap, kind));
  }

  void choose(Index count) {
    source_.clear(), row_.clear();
    if (!two_sided_) {
      row_.push_back(best(count, families_[0], {}));
      source_.push_back(reversed(row_[0]));
      return;
    }
    // States of either side meet moments of the other, which its own states need anyway. The mask's own family is needed as
    // sources alone.
    const std::vector<Matrix>& below = families_.front();
    const std::vector<Matrix>& above = families_.back();
    source_.push_back(best(count, above, below));
    if (families_.size() == 1) {
      row_.push_back(source_[0]);
      return;
    }
    row_.push_back(best(count, below, above));
    source_.push_back(row_[0]), row_.push_back(source_[0]);
  }
  // Of the k-th side.
  const Matrix& source(std::size_t k) const { return source_[k]; }
  const Matrix& row(std::size_t k) const { return row_[k]; }

  void reset() { std::fill(weights_.begin(), weights_.end(), 1.0); }
  // Counts what is above its tolerance more, and what is far below less.
  void learn(const std::vector<double>& excess) {
    for (std::size_t k = 0; k < weights_.size(); ++k) weights_[k] *= std::clamp(std::sqrt(excess[k]), 0.3, 3.0);
  }

 private:
  // as_rows: families of functions as rows see them, without the mask's own where both are given; as_sources: seen by sources.
  Matrix best(Index count, const std::vector<Matrix>& as_rows, const std::vector<Matrix>& as_sources) const {
    std::vector<Matrix> parts;
    for (std::size_t k = as_sources.empty() ? 0 : 1; k < as_rows.size(); ++k) parts.push_back(weights_[k] * as_rows[k]);
    for (std::size_t k = 0; k < as_sources.size(); ++k) parts.push_back(weights_[k] * reversed(as_sources[k]));
    Index columns = 0;
    for (const Matrix& p : parts) columns += p.cols();
    if (columns == 0 || count == 0) return Matrix(parts.front().rows(), 0);
    Matrix all(parts.front().rows(), columns);
    columns = 0;
    for (const Matrix& p : parts) all.middleCols(columns, p.cols()) = p, columns += p.cols();
    const Matrix vectors = left_vectors(all).matrixV();
    return vectors.leftCols(std::min(count, vectors.cols()));
  }

  bool two_sided_;
  std::vector<double> weights_;
  std::vector<std::vector<Matrix>> families_;
  std::vector<Matrix> source_, row_;
};

// Forms of all sides on `count` vectors; false where some error stays above what is allowed.
template <class T>
bool joint_forms_of(const std::vector<LearningSide>& sides, LearningVectors& vectors, Index count, Index gap,
                    const std::vector<double>& allowed, std::vector<std::vector<Side>>& found) {
  // Weights bring down an error that is a little too large, and no more.
  constexpr double kHopeless = 2;
  constexpr int kTries = 4;
  vectors.reset();
  for (int t = 0; t < kTries; ++t) {
    vectors.choose(count);
    found.clear();
    std::vector<double> worst(allowed.size(), 0.0);
    bool quick = true;
    for (;;) {
      for (std::size_t k = 0; k < sides.size(); ++k) {
        if (quick) found.push_back(joint_forms<T>(sides[k], vectors.row(k), vectors.source(k), gap));
        const std::vector<double> excess = excesses(sides[k], found[k], gap, allowed, quick);
        for (std::size_t i = 0; i < worst.size(); ++i) worst[i] = std::max(worst[i], excess[i]);
      }
      if (largest(worst) > 1) break;
      if (!quick) return true;
      quick = false;
    }
    if (largest(worst) > kHopeless) return false;
    vectors.learn(worst);
  }
  return false;
}

}  // namespace

template <class T>
bool derivative_form(const ToeplitzValues& m, const SideSums& sums, const std::vector<ToeplitzDerivative>& derivatives,
                     const ChunkBasis<T>& basis, double tolerance, ToleranceKind kind, backend::ChunkedToeplitz<T>& form,
                     const SetUpWatch& watch) {
  form = basis.product;
  const Index chunk = form.chunk, gap = form.gap;
  if (form.length <= gap * chunk) return true;
  if (!m.has_lower) return false;
  const bool two_sided = m.has_upper, same = two_sided && m.symmetric;
  // What is below the diagonal serves what is above too where both are the same.
  std::vector<LearningSide> sides{learning_side(m, sums, derivatives, true, same, form.lower.basis, chunk, gap, kind, watch)};
  if (two_sided && !same)
    sides.push_back(learning_side(m, sums, derivatives, false, false, form.upper.basis, chunk, gap, kind, watch));
  const double least = std::max(tolerance, 16.0 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  // Two different sides share what is allowed in a row.
  std::vector<double> allowed(derivatives.size() + 1, two_sided && !same ? least / 2 : least);
  // The mask itself as its product was certified, of whatever kind its tolerance is.
  allowed[0] = std::max(least, basis.certificate.row.value_or(least));

  LearningVectors vectors(sides, two_sided, chunk, gap, kind);
  Index fewest = 0;
  for (const LearningSide& s : sides) fewest = std::max(fewest, s.own.cols());
  for (Index count = fewest; count <= std::min(kMost, chunk); ++count) {
    std::vector<std::vector<Side>> found;
    if (!joint_forms_of<T>(sides, vectors, count, gap, allowed, found)) continue;
    for (std::size_t k = 0; k < sides.size(); ++k) {
      std::vector<Side> fewer =
          shared_forms<T>(sides[k], vectors.row(k), vectors.source(k), gap, allowed, found[k][0].in.rows());
      if (!fewer.empty()) found[k] = std::move(fewer);
    }
    if (two_sided) {
      form.lower = stored_learning<T>(found.front(), Matrix(chunk, 0));
      form.rows_below = stored_learning<T>(found.back(), Matrix(chunk, 0));
    } else {
      form.lower = stored_learning<T>(found.front(), vectors.row(0));
    }
    return true;
  }
  return false;
}

template bool derivative_form(const ToeplitzValues&, const SideSums&, const std::vector<ToeplitzDerivative>&,
                              const ChunkBasis<float>&, double, ToleranceKind, backend::ChunkedToeplitz<float>&,
                              const SetUpWatch&);
template bool derivative_form(const ToeplitzValues&, const SideSums&, const std::vector<ToeplitzDerivative>&,
                              const ChunkBasis<double>&, double, ToleranceKind, backend::ChunkedToeplitz<double>&,
                              const SetUpWatch&);

}  // namespace espalier
