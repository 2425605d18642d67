// Mask tiles for the register-tile kernels: entries laid out [j][i] with i along SIMD lanes, as a view where that is possible.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see tiles.cpp.
//
// Lanes i are rows of the result, j its sources: (i, j) = (row, column) of M, or (column, row) for the transposed product.
#if defined(ESPALIER_ENTRY_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_ENTRY_TILES_INL
#undef ESPALIER_ENTRY_TILES_INL
#else
#define ESPALIER_ENTRY_TILES_INL
#endif

#include <hwy/highway.h>

#include <espalier/core/entries.hpp>

#include <algorithm>

#include "backend/cpu/entry_plan.hpp"
#include "backend/cpu/packing-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Entry (i0 + i, j0 + j) at data[j * j_step + i]; data null: every entry is 1. Lanes up to the next whole panel may be read
// (they hold anything). `zero`: every entry of the tile is 0 by the mask's structure; data says nothing.
template <class T>
struct EntryTile {
  const T* data = nullptr;
  Index j_step = 0;
  bool zero = false;
};

// How much of a tile the causal rule column - row <= shift leaves.
enum class CausalPart { none, some, all };
template <class T>
CausalPart causal_part(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj) {
  if (!plan.m.causal) return CausalPart::all;
  const bool t = plan.transpose;
  const Index row = t ? j0 : i0, rows = t ? nj : ni, col = t ? i0 : j0, cols = t ? ni : nj;
  if (col + cols - 1 - row <= plan.m.causal_shift) return CausalPart::all;
  return col - (row + rows - 1) > plan.m.causal_shift ? CausalPart::none : CausalPart::some;
}

template <class T>
bool sparse_tile_is_empty(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj) {
  const Entries<T, Cpu>& m = plan.m;
  const bool t = plan.transpose;
  const Index row = (t ? j0 : i0) - m.border_rows, rows = t ? nj : ni, col = (t ? i0 : j0) - m.border_cols, cols = t ? ni : nj;
  for (Index r = row; r < row + rows; ++r) {
    Index low = m.row_start[r], high = m.row_start[r + 1];
    const Index end = high;
    while (low < high) {
      const Index middle = low + (high - low) / 2;
      if (m.col_index[middle] < col) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low < end && m.col_index[low] < col + cols) return false;
  }
  return true;
}

template <class T>
HWY_INLINE void copy_lanes(const T* HWY_RESTRICT x, Index n, T* HWY_RESTRICT y) {
  const Wide<T> d;
  Index k = 0;
  for (; k + kLanes<T> <= n; k += kLanes<T>) hn::StoreU(hn::LoadU(d, x + k), d, y + k);
  for (; k < n; ++k) y[k] = x[k];
}

// Copies n elements rounded up to whole vectors.
template <class T>
HWY_INLINE void copy_vectors(const T* HWY_RESTRICT x, Index n, T* HWY_RESTRICT y) {
  const Wide<T> d;
  for (Index k = 0; k < n; k += kLanes<T>) hn::StoreU(hn::LoadU(d, x + k), d, y + k);
}

