// Planes of columns on the host: transposes by squares, a band of rows a task.
// SPDX-License-Identifier: Apache-2.0
#include "backend/planes.hpp"

#include <algorithm>

#include "backend/block_product.hpp"
#include "backend/cpu/parallel.hpp"

namespace espalier::backend {

namespace {

constexpr Index kRows = 64;

template <class F>
void by_rows(Index rows, const Context<Cpu>& context, const F& visit) {
  parallel_for(context, (rows + kRows - 1) / kRows, [&](Index task, int) {
    for (Index r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r) visit(r);
  });
}

}  // namespace

template <class T>
void gather_planes(const PlaneShape& s, MatrixView<const T, Cpu> x, Index first, Index count, T* planes,
                   const Context<Cpu>& context) {
  by_rows(s.rows, context, [&](Index r) {
    transpose_block<T>(x.row(r * s.row_step) + first, s.col_step * x.row_stride, s.cols, count, planes + r * s.stride,
                       s.distance);
  });
}

template <class T>
void scatter_planes(const PlaneShape& s, const T* planes, Index first, Index count, MatrixView<T, Cpu> y,
                    const Context<Cpu>& context) {
  by_rows(s.rows, context, [&](Index r) {
    transpose_block<T>(planes + r * s.stride, s.distance, count, s.cols, y.row(r * s.row_step) + first,
                       s.col_step * y.row_stride);
  });
}

template <class T>
void transpose_plane(MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, const Context<Cpu>& context) {
  parallel_for(context, (x.rows + kRows - 1) / kRows, [&](Index task, int) {
    const Index first = task * kRows, count = std::min(kRows, x.rows - first);
    // Blocks of 64 x 64: 32 KiB of both sides in float.
    for (Index c = 0; c < x.cols; c += kRows) {
      transpose_block<T>(x.row(first) + c, x.row_stride, count, std::min(kRows, x.cols - c), y.row(c) + first, y.row_stride);
    }
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                                     \
  template void gather_planes(const PlaneShape&, MatrixView<const T, Cpu>, Index, Index, T*, const Context<Cpu>&);  \
  template void scatter_planes(const PlaneShape&, const T*, Index, Index, MatrixView<T, Cpu>, const Context<Cpu>&); \
  template void transpose_plane(MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
