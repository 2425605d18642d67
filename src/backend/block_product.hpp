// Backend primitive: a small dense product of packed blocks, the flops under products by state.
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

}  // namespace espalier::backend
