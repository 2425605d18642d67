// Pieces of the chunk-basis form on the host: states of a sum, its singular directions, what is stored, and the errors of that.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/functions/exponential_term.hpp>

#include <Eigen/Dense>

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <vector>

#include "backend/chunked.hpp"
#include "masks/chunk_basis.hpp"

namespace espalier::chunk_form {

using Matrix = Eigen::MatrixXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A sum of exponentials split at the borders of chunks: with d = a + n C + t (a in the row's chunk, t in the source's),
//   f~(d) = sum_q row_q(a) [D^n source(t)]_q.
// Terms of one decay share states, the highest power first:  source_j(t) = (t / C)^j / j! exp(-s t), so that one chunk further
//   S_j := exp(-s C) sum_{i <= j} S_i / (j - i)!.     Complex terms have a pair of states, Re and Im.
struct States {
  Matrix row, source;  // [C, r]
  std::vector<double> log_decay, angle;
  std::vector<Index> couple_start{0}, couple_state;
  std::vector<double> couple_weight;
  bool coupled = false;
  // How a state moves in the kernels: S := keep S + decay S + couplings, as rounded when stored.
  std::vector<double> keep, decay, couple_stored;
};

// The row's part of a distance is a, the source's gap C - b.
States states_of(const ExponentialSum& sum, Index chunk, Index gap);
// v := D v for the rows of v (r x R), in place.
void move_states(const States& s, Matrix& v);

// Sets what move_states uses, rounded to T.
template <class T>
void store_moves(States& s) {
  for (std::size_t q = 0; q < s.log_decay.size(); ++q) {
    const auto [keep, decay] = backend::chunk_move(s.log_decay[q]);
    s.keep.push_back(keep);
    s.decay.push_back(static_cast<double>(static_cast<T>(decay)));
    for (Index k = s.couple_start[q]; k < s.couple_start[q + 1]; ++k) {
      const double w = s.couple_weight[static_cast<std::size_t>(k)] * std::exp(-s.log_decay[q]);
      s.couple_stored.push_back(static_cast<double>(static_cast<T>(w)));
    }
  }
}

// Columns f(t + a), a < chunk, for t from `first` to `last`, ever further apart, weighted as the kind of tolerance asks.
// evaluate(t, out) gives f(t), f(t + 1), ...
template <class F>
Matrix weighted_family(Index first, Index last, Index chunk, ToleranceKind kind, const F& evaluate) {
  std::vector<Index> t;
  std::vector<double> span;  // distances that a sample stands for
  for (double x = static_cast<double>(first), step = 1; x <= static_cast<double>(std::max(first, last)); x += step) {
    if (t.size() >= static_cast<std::size_t>(2 * chunk)) step *= 1.05;
    t.push_back(static_cast<Index>(x));
    span.push_back(step);
  }
  Matrix family(chunk, static_cast<Index>(t.size()));
  std::vector<double> values(static_cast<std::size_t>(chunk)), sizes(t.size(), 0.0);
  double largest = 0;
  for (std::size_t k = 0; k < t.size(); ++k) {
    evaluate(t[k], std::span<double>(values));
    for (Index a = 0; a < chunk; ++a) {
      family(a, static_cast<Index>(k)) = values[static_cast<std::size_t>(a)];
      sizes[k] = std::max(sizes[k], std::abs(values[static_cast<std::size_t>(a)]));
    }
    largest = std::max(largest, sizes[k]);
  }
  for (std::size_t k = 0; k < t.size(); ++k) {
    // Row errors are sums over distances: each sample counts for those it stands for, and small values for more, since a
    // slowly falling tail outweighs the near blocks. Pointwise errors: every sample has size 1.
    double weight = 1;
    if (kind == ToleranceKind::row) weight = std::sqrt(span[k] / std::max(sizes[k], 1e-6 * largest));
    if (kind == ToleranceKind::pointwise) weight = 1 / std::max(sizes[k], 1e-7 * largest);
    family.col(static_cast<Index>(k)) *= sizes[k] == 0 ? 0 : weight;
  }
  return family;
}

// family = U diag(values) ..: by way of a QR factorisation of its transpose.
Eigen::BDCSVD<Matrix> left_vectors(const Matrix& family);
// Left singular vectors of the weighted family {f~(t + a)}; columns by falling singular value.
Matrix basis_of(const ExponentialSum& sum, Index length, Index chunk, Index gap, ToleranceKind kind);

template <class T>
double rounded(double x) {
  return static_cast<double>(static_cast<T>(x));
}

template <class T>
void round_all(Matrix& m) {
  m = m.unaryExpr([](double x) { return rounded<T>(x); });
}

// One side as a lower side: basis x states, and what the kernels will store. Derivatives may have as many other vectors on
// either side.
struct Side {
  States states;
  Matrix row, source;  // [C, R]
  Matrix in, out;      // [r, R], [R, r]
};

template <class T>
void round_coefficients(Side& s) {
  // Matrices of turning pairs are made anew at every step; others are stored.
  if (std::any_of(s.states.angle.begin(), s.states.angle.end(), [](double a) { return a != 0; })) return;
  round_all<T>(s.in);
  round_all<T>(s.out);
}

template <class T>
Side project(const States& states, const Matrix& basis, Index count) {
  Side s;
  s.states = states;
  store_moves<T>(s.states);
  const Index r = states.row.cols();
  if (count >= std::min(r, basis.cols()) || r <= 1) {
    s.row = states.row;
    s.source = states.source;
    s.in = Matrix::Identity(r, r);
    s.out = Matrix::Identity(r, r);
  } else {
    s.row = basis.leftCols(count);
    s.source = s.row.colwise().reverse();
    s.out = s.row.transpose() * states.row;
    s.in = states.source.transpose() * s.source;
  }
  round_all<T>(s.row);
  round_all<T>(s.source);
  round_coefficients<T>(s);
  return s;
}

// Errors of one side, by distance in chunks n and position in the chunk.
struct Errors {
  RowMajor by_row, by_source;  // [n, C]: sums of |M~ - M| over the sources of a row, over the rows of a source
  double entry = 0, pointwise = 0;
  Index negative = 0;
};

// f: values by distance; least: the smallest |f| that counts for the pointwise error. all: every distance in chunks, as a
// certificate needs; otherwise further and further apart, for a quick look.
Errors errors_of(const Side& side, const std::vector<double>& f, double least, Index gap, bool all, const SetUpWatch& watch);
// The rounding of a product in units of 0.5 eps(T), for its worst single far entry and relative to that entry: the largest of
//   sum |row_p(a)| |out_ps| sqrt(w_s) |D^n_s| |in_sq| |source_q(b)| / |f(d)|
// over the distances that count, w_s the operations behind one term: 2 R + r + 10 (moments, in, out, rows; rounding turned
// matrices; a compensated state), and 2 n more for a state that is not compensated. Roundings of a chain are taken for
// independent, so that w of them make sqrt(w) (N. Higham, T. Mary, SIAM J. Sci. Comput. 41 (2019) A2815), terms for equal in
// sign.
double entry_rounding(const Side& side, const std::vector<double>& f, double least, Index gap, const SetUpWatch& watch);
// The worst row's sum of errors over both sides, relative to its norm, from by_row of the lower side and by_source of the upper
// one, which become sums over n; null: a side without far entries. near: what near
// entries add to every row.
double worst_row(Errors* lower, Errors* upper, const ToeplitzValues& m, double near, Index chunk, Index gap);

template <class T>
backend::ChunkSide<T> stored(const Side& s) {
  backend::ChunkSide<T> k;
  k.basis = s.row.cols();
  k.states = s.in.rows();
  k.reads = k.basis;
  const auto push = [](const Matrix& m, auto& to) {  // columns one after the other
    for (Index c = 0; c < m.cols(); ++c) {
      for (Index r = 0; r < m.rows(); ++r) to.push_back(static_cast<typename std::decay_t<decltype(to)>::value_type>(m(r, c)));
    }
  };
  push(s.row, k.row);
  push(s.source, k.source);
  push(s.in.transpose(), k.in);
  push(s.out.transpose(), k.out);
  k.log_decay = s.states.log_decay;
  k.angle = s.states.angle;
  if (s.states.coupled) {
    k.couple_start = s.states.couple_start;
    k.couple_state = s.states.couple_state;
    k.couple_weight = s.states.couple_weight;
  }
  return k;
}

}  // namespace espalier::chunk_form
