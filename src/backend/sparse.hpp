// Backend primitive: one term of a three-term recurrence over a sparse symmetric operator, fused with its accumulation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstdint>

namespace espalier::backend {

// T = diag(diagonal) - W, W in compressed rows (nodes x nodes).
template <class C, class B>
struct SparseOperator {
  Index nodes = 0;
  const Index* row_start = nullptr;
  const std::int32_t* col_index = nullptr;
  const C* weights = nullptr;
  const C* diagonal = nullptr;
};

// Width of the panels that recurrence_step works on: at most this many columns of C, and the stride that `columns` of them
// need (whole vectors).
template <class C, class B>
Index panel_columns();
template <class C, class B>
Index panel_stride(Index columns);

// For every row i of panels with `stride` elements a row (all columns of a panel, padding included):
//   previous_i <- alpha (T current)_i + beta current_i - gamma previous_i,      y_i += coefficient (new previous_i).
// One pass over the rows: the operator and each panel are read once. With gamma = 0 previous is not read.
template <class C, class B>
void recurrence_step(const SparseOperator<C, B>& op, C alpha, C beta, C gamma, C coefficient, const C* current, C* previous,
                     C* y, Index stride, const Context<B>& context);

// panel_i = factor_i x_i (factor null: 1), padding set to 0; and x_i = factor_i panel_i. C and T may differ.
template <class T, class C, class B>
void load_panel(MatrixView<const T, B> x, const double* factor, C* panel, Index stride, const Context<B>& context);
template <class T, class C, class B>
void store_panel(const C* panel, Index stride, const double* factor, MatrixView<T, B> x, const Context<B>& context);

}  // namespace espalier::backend
