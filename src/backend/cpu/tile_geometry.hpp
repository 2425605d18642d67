// Sizes of the register tile in use, for code that is compiled once: partitions and scratch memory follow from them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>

namespace espalier::backend {

struct TileGeometry {
  Index panel;        // lanes of a panel: two vectors
  Index rows;         // rows of the register tile, a multiple of 3
  Index columns = 0;  // columns that a tile with columns along lanes takes; 0: there is none
  // Rows that packed panels of n rows take.
  Index padded_rows(Index n) const { return (n + rows / 3 - 1) / (rows / 3) * (rows / 3); }
  // n rounded up to whole vectors.
  Index padded_lanes(Index n) const { return (n + panel / 2 - 1) / (panel / 2) * (panel / 2); }
};

// For elements of 4 or 8 bytes and the instruction set in use.
TileGeometry tile_geometry(std::size_t element);

// Whether a kernel reads columns of x (as the broadcast operand, `padded` of them with padding) from the caller's rows instead
// of packing them, a cost that few rows of the result do not repay. Not at strides near a page: all rows would share the same
// few places of the first-level cache.
template <class T>
bool own_columns(Index result_rows, MatrixView<const T, Cpu> x, Index padded) {
  return result_rows <= 256 && x.cols == padded && x.row_stride * static_cast<Index>(sizeof(T)) <= 1024;
}

// n elements rounded up to whole cache lines.
template <class T>
constexpr Index align_elements(Index n) {
  constexpr Index line = static_cast<Index>(64 / sizeof(T));
  return (n + line - 1) / line * line;
}

}  // namespace espalier::backend
