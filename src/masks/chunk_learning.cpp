// Chunk-basis form of a mask with its derivatives beside it, on the host.
// SPDX-License-Identifier: Apache-2.0
//
// Derivatives are read off the states of the mask and as few more as are within the tolerance, each by a matrix of its own in
// the place of `out`. Rows and sources have basis vectors of their own: first those whose moments the gradients by a, b
// and x need anyway, then as many more as the derivatives need.
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

// More vectors than this do not pay, see kMostBasis in sequence.cpp.
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

// Orthonormal vectors: `first`, then what the families add to it, by falling weight.
Matrix extended(const Matrix& first, const std::vector<Matrix>& families) {
  Index columns = 0;
  for (const Matrix& f : families) columns += f.cols();
  if (columns == 0) return first;
  Matrix rest(first.rows(), columns);
  columns = 0;
  for (const Matrix& f : families) rest.middleCols(columns, f.cols()) = f, columns += f.cols();
  // Twice: once leaves what rounding makes of the large parts.
  for (int pass = 0; pass < 2; ++pass) rest -= first * (first.transpose() * rest);
  const Matrix more = left_vectors(rest).matrixV();
  Matrix all(first.rows(), first.cols() + more.cols());
  all << first, more;
  return all;
}

// Directions of the derivatives' families {f~(t + a)}, each family of size 1.
std::vector<Matrix> derivative_families(const LearningSide& side, Index chunk, Index gap, ToleranceKind kind) {
  const Index first = (gap - 1) * chunk + 1, length = static_cast<Index>(side.values[0]->size());
  std::vector<Matrix> families;
  for (std::size_t k = 1; k < side.sums.size(); ++k) {
    const auto evaluate = [&](Index t, std::span<double> out) { side.sums[k]->evaluate(t, out); };
    const auto family = left_vectors(weighted_family(first, std::max(first + 2 * chunk, length), chunk, kind, evaluate));
    const double norm = family.singularValues().norm();
    if (norm > 0) families.push_back(family.matrixV() * (family.singularValues() / norm).asDiagonal());
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

// Whether all forms of a side are within what is allowed; quick: at some distances only.
bool within(const LearningSide& side, const std::vector<Side>& forms, Index gap, const std::vector<double>& allowed,
            bool quick) {
  for (std::size_t k = 0; k < forms.size(); ++k) {
    if (!is_zero(*side.values[k]) && error_of(side, k, forms[k], gap, !quick) > allowed[k]) return false;
  }
  return true;
}

// Forms of a side's functions on the states of all of them; empty where some error is above what is allowed. source: vectors
// of the moments that states take; row: those that derivatives read.
template <class T>
std::vector<Side> joint_forms(const LearningSide& side, const Matrix& row, const Matrix& source, Index gap,
                              const std::vector<double>& allowed) {
  std::vector<Side> forms;
  for (std::size_t k = 0; k < side.sums.size(); ++k) {
    const States states = states_of(joint_sum(side.sums, k), source.rows(), gap);
    forms.push_back(side_on<T>(states, k == 0 ? side.own : row, source));
    if (is_zero(*side.values[k])) forms.back().out.setZero();
  }
  if (!within(side, forms, gap, allowed, true) || !within(side, forms, gap, allowed, false)) forms.clear();
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
    if (all && within(side, forms, gap, allowed, false)) return forms;
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

// Vectors of sources and of rows for each side, the most important first.
std::pair<std::vector<Matrix>, std::vector<Matrix>> learning_vectors(const std::vector<LearningSide>& sides, bool two_sided,
                                                                     Index chunk, Index gap, ToleranceKind kind) {
  std::vector<Matrix> source, row;
  const auto families = derivative_families(sides.front(), chunk, gap, kind);
  if (!two_sided) {
    row.push_back(extended(sides.front().own, families));
    source.push_back(reversed(row[0]));
    return {source, row};
  }
  const auto joined = [](const std::vector<Matrix>& p, const std::vector<Matrix>& q) {
    std::vector<Matrix> all;
    all.reserve(p.size() + q.size());
    for (const Matrix& f : p) all.push_back(reversed(f));
    all.insert(all.end(), q.begin(), q.end());
    return all;
  };
  // States of either side meet moments of the other, which its own states need anyway.
  const bool same = sides.size() == 1;
  const auto above = same ? families : derivative_families(sides.back(), chunk, gap, kind);
  source.push_back(extended(reversed(sides.front().own), joined(families, above)));
  row.push_back(same ? source[0] : extended(reversed(sides.back().own), joined(above, families)));
  if (!same) source.push_back(row[0]), row.push_back(source[0]);
  return {source, row};
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

  const std::pair<std::vector<Matrix>, std::vector<Matrix>> vectors = learning_vectors(sides, two_sided, chunk, gap, kind);
  const std::vector<Matrix>& source = vectors.first;
  const std::vector<Matrix>& row = vectors.second;
  Index fewest = 0, most = kMost;
  for (const LearningSide& s : sides) fewest = std::max(fewest, s.own.cols());
  for (const Matrix& v : source) most = std::min(most, v.cols());
  for (Index count = fewest; count <= most; ++count) {
    std::vector<std::vector<Side>> found;
    for (std::size_t k = 0; k < sides.size(); ++k) {
      const Matrix r = row[k].leftCols(count), s = source[k].leftCols(count);
      std::vector<Side> forms = joint_forms<T>(sides[k], r, s, gap, allowed);
      if (forms.empty()) break;
      std::vector<Side> fewer = shared_forms<T>(sides[k], r, s, gap, allowed, forms[0].in.rows());
      found.push_back(fewer.empty() ? std::move(forms) : std::move(fewer));
    }
    if (found.size() < sides.size()) continue;
    if (two_sided) {
      form.lower = stored_learning<T>(found.front(), Matrix(chunk, 0));
      form.rows_below = stored_learning<T>(found.back(), Matrix(chunk, 0));
    } else {
      form.lower = stored_learning<T>(found.front(), row[0].leftCols(count));
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
