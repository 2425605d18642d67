// Truth: products and gradients by slow double loops over a dense matrix, and the house's error measure.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/views.hpp>

#include <cstddef>
#include <vector>

namespace espalier::test {

// A dense matrix in double, row-major.
struct DenseMatrix {
  Index rows = 0, cols = 0;
  std::vector<double> values;

  DenseMatrix() = default;
  // All zeros.
  DenseMatrix(Index rows_, Index cols_) : rows(rows_), cols(cols_), values(static_cast<std::size_t>(rows_ * cols_)) {}
  double& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

// The matrix f(i, j), i < rows, j < cols.
template <class F>
DenseMatrix dense_matrix(Index rows, Index cols, const F& f) {
  DenseMatrix m(rows, cols);
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) m(i, j) = f(i, j);
  }
  return m;
}

template <class T>
DenseMatrix dense_matrix(MatrixView<const T, Cpu> view) {
  return dense_matrix(view.rows, view.cols, [&](Index i, Index j) { return static_cast<double>(view(i, j)); });
}

DenseMatrix transposed(const DenseMatrix& m);
DenseMatrix absolute(const DenseMatrix& m);
// p q, p qᵀ, and the entrywise product.
DenseMatrix product(const DenseMatrix& p, const DenseMatrix& q);
DenseMatrix product_transposed(const DenseMatrix& p, const DenseMatrix& q);
DenseMatrix entrywise(const DenseMatrix& p, const DenseMatrix& q);
DenseMatrix sum(double factor_p, const DenseMatrix& p, double factor_q, const DenseMatrix& q);
// The entries' sum of p ∘ q.
double inner(const DenseMatrix& p, const DenseMatrix& q);
double frobenius(const DenseMatrix& m);
double largest(const DenseMatrix& m);

// A value, and the same sum with every term's absolute value: what rounding errors are relative to.
struct Measured {
  DenseMatrix value, magnitude;
};

// Y = M X.
Measured reference_product(const DenseMatrix& m, const DenseMatrix& x);
// Y = (M ∘ A Bᵀ) X, and the row sums as one column; the magnitude is |M ∘ A Bᵀ| |X|.
struct LowRankReference {
  Measured y, row_sum;
};
LowRankReference reference_low_rank(const DenseMatrix& m, const DenseMatrix& a, const DenseMatrix& b, const DenseMatrix& x);

// Gradients of sum y_bar . Y + sum row_sum_bar . row_sum, with W_ij = y_bar_i . x_j + row_sum_bar_i:
//   a = (M ∘ W) B,  b = (M ∘ W)ᵀ A,  x = (M ∘ A Bᵀ)ᵀ y_bar,  m = (A Bᵀ) ∘ W.       row_sum_bar: rows x 1.
struct GradientReference {
  Measured a, b, x, m;
};
GradientReference reference_gradient(const DenseMatrix& m, const DenseMatrix& a, const DenseMatrix& b, const DenseMatrix& x,
                                     const DenseMatrix& y_bar, const DenseMatrix& row_sum_bar);

// ||got - expected||_F / ||magnitude||_F; infinite where got holds a number that is not finite, or where the magnitude is 0
// and got is not.
double relative_error(const DenseMatrix& got, const Measured& expected);

}  // namespace espalier::test
