// The slow loops.
// SPDX-License-Identifier: Apache-2.0
#include "support/reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace espalier::test {

namespace {

// A mistake in a test's own reference must not look like a mistake of the library.
void require(bool fits) {
  if (!fits) throw std::logic_error("reference: sizes of the test's own matrices do not fit");
}

}  // namespace

DenseMatrix transposed(const DenseMatrix& m) {
  return dense_matrix(m.cols, m.rows, [&](Index i, Index j) { return m(j, i); });
}

DenseMatrix absolute(const DenseMatrix& m) {
  return dense_matrix(m.rows, m.cols, [&](Index i, Index j) { return std::abs(m(i, j)); });
}

DenseMatrix product(const DenseMatrix& p, const DenseMatrix& q) {
  require(p.cols == q.rows);
  DenseMatrix r(p.rows, q.cols);
  for (Index i = 0; i < p.rows; ++i) {
    for (Index j = 0; j < p.cols; ++j) {
      for (Index k = 0; k < q.cols; ++k) r(i, k) += p(i, j) * q(j, k);
    }
  }
  return r;
}

DenseMatrix product_transposed(const DenseMatrix& p, const DenseMatrix& q) {
  return product(p, transposed(q));
}

DenseMatrix entrywise(const DenseMatrix& p, const DenseMatrix& q) {
  require(p.rows == q.rows && p.cols == q.cols);
  return dense_matrix(p.rows, p.cols, [&](Index i, Index j) { return p(i, j) * q(i, j); });
}

DenseMatrix sum(double factor_p, const DenseMatrix& p, double factor_q, const DenseMatrix& q) {
  require(p.rows == q.rows && p.cols == q.cols);
  return dense_matrix(p.rows, p.cols, [&](Index i, Index j) { return factor_p * p(i, j) + factor_q * q(i, j); });
}

double inner(const DenseMatrix& p, const DenseMatrix& q) {
  const DenseMatrix r = entrywise(p, q);
  double total = 0;
  for (const double v : r.values) total += v;
  return total;
}

double frobenius(const DenseMatrix& m) {
  return std::sqrt(inner(m, m));
}

double largest(const DenseMatrix& m) {
  double r = 0;
  for (const double v : m.values) r = std::max(r, std::abs(v));
  return r;
}

Measured reference_product(const DenseMatrix& m, const DenseMatrix& x) {
  return {product(m, x), product(absolute(m), absolute(x))};
}

LowRankReference reference_low_rank(const DenseMatrix& m, const DenseMatrix& a, const DenseMatrix& b, const DenseMatrix& x) {
  const DenseMatrix scores = entrywise(m, product_transposed(a, b));
  const DenseMatrix ones = dense_matrix(m.cols, 1, [](Index, Index) { return 1.0; });
  return {reference_product(scores, x), reference_product(scores, ones)};
}

GradientReference reference_gradient(const DenseMatrix& m, const DenseMatrix& a, const DenseMatrix& b, const DenseMatrix& x,
                                     const DenseMatrix& y_bar, const DenseMatrix& row_sum_bar) {
  const auto gradient_of = [](const DenseMatrix& m_, const DenseMatrix& a_, const DenseMatrix& b_, const DenseMatrix& x_,
                              const DenseMatrix& y_, const DenseMatrix& r_) {
    const DenseMatrix dot = product_transposed(a_, b_);
    const DenseMatrix ones = dense_matrix(m_.cols, 1, [](Index, Index) { return 1.0; });
    const DenseMatrix w = sum(1, product_transposed(y_, x_), 1, product_transposed(r_, ones));
    const DenseMatrix mw = entrywise(m_, w);
    return std::vector<DenseMatrix>{product(mw, b_), product(transposed(mw), a_), product(transposed(entrywise(m_, dot)), y_),
                                    entrywise(dot, w)};
  };
  const auto v = gradient_of(m, a, b, x, y_bar, row_sum_bar);
  const auto g = gradient_of(absolute(m), absolute(a), absolute(b), absolute(x), absolute(y_bar), absolute(row_sum_bar));
  return {{v[0], g[0]}, {v[1], g[1]}, {v[2], g[2]}, {v[3], g[3]}};
}

double relative_error(const DenseMatrix& got, const Measured& expected) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  if (got.rows != expected.value.rows || got.cols != expected.value.cols) return infinite;
  const double error = frobenius(sum(1, got, -1, expected.value)), scale = frobenius(expected.magnitude);
  if (!std::isfinite(error)) return infinite;
  if (error == 0) return 0;
  return scale > 0 ? error / scale : infinite;
}

}  // namespace espalier::test
