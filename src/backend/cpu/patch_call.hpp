// What products with a nested far field and their gradients share: patch order, near leaves, panels of features.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/entries.hpp>
#include <espalier/core/views.hpp>

#include "backend/block_product.hpp"
#include "backend/cpu/chunked_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/patch_pass.hpp"
#include "backend/elementwise.hpp"
#include "backend/patches.hpp"

#include <algorithm>
#include <cstddef>

namespace espalier::backend {

// Panels of an odd number of features: rows of moments an odd multiple of c apart do not meet in the same few places of the
// first-level cache.
inline constexpr Index kMostPanel = 13;
// Moments and locals of a panel: what a core's share of the last cache holds.
inline constexpr std::size_t kPanelBytes = 32u << 20;

// Features of a panel: as many as keep moments and locals in cache, or, where even five do not, in half of the scratch memory.
template <class T>
Index panel_features(const PatchedGrid<T>& grid, Index features, Index width, std::size_t scratch_bytes) {
  const std::size_t each = static_cast<std::size_t>(2 * std::max<Index>(1, PatchPass<T>::elements(grid) * width)) * sizeof(T);
  const auto in_cache = static_cast<Index>(kPanelBytes / each), in_memory = static_cast<Index>(scratch_bytes / 2 / each);
  const Index fits = std::clamp<Index>(std::max(in_cache, std::min<Index>(5, in_memory)), 1, kMostPanel);
  return std::min(features, (fits - 1) / 2 * 2 + 1);
}

// Basis vectors at the points of a leaf, [points, R]: as rows read them, or as sources do.
template <class T>
void leaf_basis(const PatchedGrid<T>& grid, Index leaf, bool mirrored, T* out) {
  const PatchLevel<T>& l = grid.levels.front();
  const Axes at = place(leaf, l.patches);
  Axes size{};
  for (std::size_t t = 0; t < 3; ++t) size[t] = std::min(grid.patch[t], grid.sizes[t] - at[t] * grid.patch[t]);
  const Index points = count(size), all = count(grid.patch);
  for (Index i = 0; i < points; ++i, out += l.basis) {
    const Index in_patch = flat(place(i, size), grid.patch);
    std::copy_n(grid.leaf.data() + (mirrored ? all - 1 - in_patch : in_patch) * l.basis, l.basis, out);
  }
}

inline Context<Cpu> within_task(const Context<Cpu>& context) {
  Context<Cpu> inner = context;
  inner.threads = 1;
  inner.progress = nullptr;
  return inner;
}

template <class T>
void add_rows(const T* from, Index from_stride, Index rows, Index cols, T* to, Index to_stride) {
  for (Index i = 0; i < rows; ++i) {
    for (Index k = 0; k < cols; ++k) to[i * to_stride + k] += from[i * from_stride + k];
  }
}

// Leaves along each axis.
template <class T>
Axes leaf_patches(const PatchedGrid<T>& grid) {
  Axes patches{};
  for (std::size_t t = 0; t < 3; ++t) patches[t] = (grid.sizes[t] + grid.patch[t] - 1) / grid.patch[t];
  return patches;
}

// Why two leaves are near: neighbours; with `cross` also in one row of leaves, neighbours there included, or in one column of
// leaves without being neighbours.
enum class Near { neighbour, level_row, level_column };

// Runs of near leaves of a leaf, one after the other in patch order: calls visit(first leaf, last leaf, why).
template <class T, class F>
void visit_near(const PatchedGrid<T>& grid, Index leaf, const F& visit) {
  const Axes patches = leaf_patches(grid);
  Axes low{}, high{};
  const Axes at = place(leaf, patches);
  for (std::size_t t = 0; t < 3; ++t) {
    low[t] = std::max<Index>(0, at[t] - 1);
    high[t] = std::min(patches[t] - 1, at[t] + 1);
  }
  for (Index p = low[0]; p <= high[0]; ++p) {
    for (Index q = grid.cross ? 0 : low[1]; q <= (grid.cross ? patches[1] - 1 : high[1]); ++q) {
      if (grid.cross && q == at[1]) {
        visit(flat({p, q, 0}, patches), flat({p, q, patches[2] - 1}, patches), Near::level_row);
      } else if (q >= low[1] && q <= high[1]) {
        visit(flat({p, q, low[2]}, patches), flat({p, q, high[2]}, patches), Near::neighbour);
      } else {
        visit(flat({p, q, at[2]}, patches), flat({p, q, at[2]}, patches), Near::level_column);
      }
    }
  }
}

// Points of the longest run.
template <class T>
Index longest_run(const PatchedGrid<T>& grid) {
  if (grid.cross) return grid.patch[1] * grid.sizes[2];
  return grid.patch[0] * grid.patch[1] * std::min(3 * grid.patch[2], grid.sizes[2]);
}

// The mask's entries between the leaf's points and those of a run of leaves.
template <class T>
Entries<T, Cpu> near_entries(const PatchedGrid<T>& grid, bool transpose, Index leaf, Index from, Index last) {
  Entries<T, Cpu> e;
  e.kind = EntryKind::offset_table;
  e.rows = grid.points(leaf);
  e.cols = grid.begin(last + 1) - grid.begin(from);
  e.table = (transpose ? grid.near_mirrored : grid.near).data();
  e.table_size = static_cast<Index>(grid.near.size());
  e.row_key = grid.row_key.data() + grid.begin(leaf);
  e.col_key = grid.key.data() + grid.begin(from);
  return e;
}

// A matrix in patch order, columns padded with zeros; or none.
template <class T>
struct Ordered {
  Buffer<T, Cpu> memory;
  MatrixView<T, Cpu> view;
  Ordered() = default;
  Ordered(const PatchedGrid<T>& grid, Index cols)
      : memory(static_cast<Index>(grid.index.size()) * padded_width(std::max<Index>(1, cols))),
        view(memory.data(), static_cast<Index>(grid.index.size()), cols, padded_width(std::max<Index>(1, cols))) {
    std::fill_n(memory.data(), memory.size(), T(0));
  }
};
inline constexpr Index kRowsAtOnce = 1024;

template <class T>
Ordered<T> ordered(const PatchedGrid<T>& grid, MatrixView<const T, Cpu> x, const Context<Cpu>& context) {
  Ordered<T> r(grid, x.cols);
  const Index rows = r.view.rows;
  parallel_for(context, (rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](Index t, int) {
    for (Index i = t * kRowsAtOnce; i < std::min(rows, (t + 1) * kRowsAtOnce); ++i) {
      std::copy_n(x.row(grid.index[static_cast<std::size_t>(i)]), x.cols, r.view.row(i));
    }
  });
  return r;
}

template <class T>
void put_back(const PatchedGrid<T>& grid, MatrixView<const T, Cpu> from, MatrixView<T, Cpu> to, const Context<Cpu>& context) {
  parallel_for(context, (to.rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](Index t, int) {
    for (Index i = t * kRowsAtOnce; i < std::min(to.rows, (t + 1) * kRowsAtOnce); ++i) {
      std::copy_n(from.row(i), to.cols, to.row(grid.index[static_cast<std::size_t>(i)]));
    }
  });
}

}  // namespace espalier::backend
