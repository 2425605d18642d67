// Gradients of mask entries from tiles of S ∘ W laid out [j][i] with i along SIMD lanes, as the backward kernels make them.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see tiles_vjp.cpp.
#if defined(ESPALIER_ENTRY_GRADIENTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_ENTRY_GRADIENTS_INL
#undef ESPALIER_ENTRY_GRADIENTS_INL
#else
#define ESPALIER_ENTRY_GRADIENTS_INL
#endif

#include <hwy/highway.h>

#include <espalier/core/entries.hpp>

#include <algorithm>

#include "backend/cpu/entry_plan.hpp"
#include "backend/cpu/entry_tiles-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// table[i - j] += d[j * kGradientStride + i] for i < ni, j < nj. Each row of d has kGradientPad zeros on both sides, so every
// vector of diagonals is a plain sum of loads: no store is read back, unlike a sum into the table row by row.
template <class T>
void add_diagonals(const T* HWY_RESTRICT d, Index ni, Index nj, T* HWY_RESTRICT table) {
  const Wide<T> v;
  for (Index t = 1 - nj; t < ni; t += kLanes<T>) {
    const Index begin = std::max<Index>(0, 1 - t - kLanes<T>), end = std::min(nj, ni - t);
    const T* from = d + t + begin * (kGradientStride + 1);
    auto s0 = hn::Zero(v), s1 = s0, s2 = s0, s3 = s0;
    Index j = begin;
    for (; j + 4 <= end; j += 4, from += 4 * (kGradientStride + 1)) {
      s0 = hn::Add(s0, hn::LoadU(v, from));
      s1 = hn::Add(s1, hn::LoadU(v, from + (kGradientStride + 1)));
      s2 = hn::Add(s2, hn::LoadU(v, from + 2 * (kGradientStride + 1)));
      s3 = hn::Add(s3, hn::LoadU(v, from + 3 * (kGradientStride + 1)));
    }
    for (; j < end; ++j, from += kGradientStride + 1) s0 = hn::Add(s0, hn::LoadU(v, from));
    const auto sum = hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
    if (t + kLanes<T> <= ni) {
      hn::StoreU(hn::Add(sum, hn::LoadU(v, table + t)), v, table + t);
    } else {
      HWY_ALIGN T part[kGradientPad];
      hn::Store(sum, v, part);
      for (Index l = 0; t + l < ni; ++l) table[t + l] += part[l];
    }
  }
}

// Sums over runs of consecutive keys on both sides; each pair of runs is one Toeplitz block. `block` holds one padded tile.
template <class T>
void add_offset_gradient(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, const T* d, T* table, T* block) {
  const std::int32_t* ki = plan.lane_key + i0;
  const std::int32_t* kj = plan.source_key + j0;
  const Index si = plan.lane_sign, sj = plan.source_sign;
  constexpr Index kShort = 4;  // shorter runs: entry by entry
  for (Index j = 0, j_end = 1; j < nj; j = j_end) {
    for (j_end = j + 1; j_end < nj && sj * (kj[j_end] - kj[j_end - 1]) == -1;) ++j_end;
    for (Index i = 0, i_end = 1; i < ni; i = i_end) {
      for (i_end = i + 1; i_end < ni && si * (ki[i_end] - ki[i_end - 1]) == 1;) ++i_end;
      const Index width = i_end - i, height = j_end - j;
      T* to = table + si * ki[i] + sj * kj[j];
      const T* from = d + j * kGradientStride + i;
      if (width == ni && height == nj) {
        add_diagonals(from, width, height, to);
        continue;
      }
      if (width < kShort || height < kShort) {
        for (Index r = 0; r < height; ++r) {
          for (Index l = 0; l < width; ++l) to[l - r] += from[r * kGradientStride + l];
        }
        continue;
      }
      T* padded = block + kGradientPad;
      for (Index r = 0; r < height; ++r, padded += kGradientStride) {
        hn::Store(hn::Zero(Wide<T>()), Wide<T>(), padded - kLanes<T>);
        copy_vectors(from + r * kGradientStride, width, padded);
        hn::StoreU(hn::Zero(Wide<T>()), Wide<T>(), padded + width);
      }
      add_diagonals(block + kGradientPad, width, height, to);
    }
  }
}