// offset_table without border or causal zeros: a view into the table where keys are consecutive (one-dimensional grids),
// otherwise one copy per run of consecutive keys (the last dimension of a grid).
template <class T>
EntryTile<T> offset_tile(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, bool may_view, T* out,
                         Index stride) {
  const std::int32_t* ki = plan.lane_key + i0;
  const std::int32_t* kj = plan.source_key + j0;
  // Position in the table of lane i and source j: plan.lane_sign * ki[i] + plan.source_sign * kj[j] + plan.offset.
  const Index si = plan.lane_sign, sj = plan.source_sign;
  const auto run_end = [&](Index i) HWY_ATTR {
    Index e = i + 1;
    while (e < ni && si * (ki[e] - ki[e - 1]) == 1) ++e;
    return e;
  };
  const Index first_end = run_end(0);
  if (may_view && first_end == ni) {
    const Index step = nj > 1 ? sj * (kj[1] - kj[0]) : 0;
    bool even = true;
    for (Index j = 2; j < nj; ++j) even &= sj * (kj[j] - kj[j - 1]) == step;
    const Index a = plan.offset + si * ki[0] + sj * kj[0], b = a + (nj - 1) * step;
    const Index end = std::max(a, b) + (ni + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
    if (even && end <= plan.m.table_size) return {plan.table + a, step, false};
  }
  Index at[kTileSources], highest = sj * kj[0];
  for (Index j = 0; j < nj; ++j) {
    at[j] = sj * kj[j];
    highest = std::max(highest, at[j]);
  }
  for (Index i = 0; i < ni;) {
    const Index end = i == 0 ? first_end : run_end(i), length = end - i, whole = padded_lanes<T>(length);
    const Index from = plan.offset + si * ki[i];
    // Runs of 14 (an image of 14 x 14 patches) are one whole vector each: what it writes too far, the next run overwrites.
    const T* source = plan.table + from;
    T* to = out + i;
    if (i + whole > kTileLanes || from + highest + whole > plan.m.table_size) {
      for (Index j = 0; j < nj; ++j) copy_lanes(source + at[j], length, to + j * stride);
    } else if (whole == kLanes<T>) {
      const Wide<T> d;
      for (Index j = 0; j < nj; ++j, to += stride) hn::StoreU(hn::LoadU(d, source + at[j]), d, to);
    } else {
      for (Index j = 0; j < nj; ++j) copy_vectors(source + at[j], length, to + j * stride);
    }
    i = end;
  }
  return {out, stride, false};
}

// sum_k left_ik right_jk by one multiple of a lane vector per k. `scratch` holds factor_rank lanes' worth of rows.
template <class T>
void factors_tile(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, T* out, Index stride) {
  const Entries<T, Cpu>& m = plan.m;
  const T* lane = plan.transpose ? m.right : m.left;
  const T* source = plan.transpose ? m.left : m.right;
  const Index lane_stride = plan.transpose ? m.right_stride : m.left_stride;
  const Index source_stride = plan.transpose ? m.left_stride : m.right_stride;
  constexpr Index kChunk = 8;
  HWY_ALIGN T turned[kChunk * kTileLanes];
  const Wide<T> d;
  for (Index k0 = 0; k0 < std::max<Index>(1, m.factor_rank); k0 += kChunk) {
    const Index nk = std::min(kChunk, m.factor_rank - k0);
    if (ni < kTileLanes) std::fill_n(turned, kChunk * kTileLanes, T(0));
    transpose(lane + i0 * lane_stride + k0, lane_stride, ni, nk, turned, kTileLanes);
    for (Index j = 0; j < nj; ++j) {
      const T* g = source + (j0 + j) * source_stride + k0;
      T* to = out + j * stride;
      for (Index i = 0; i < ni; i += kLanes<T>) {
        auto sum = k0 == 0 ? hn::Zero(d) : hn::LoadU(d, to + i);
        for (Index k = 0; k < nk; ++k) sum = hn::MulAdd(hn::Set(d, g[k]), hn::Load(d, turned + k * kTileLanes + i), sum);
        hn::StoreU(sum, d, to + i);
      }
    }
  }
}

// Any kind, through the row-major tile that core knows how to fill; with border, causal zeros and scale.
template <class T>
void general_tile(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, T* out, Index stride, T* row_major) {
  if (plan.transpose) {
    fill_tile(plan.m, j0, nj, i0, ni, out, stride);
    return;
  }
  fill_tile(plan.m, i0, ni, j0, nj, row_major, kTileSources);
  transpose(row_major, kTileSources, ni, nj, out, stride);
}

// Zeros where the causal mask forbids: column - row > shift.
template <class T>
void clear_causal(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, T* out, Index stride) {
  const Index shift = plan.m.causal_shift;
  for (Index j = 0; j < nj; ++j) {
    if (plan.transpose) {  // lanes are columns
      const Index first = std::clamp<Index>(j0 + j + shift + 1 - i0, 0, ni);
      std::fill(out + j * stride + first, out + j * stride + ni, T(0));
    } else {
      std::fill_n(out + j * stride, std::clamp<Index>(j0 + j - shift - i0, 0, ni), T(0));
    }
  }
}

// Entries of the mask without its border, without causal zeros and scale: a view where one exists and `may_view`, else in
// `out`. Writes up to the next whole vector behind the last lane of each row.
template <class T>
EntryTile<T> inside_tile(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, bool may_view, T* out,
                         Index stride) {
  const Entries<T, Cpu>& m = plan.m;
  switch (m.kind) {
    case EntryKind::dense: {
      const T* from = plan.transpose ? m.values + j0 * m.values_stride + i0 : m.values + i0 * m.values_stride + j0;
      // A view also reads the lanes up to a whole panel: these must lie inside the matrix.
      const Index rows = plan.sources() - m.border_rows, cols = plan.lanes() - m.border_cols;
      const Index held = (rows - 1) * m.values_stride + (m.values_padded ? m.values_stride : cols);
      const Index read = (j0 + nj - 1) * m.values_stride + i0 + (ni + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
      if (plan.transpose && may_view && (ni % kPanel<T> == 0 || read <= held)) return {from, m.values_stride, false};
      if (plan.transpose) {
        for (Index j = 0; j < nj; ++j) copy_lanes(from + j * m.values_stride, ni, out + j * stride);
      } else {
        transpose(from, m.values_stride, ni, nj, out, stride);
      }
      break;
    }
    case EntryKind::factors:
      factors_tile(plan, i0, ni, j0, nj, out, stride);
      break;
    case EntryKind::offset_table:
      return offset_tile(plan, i0, ni, j0, nj, may_view, out, stride);
    default:  // ones
      if (may_view) return {nullptr, 0, false};
      for (Index j = 0; j < nj; ++j) std::fill_n(out + j * stride, ni, T(1));
      break;
  }
  return {out, stride, false};
}

// How many lanes and sources of a tile belong to the border; they come first.
struct BorderPart {
  Index lanes, sources;
};
template <class T>
BorderPart border_part(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj) {
  const Index bi = plan.transpose ? plan.m.border_cols : plan.m.border_rows;
  const Index bj = plan.transpose ? plan.m.border_rows : plan.m.border_cols;
  return {std::clamp<Index>(bi - i0, 0, ni), std::clamp<Index>(bj - j0, 0, nj)};
}

template <class T>
void fill_border(const EntryPlan<T>& plan, const BorderPart& part, Index ni, Index nj, T* out, Index stride) {
  const T* border = plan.m.border;
  const T lane_value = border[plan.transpose ? 1 : 0], source_value = border[plan.transpose ? 0 : 1];
  for (Index j = 0; j < part.sources; ++j) {
    std::fill_n(out + j * stride, part.lanes, border[2]);
    std::fill_n(out + j * stride + part.lanes, ni - part.lanes, source_value);
  }
  for (Index j = part.sources; j < nj; ++j) {
    for (Index i = 0; i < part.lanes; ++i) out[j * stride + i] = lane_value;
  }
}

// Entries (i0 .. i0 + ni - 1, j0 .. j0 + nj - 1), ni <= kTileLanes, nj <= kTileSources. `scratch` (kTileScratch elements) holds
// the tile where no view exists.
template <class T>
EntryTile<T> entry_tile(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, T* scratch) {
  const Entries<T, Cpu>& m = plan.m;
  const CausalPart causal = causal_part(plan, i0, ni, j0, nj);
  if (causal == CausalPart::none) return {nullptr, 0, true};
  constexpr Index stride = kTileLanes;
  const BorderPart part = border_part(plan, i0, ni, j0, nj);
  const bool border = part.lanes > 0 || part.sources > 0;
  if (m.kind == EntryKind::sparse || m.kind == EntryKind::source) {
    if (m.kind == EntryKind::sparse && !border && sparse_tile_is_empty(plan, i0, ni, j0, nj)) return {nullptr, 0, true};
    general_tile(plan, i0, ni, j0, nj, scratch, stride, scratch + kTileLanes * kTileSources);
    return {scratch, stride, false};
  }
  const Index bi = plan.transpose ? m.border_cols : m.border_rows, bj = plan.transpose ? m.border_rows : m.border_cols;
  const Index lanes = ni - part.lanes, sources = nj - part.sources;
  T* inside = scratch + part.sources * stride + part.lanes;
  EntryTile<T> tile{scratch, stride, false};
  if (lanes > 0 && sources > 0) {
    const bool may_view = !border && causal == CausalPart::all && m.scale == T(1);
    const EntryTile<T> inner =
        inside_tile(plan, i0 + part.lanes - bi, lanes, j0 + part.sources - bj, sources, may_view, inside, stride);
    if (!border) tile = inner;
  }
  if (m.scale != T(1)) {
    for (Index j = 0; j < sources; ++j) multiply_by(m.scale, inside + j * stride, lanes);
  }
  // After the entries inside: they may write a little behind their lanes, where the border of the next row is.
  if (border) fill_border(plan, part, ni, nj, scratch, stride);
  if (causal == CausalPart::some) clear_causal(plan, i0, ni, j0, nj, scratch, stride);
  return tile;
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // entry tiles
