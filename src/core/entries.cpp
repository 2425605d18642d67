// Tiles of entries on the host, one entry at a time: for masks that compose others and for entries without a faster way.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/entries.hpp>
#include <espalier/core/error.hpp>

#include <algorithm>
#include <vector>

namespace espalier {

template <class T>
EntrySource<T>::~EntrySource() = default;
template <class T>
void EntrySource<T>::add_gradient(Index, Index, Index, Index, const T*, Index, T*) const {}

namespace {

// The part of a tile that lies inside the border: rows i0 .. i0 + ni - 1 of the inner mask at tile row di, and so columns.
struct Inside {
  Index i0, ni, di, j0, nj, dj;
};

template <class T>
Inside inside(const Entries<T, Cpu>& m, Index row0, Index rows, Index col0, Index cols) {
  const Index di = std::clamp<Index>(m.border_rows - row0, 0, rows), dj = std::clamp<Index>(m.border_cols - col0, 0, cols);
  return {row0 + di - m.border_rows, rows - di, di, col0 + dj - m.border_cols, cols - dj, dj};
}

template <class T>
T border_value(const Entries<T, Cpu>& m, Index i, Index j) {
  return m.border[i < m.border_rows ? (j < m.border_cols ? 2 : 0) : 1];
}

template <class T>
bool in_border(const Entries<T, Cpu>& m, Index i, Index j) {
  return i < m.border_rows || j < m.border_cols;
}

template <class T>
void fill_inside(const Entries<T, Cpu>& m, const Inside& p, T* out, Index stride) {
  switch (m.kind) {
    case EntryKind::none:
      throw ValueError("this mask has no entries by tile");
    case EntryKind::ones:
      for (Index i = 0; i < p.ni; ++i) std::fill_n(out + i * stride, p.nj, T(1));
      break;
    case EntryKind::dense:
      for (Index i = 0; i < p.ni; ++i) std::copy_n(m.values + (p.i0 + i) * m.values_stride + p.j0, p.nj, out + i * stride);
      break;
    case EntryKind::factors:
      for (Index i = 0; i < p.ni; ++i) {
        for (Index j = 0; j < p.nj; ++j) {
          const T *f = m.left + (p.i0 + i) * m.left_stride, *g = m.right + (p.j0 + j) * m.right_stride;
          T sum = 0;
          for (Index k = 0; k < m.factor_rank; ++k) sum += f[k] * g[k];
          out[i * stride + j] = sum;
        }
      }
      break;
    case EntryKind::offset_table:
      for (Index i = 0; i < p.ni; ++i) {
        const T* row = m.table + m.row_key[p.i0 + i];
        for (Index j = 0; j < p.nj; ++j) out[i * stride + j] = row[-static_cast<Index>(m.col_key[p.j0 + j])];
      }
      break;
    case EntryKind::sparse:
      for (Index i = 0; i < p.ni; ++i) {
        std::fill_n(out + i * stride, p.nj, T(0));
        const std::int32_t* end = m.col_index + m.row_start[p.i0 + i + 1];
        const std::int32_t* q = std::lower_bound(m.col_index + m.row_start[p.i0 + i], end, p.j0);
        for (; q != end && *q < p.j0 + p.nj; ++q) out[i * stride + (*q - p.j0)] = m.values[q - m.col_index];
      }
      break;
    case EntryKind::source:
      m.source->fill(p.i0, p.ni, p.j0, p.nj, out, stride);
      break;
  }
  if (m.scale != T(1)) {
    for (Index i = 0; i < p.ni; ++i) {
      for (Index j = 0; j < p.nj; ++j) out[i * stride + j] *= m.scale;
    }
  }
}

template <class T>
void add_inside(const Entries<T, Cpu>& m, const Inside& p, const T* bar, Index stride, const EntriesGradient<T, Cpu>& out) {
  switch (m.kind) {
    case EntryKind::none:
    case EntryKind::ones:
      break;
    case EntryKind::dense:
      if (!out.values) break;
      for (Index i = 0; i < p.ni; ++i) {
        T* to = out.values + (p.i0 + i) * m.values_stride + p.j0;
        for (Index j = 0; j < p.nj; ++j) to[j] += bar[i * stride + j];
      }
      break;
    case EntryKind::factors:
      for (Index i = 0; i < p.ni; ++i) {
        for (Index j = 0; j < p.nj; ++j) {
          const Index f = (p.i0 + i) * m.left_stride, g = (p.j0 + j) * m.right_stride;
          for (Index k = 0; k < m.factor_rank; ++k) {
            if (out.left) out.left[f + k] += bar[i * stride + j] * m.right[g + k];
            if (out.right) out.right[g + k] += bar[i * stride + j] * m.left[f + k];
          }
        }
      }
      break;
    case EntryKind::offset_table:
      if (!out.table) break;
      for (Index i = 0; i < p.ni; ++i) {
        T* row = out.table + m.row_key[p.i0 + i];
        for (Index j = 0; j < p.nj; ++j) row[-static_cast<Index>(m.col_key[p.j0 + j])] += bar[i * stride + j];
      }
      break;
    case EntryKind::sparse:
      if (!out.values) break;
      for (Index i = 0; i < p.ni; ++i) {
        const std::int32_t* end = m.col_index + m.row_start[p.i0 + i + 1];
        const std::int32_t* q = std::lower_bound(m.col_index + m.row_start[p.i0 + i], end, p.j0);
        for (; q != end && *q < p.j0 + p.nj; ++q) out.values[q - m.col_index] += bar[i * stride + (*q - p.j0)];
      }
      break;
    case EntryKind::source:
      if (out.source) m.source->add_gradient(p.i0, p.ni, p.j0, p.nj, bar, stride, out.source);
      break;
  }
}

}  // namespace

template <class T>
void fill_tile(const Entries<T, Cpu>& m, Index row0, Index rows, Index col0, Index cols, T* out, Index stride) {
  if (m.kind == EntryKind::none) throw ValueError("this mask has no entries by tile");
  const Inside p = inside(m, row0, rows, col0, cols);
  if (p.ni > 0 && p.nj > 0) fill_inside(m, p, out + p.di * stride + p.dj, stride);
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < (i < p.di ? cols : p.dj); ++j) out[i * stride + j] = border_value(m, row0 + i, col0 + j);
    if (!m.causal) continue;
    const Index first = std::clamp<Index>(row0 + i + m.causal_shift + 1 - col0, 0, cols);
    std::fill(out + i * stride + first, out + i * stride + cols, T(0));
  }
}

