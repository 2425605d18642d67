// Arguments of the masked low-rank product Y = (M ∘ A Bᵀ) X and of its gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

namespace espalier {

// M of size rows x cols:
//   a: rows x m      b: cols x m      x: cols x c
//   y: rows x c      row_sum: rows (empty view: not wanted)
// For the transposed product, with Mᵀ: a: cols x m, b: rows x m, x: rows x c, y: cols x c, row_sum: cols.
template <class T, class B = Cpu>
struct LowRankInputs {
  MatrixView<const T, B> a{}, b{}, x{};
};
template <class T, class B = Cpu>
struct LowRankOutputs {
  MatrixView<T, B> y{};
  VectorView<T, B> row_sum{};
};
// Cotangents of y and row_sum (empty: zero), and the gradients wanted (empty: not wanted).
template <class T, class B = Cpu>
struct LowRankCotangents {
  MatrixView<const T, B> y{};
  VectorView<const T, B> row_sum{};
};
template <class T, class B = Cpu>
struct LowRankGradients {
  MatrixView<T, B> a{}, b{}, x{};
  VectorView<T, B> parameters{};
};

}  // namespace espalier
