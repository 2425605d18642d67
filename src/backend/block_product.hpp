// Backend primitives: a small dense product of packed blocks, alone or with what gradients read from it, and a block turned.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

namespace espalier::backend {

// Rows of the blocks b and c below are a multiple of this many elements long: the widest panel of any instruction set.
inline constexpr Index kBlockPadding = 32;
constexpr Index padded_width(Index cols) {
  return (cols + kBlockPadding - 1) / kBlockPadding * kBlockPadding;
}

// c[i * c_step + j] = (add ? c : 0) + sum_{k < depth} a[i * a_row + k * a_step] b[k * b_step + j],  i < rows, j < cols.
// Columns up to padded_width(cols) of b are read and of c written. One thread; runs at the register tile's speed.
template <class T>
void block_product(Index rows, Index cols, Index depth, const T* a, Index a_row, Index a_step, const T* b, Index b_step, T* c,
                   Index c_step, bool add);

// With t_i the rows of such a product, in registers only:
//   dots[i * dots_step] += t_i . x_i  (where dots is given),    y_i += scale[i * scale_step] t_i  (where y is given).
// x: [rows, x_step], y: [rows, y_step]. Columns up to padded_width(cols) of b, x and y are read, and of y written; those of x
// and b beyond cols must be zero in one of them. One thread; each dot is summed in an order that depends on cols alone.
template <class T>
struct BlockReading {
  Index rows, cols, depth;
  const T* a;
  Index a_row, a_step;
  const T* b;
  Index b_step;
  const T* x;
  Index x_step;
  T* dots;
  Index dots_step;
  const T* scale;
  Index scale_step;
  T* y;
  Index y_step;
};
template <class T>
void block_reading(const BlockReading<T>& r);

// y[j * y_stride + i] = x[i * x_stride + j],  i < rows, j < cols; x and y apart. One thread, by squares in registers.
template <class T>
void transpose_block(const T* x, Index x_stride, Index rows, Index cols, T* y, Index y_stride);

}  // namespace espalier::backend