template <class T>
void add_tile_gradient(const Entries<T, Cpu>& m, Index row0, Index rows, Index col0, Index cols, const T* tile_bar,
                       Index stride, const EntriesGradient<T, Cpu>& out) {
  const Inside p = inside(m, row0, rows, col0, cols);
  // Causal zeros and the scale act on the gradient as on the entries.
  std::vector<T> masked(static_cast<std::size_t>(rows * cols));
  for (Index i = 0; i < rows; ++i) {
    const Index end = m.causal ? std::clamp<Index>(row0 + i + m.causal_shift + 1 - col0, 0, cols) : cols;
    for (Index j = 0; j < end; ++j) {
      const bool border = in_border(m, row0 + i, col0 + j);
      const T g = tile_bar[i * stride + j];
      masked[static_cast<std::size_t>(i * cols + j)] = border ? T(0) : m.scale * g;
      if (border && out.border) out.border[i + row0 < m.border_rows ? (j + col0 < m.border_cols ? 2 : 0) : 1] += g;
    }
  }
  if (p.ni > 0 && p.nj > 0) add_inside(m, p, masked.data() + p.di * cols + p.dj, cols, out);
}

#define ESPALIER_INSTANTIATE(T)                                                                                        \
  template class ESPALIER_EXPORT EntrySource<T>;                                                                       \
  template ESPALIER_EXPORT void fill_tile(const Entries<T, Cpu>&, Index, Index, Index, Index, T*, Index);              \
  template ESPALIER_EXPORT void add_tile_gradient(const Entries<T, Cpu>&, Index, Index, Index, Index, const T*, Index, \
                                                  const EntriesGradient<T, Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