// Any kind, through core's row-major gradient: border, causal zeros and scale included.
template <class T>
void add_general_gradient(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, const T* d,
                          const EntriesGradient<T, Cpu>& sink, T* row_major) {
  transpose(d, kGradientStride, nj, ni, row_major, kTileSources);
  add_tile_gradient(plan.m, i0, ni, j0, nj, row_major, kTileSources, sink);
}

// What a tile gives to the border's three weights; its lanes are then set to zero, so that the entries inside have pads.
template <class T>
void take_border_gradient(const BorderPart& part, Index ni, Index nj, T* d, T* sink) {
  T corner = 0, row = 0, column = 0;
  for (Index j = 0; j < nj; ++j) {
    T* from = d + j * kGradientStride;
    T sum = 0;
    for (Index i = 0; i < part.lanes; ++i) sum += from[i], from[i] = T(0);
    (j < part.sources ? corner : row) += sum;
    if (j >= part.sources) continue;
    const Wide<T> v;
    auto vectors = hn::Zero(v);
    Index i = part.lanes;
    for (; i + kLanes<T> <= ni; i += kLanes<T>) vectors = hn::Add(vectors, hn::LoadU(v, from + i));
    column += hn::GetLane(hn::SumOfLanes(v, vectors));
    for (; i < ni; ++i) column += from[i];
  }
  if (sink == nullptr) return;
  sink[0] += row;
  sink[1] += column;
  sink[2] += corner;
}

// sink += the gradient of tile (i0 .. i0 + ni - 1, j0 .. j0 + nj - 1), from d[j * kGradientStride + i] with zeros in the pads.
// d is spoilt; `block` has kGradientTile elements. The plan is not transposed and has no reversed table.
template <class T>
void add_entry_gradient(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, T* d,
                        const EntriesGradient<T, Cpu>& sink, T* block) {
  const Entries<T, Cpu>& m = plan.m;
  const CausalPart causal = causal_part(plan, i0, ni, j0, nj);
  const BorderPart part = border_part(plan, i0, ni, j0, nj);
  const bool border = part.lanes > 0 || part.sources > 0;
  if (causal == CausalPart::none || (m.kind == EntryKind::ones && !border)) return;
  if (m.kind != EntryKind::offset_table && m.kind != EntryKind::dense && m.kind != EntryKind::ones) {
    add_general_gradient(plan, i0, ni, j0, nj, d, sink, block);
    return;
  }
  if (causal == CausalPart::some) clear_causal(plan, i0, ni, j0, nj, d, kGradientStride);
  if (border) take_border_gradient(part, ni, nj, d, sink.border);
  ni -= part.lanes, nj -= part.sources;
  if (ni == 0 || nj == 0) return;
  d += part.sources * kGradientStride + part.lanes;
  if (m.scale != T(1)) {
    for (Index j = 0; j < nj; ++j) multiply_by(m.scale, d + j * kGradientStride, ni);
  }
  i0 += part.lanes - m.border_rows;
  j0 += part.sources - m.border_cols;
  if (m.kind == EntryKind::offset_table) {
    if (sink.table) add_offset_gradient(plan, i0, ni, j0, nj, d, sink.table, block);
  } else if (m.kind == EntryKind::dense && sink.values) {
    transpose(d, kGradientStride, nj, ni, block, kTileSources);
    for (Index i = 0; i < ni; ++i) {
      T* HWY_RESTRICT to = sink.values + (i0 + i) * m.values_stride + j0;
      const T* HWY_RESTRICT from = block + i * kTileSources;
      for (Index j = 0; j < nj; ++j) to[j] += from[j];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // entry gradients
