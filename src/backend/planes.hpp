// Backend primitives: columns of a matrix over a grid of two axes as planes, and planes turned around.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

namespace espalier::backend {

// Point (r, c) of a rows x cols plane is row r * row_step + c * col_step of x. Planes have `stride` numbers between their rows
// and `distance` between them.
struct PlaneShape {
  Index rows = 0, cols = 0, row_step = 0, col_step = 0;
  Index stride = 0, distance = 0;
};

// planes[k, r, c] = x(point, first + k), k < count; and back.
template <class T>
void gather_planes(const PlaneShape& shape, MatrixView<const T, Cpu> x, Index first, Index count, T* planes,
                   const Context<Cpu>& context);
template <class T>
void scatter_planes(const PlaneShape& shape, const T* planes, Index first, Index count, MatrixView<T, Cpu> y,
                    const Context<Cpu>& context);
// y(c, r) = x(r, c).
template <class T>
void transpose_plane(MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, const Context<Cpu>& context);

}  // namespace espalier::backend
