// Entries of a mask by tile: all that kernels know of a mask.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>
#include <espalier/core/views.hpp>

#include <cstdint>

namespace espalier {

enum class EntryKind : std::uint8_t { none, ones, dense, factors, offset_table, sparse, source };

// Entries of a user's own mask (host only): kernels ask for tiles of at most 128 x 128, one virtual call a tile.
template <class T>
class ESPALIER_EXPORT EntrySource {
 public:
  virtual ~EntrySource();
  // out[i * stride + j] = M(row0 + i, col0 + j) for i < rows, j < cols. Called from several threads at once.
  virtual void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const = 0;
  // parameter_bar[p] += sum_ij tile_bar[i * stride + j] dM(row0 + i, col0 + j) / dp, for every parameter p of the mask.
  // The default does nothing, which is right for a mask without parameters.
  virtual void add_gradient(Index row0, Index rows, Index col0, Index cols, const T* tile_bar, Index stride,
                            T* parameter_bar) const;
};

// A closed, trivially copyable description of M (rows x cols); its pointers live as long as the mask it came from.
// With e_ij by kind,
//   ones          e_ij = 1
//   dense         e_ij = values[i * values_stride + j]
//   factors       e_ij = sum_k left[i * left_stride + k] right[j * right_stride + k], k < factor_rank
//   offset_table  e_ij = table[row_key[i] - col_key[j]]       (grids of every dimension)
//   sparse        e_ij = values[p] where col_index[p] = j, row_start[i] <= p < row_start[i + 1]; else 0. Columns ascend.
//   source        e_ij from source->fill
// indices i, j are counted after the border is taken off (i - border_rows, j - border_cols), and
//   M_ij = scale * e_ij                 inside,
//   M_ij = border[0]   for i a border row and j not,  border[1] for j a border column and i not,  border[2] for both,
//   M_ij = 0           where causal and j - i > causal_shift     (i, j with the border counted in).
template <class T, class B = Cpu>
struct Entries {
  EntryKind kind = EntryKind::none;
  bool causal = false;
  Index rows = 0, cols = 0;  // with the border
  Index border_rows = 0, border_cols = 0;
  Index causal_shift = 0;  // 0: top-left; cols - rows: bottom-right
  T scale = T(1);
  T border[3] = {T(1), T(1), T(1)};  // row, column, corner

  const T* values = nullptr;
  Index values_stride = 0;
  bool values_padded = false;  // dense: all values_stride elements of every row may be read, of the last one too
  const T* left = nullptr;
  const T* right = nullptr;
  Index left_stride = 0, right_stride = 0, factor_rank = 0;
  const T* table = nullptr;
  Index table_size = 0;
  const std::int32_t* row_key = nullptr;
  const std::int32_t* col_key = nullptr;
  const Index* row_start = nullptr;
  const std::int32_t* col_index = nullptr;
  const EntrySource<T>* source = nullptr;
  Index parameter_count = 0;  // of source: length of add_gradient's output
};

// Where a kernel adds the gradient of entries: each pointer may be null (not wanted). The factor `scale` is applied by the
// kernel; outputs are added to, never overwritten.
//   values   like Entries::values (dense: [rows, values_stride]; sparse: one per stored entry)
//   table    [table_size]            left, right   like the factors            border   [3]
//   source   [parameter_count]
template <class T, class B = Cpu>
struct EntriesGradient {
  T* values = nullptr;
  T* left = nullptr;
  T* right = nullptr;
  T* table = nullptr;
  T* border = nullptr;
  T* source = nullptr;

  explicit operator bool() const { return values || left || right || table || border || source; }
};

// Host helpers for masks that compose others: any tile of any entries (row-major, out[i * stride + j]), and its gradient.
// Not for inner loops: kernels have their own, vectorised way. Errors: ValueError when kind is none.
template <class T>
ESPALIER_EXPORT void fill_tile(const Entries<T, Cpu>& m, Index row0, Index rows, Index col0, Index cols, T* out, Index stride);
template <class T>
ESPALIER_EXPORT void add_tile_gradient(const Entries<T, Cpu>& m, Index row0, Index rows, Index col0, Index cols,
                                       const T* tile_bar, Index stride, const EntriesGradient<T, Cpu>& out);

}  // namespace espalier
