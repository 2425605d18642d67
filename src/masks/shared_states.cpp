// Shared states on the host.
// SPDX-License-Identifier: Apache-2.0
#include "masks/shared_states.hpp"

#include <algorithm>
#include <cmath>
#include <span>

namespace espalier::chunk_form {

namespace {

// All powers of a term's decay up to its own: they share states.
ExponentialSum with_lower_powers(const ExponentialTerm& term) {
  ExponentialSum sum;
  for (int power = 0; power <= term.power; ++power) sum.terms.push_back({0, term.decay, power});
  return sum;
}

}  // namespace

SharedStates::SharedStates(const std::vector<const ExponentialSum*>& sums,
                           const std::vector<const std::vector<double>*>& values, const Matrix& row, const Matrix& source,
                           Index gap)
    : source_(source), gap_(gap), sum_(*sums[0]) {
  const auto length = static_cast<Index>(values[0]->size()), chunk = source.rows();
  const Index count = std::max<Index>(1, (length - 1) / chunk - gap + 1);
  for (Index n = 0, next = 0; n < count; n = next) {
    next = std::min(count, n < 32 ? n + 1 : n + n / 8);
    places_.push_back(n);
    stands_for_.push_back(static_cast<double>(next - n));
  }
  const auto known = [](const std::vector<ExponentialTerm>& terms, const ExponentialTerm& t) {
    return std::any_of(terms.begin(), terms.end(),
                       [&](const ExponentialTerm& o) { return o.decay == t.decay && o.power >= t.power; });
  };
  for (std::size_t k = 1; k < sums.size(); ++k) {
    for (const ExponentialTerm& t : sums[k]->terms) {
      if (!known(sum_.terms, t) && !known(candidates_, t)) candidates_.push_back(t);
    }
    wanted_.push_back(wanted(*sums[k], *values[k], row));
  }
  States own = states_of(sum_, chunk, gap);
  store_moves<double>(own);
  const Matrix columns = held(own, own.source.transpose() * source);
  for (Wanted& w : wanted_) take(w, fresh(w, columns));
}

Matrix SharedStates::held(const States& states, const Matrix& in) const {
  const Index basis = source_.cols();
  Matrix all(static_cast<Index>(places_.size()) * basis, in.rows()), moved = in;
  Index at = 0, row = 0;
  for (const Index n : places_) {
    for (; at < n; ++at) move_states(states, moved);
    all.middleRows(row, basis) = moved.transpose();
    row += basis;
  }
  return all;
}

SharedStates::Wanted SharedStates::wanted(const ExponentialSum& sum, const std::vector<double>& f, const Matrix& row) const {
  const Index chunk = source_.rows(), basis = source_.cols(), places = static_cast<Index>(places_.size());
  const auto length = static_cast<Index>(f.size());
  Wanted w;
  w.values.resize(places * basis, row.cols());
  w.weight.resize(places * basis);
  Matrix entries(chunk, chunk);
  std::vector<double> values(static_cast<std::size_t>(2 * chunk - 1)), sizes;
  for (Index k = 0; k < places; ++k) {
    const Index first = (places_[static_cast<std::size_t>(k)] + gap_ - 1) * chunk + 1;
    sum.evaluate(first, values);  // beyond the last distance
    for (Index d = first; d < std::min(length, first + 2 * chunk - 1); ++d) {
      values[static_cast<std::size_t>(d - first)] = f[static_cast<std::size_t>(d)];
    }
    double size = 0;
    for (const double v : values) size = std::max(size, std::abs(v));
    sizes.push_back(size);
    for (Index b = 0; b < chunk; ++b) {
      for (Index a = 0; a < chunk; ++a) entries(a, b) = values[static_cast<std::size_t>(a + chunk - 1 - b)];
    }
    w.values.middleRows(k * basis, basis) = source_.transpose() * (entries.transpose() * row);
  }
  const double largest = *std::max_element(sizes.begin(), sizes.end());
  for (Index k = 0; k < places; ++k) {
    const auto at = static_cast<std::size_t>(k);
    const double weight = largest > 0 ? std::sqrt(stands_for_[at] / std::max(sizes[at], 1e-6 * largest)) : 0.0;
    w.weight.segment(k * basis, basis).setConstant(weight);
  }
  w.values = w.weight.asDiagonal() * w.values;
  w.size = w.values.norm();
  w.rest = w.values;
  w.span = Matrix(places * basis, 0);
  return w;
}

Matrix SharedStates::fresh(const Wanted& w, const Matrix& columns) const {
  Matrix parts = w.weight.asDiagonal() * columns;
  Index count = 0;
  for (Index c = 0; c < parts.cols(); ++c) {
    Eigen::VectorXd v = parts.col(c);
    const double norm = v.norm();
    // Twice: once leaves what rounding makes of the large parts.
    for (int pass = 0; pass < 2; ++pass) {
      v -= w.span * (w.span.transpose() * v);
      v -= parts.leftCols(count) * (parts.leftCols(count).transpose() * v);
    }
    if (v.norm() > 1e-10 * norm) parts.col(count++) = v.normalized();
  }
  return parts.leftCols(count);
}

void SharedStates::take(Wanted& w, const Matrix& directions) {
  w.rest -= directions * (directions.transpose() * w.rest);
  const Index columns = w.span.cols();
  w.span.conservativeResize(directions.rows(), columns + directions.cols());
  w.span.rightCols(directions.cols()) = directions;
}

double SharedStates::residual() const {
  double most = 0;
  for (const Wanted& w : wanted_) {
    if (w.size > 0) most = std::max(most, w.rest.norm() / w.size);
  }
  return most;
}

bool SharedStates::grow() {
  double most = 0;
  std::size_t best = 0;
  std::vector<Matrix> directions;
  for (std::size_t c = 0; c < candidates_.size(); ++c) {
    States states = states_of(with_lower_powers(candidates_[c]), source_.rows(), gap_);
    store_moves<double>(states);
    const Matrix columns = held(states, states.source.transpose() * source_);
    std::vector<Matrix> parts;
    double gain = 0;
    for (const Wanted& w : wanted_) {
      parts.push_back(fresh(w, columns));
      // What is nearly there already counts as much as what is far from it.
      if (w.rest.norm() > 0) gain += (parts.back().transpose() * w.rest).squaredNorm() / w.rest.squaredNorm();
    }
    if (gain > most) most = gain, best = c, directions = std::move(parts);
  }
  if (most == 0) return false;
  for (std::size_t k = 0; k < wanted_.size(); ++k) take(wanted_[k], directions[k]);
  for (const ExponentialTerm& t : with_lower_powers(candidates_[best]).terms) sum_.terms.push_back(t);
  candidates_.erase(candidates_.begin() + static_cast<std::ptrdiff_t>(best));
  return true;
}

Matrix SharedStates::out(std::size_t k, const States& states, const Matrix& in, double cut) const {
  const Wanted& w = wanted_[k - 1];
  Matrix known = w.weight.asDiagonal() * held(states, in);
  Eigen::VectorXd scale = known.colwise().norm().transpose();
  for (Index q = 0; q < scale.size(); ++q) {
    if (scale[q] == 0) scale[q] = 1;
    known.col(q) /= scale[q];
  }
  const Eigen::BDCSVD<Matrix> svd(known, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd& sizes = svd.singularValues();
  Matrix parts = svd.matrixU().transpose() * w.values;
  for (Index q = 0; q < sizes.size(); ++q) parts.row(q) *= sizes[q] > cut * sizes[0] ? 1 / sizes[q] : 0.0;
  return (scale.cwiseInverse().asDiagonal() * (svd.matrixV() * parts)).transpose();
}

}  // namespace espalier::chunk_form
