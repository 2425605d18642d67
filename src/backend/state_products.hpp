// Backend primitives by state: products with the mask of ones, causal or not, without its rows x cols pairs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>

namespace espalier::backend {

// Whether a backend has the products below; where not, the mask of ones runs by tiles.
template <class B>
inline constexpr bool has_state_products = false;
template <>
inline constexpr bool has_state_products<Cpu> = true;

// The same rows in reverse order: a view with a negative stride. Mᵀ of a causal mask of ones is again one in that order.
template <class T, class B>
MatrixView<T, B> reversed(MatrixView<T, B> m) {
  MatrixView<T, B> r = m;
  if (m.rows > 0) r.data = m.data + (m.rows - 1) * m.row_stride;
  r.row_stride = -m.row_stride;
  return r;
}

// A matrix with one more column where wanted: ones, or `last` (n x 1). The matrix itself may have no columns.
template <class T, class B>
struct Columns {
  MatrixView<const T, B> matrix;
  bool ones = false;
  MatrixView<const T, B> last{};

  Index width() const { return matrix.cols + (ones || last ? 1 : 0); }
};

// y_i = w_i sum_{j <= i + shift} (a_i . b_j) v_j x_j, with optional weights w, v (n x 1 views; empty: 1).
//   a: rows x m    b: cols x m    x: cols x c
// Rows are cut into groups at places that depend on the shape alone: first every group's state sum_j b_j x_jᵀ (m x c), then
// their running sums in order, then the rows of each group from its starting state, in chunks of 64: the state for earlier
// chunks and an exact tile within the chunk. States are sums in double, nothing is subtracted.
// Cost: about 6 L m c (causal), 4 L m c (all pairs) flops; memory at most 18 m c doubles.
template <class T, class B>
struct StateProduct {
  Columns<T, B> a, b, x;
  Index rows = 0, cols = 0;
  Index shift = 0;
  MatrixView<const T, B> row_weight{}, col_weight{};
};
// y: rows x x.matrix.cols, may be empty; y_last: rows x 1, the product of x's additional column. Overwritten, or added to.
template <class T, class B>
void state_product(const StateProduct<T, B>& in, MatrixView<T, B> y, MatrixView<T, B> y_last, bool accumulate,
                   const Context<B>& context);
// Bound on the memory it takes.
std::size_t state_product_bytes(Index rank, Index columns, std::size_t element);

// y_i = sum_{j <= i + shift} x_j, sums in double. y: rows x c.
template <class T, class B>
void prefix_sums(MatrixView<const T, B> x, Index shift, MatrixView<T, B> y, const Context<B>& context);

}  // namespace espalier::backend
