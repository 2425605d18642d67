// Entries of small masks, written out once for all the products that read them.
// SPDX-License-Identifier: Apache-2.0
//
// Mᵀ lies in rows of whole panels, so that tiles of lanes are views into it; the surplus holds zeros.
#include <algorithm>
#include <cstdlib>

#include "backend/cpu/entry_plan.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/tile_geometry.hpp"
#include "backend/tiles.hpp"

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/written_entries.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/entry_tiles-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {

// out[j * stride + i] = M_ij for rows i0 .. i0 + ni - 1 and all j; `scratch` as entry_tile takes it.
template <class T>
void write_lanes(const EntryPlan<T>& plan, Index i0, Index ni, T* out, Index stride, T* scratch) {
  for (Index j0 = 0; j0 < plan.sources(); j0 += kTileSources) {
    const Index nj = std::min(kTileSources, plan.sources() - j0);
    const EntryTile<T> tile = entry_tile(plan, i0, ni, j0, nj, scratch);
    for (Index j = 0; j < nj; ++j) {
      T* to = out + (j0 + j) * stride + i0;
      std::copy_n(tile.data + j * tile.j_step, ni, to);
      if (i0 + ni == plan.lanes()) std::fill(to + ni, out + (j0 + j + 1) * stride, T(0));
    }
  }
}

void write_lanes_float(const EntryPlan<float>& plan, Index i0, Index ni, float* out, Index stride, float* scratch) {
  write_lanes(plan, i0, ni, out, stride, scratch);
}
void write_lanes_double(const EntryPlan<double>& plan, Index i0, Index ni, double* out, Index stride, double* scratch) {
  write_lanes(plan, i0, ni, out, stride, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(write_lanes_float);
HWY_EXPORT(write_lanes_double);

namespace {

void write(const EntryPlan<float>& plan, Index i0, Index ni, float* out, Index stride, float* scratch) {
  ESPALIER_DISPATCH(write_lanes_float)(plan, i0, ni, out, stride, scratch);
}
void write(const EntryPlan<double>& plan, Index i0, Index ni, double* out, Index stride, double* scratch) {
  ESPALIER_DISPATCH(write_lanes_double)(plan, i0, ni, out, stride, scratch);
}

// Elements from one row of Mᵀ to the next.
template <class T>
Index row_step(Index lanes) {
  const Index panel = tile_geometry(sizeof(T)).panel;
  return (lanes + panel - 1) / panel * panel;
}

}  // namespace

template <class T, class B>
Index written_entries_size(const Entries<T, B>& m) {
  if (m.causal || m.kind == EntryKind::ones || m.kind == EntryKind::sparse) return 0;
  if (m.kind == EntryKind::offset_table && m.border_rows == 0 && m.border_cols == 0) {
    bool line = true;
    for (Index i = 1; i < m.rows; ++i) line = line && std::abs(m.row_key[i] - m.row_key[i - 1]) == 1;
    if (line) return 0;  // tiles are views into a table that stays in the first cache
  }
  return row_step<T>(m.rows) * m.cols;
}

template <class T, class B>
Entries<T, B> write_entries(const Entries<T, B>& m, T* memory, const Context<B>& context) {
  const EntryPlan<T> plan(m, false, true);
  Entries<T, B> written;
  written.kind = EntryKind::dense;
  written.rows = m.cols;
  written.cols = m.rows;
  written.scale = plan.folded_scale;
  written.values = memory;
  written.values_stride = row_step<T>(m.rows);
  written.values_padded = true;
  const Index tasks = (m.rows + kTileLanes - 1) / kTileLanes, workers = std::min<Index>(tasks, thread_count(context));
  Buffer<T, Cpu> scratch(workers * kTileScratch);
  parallel_for(context, tasks, [&](Index t, int worker) {
    const Index i0 = t * kTileLanes;
    write(plan, i0, std::min(kTileLanes, m.rows - i0), memory, written.values_stride, scratch.data() + worker * kTileScratch);
  });
  return written;
}

#define ESPALIER_INSTANTIATE(T)                                \
  template Index written_entries_size(const Entries<T, Cpu>&); \
  template Entries<T, Cpu> write_entries(const Entries<T, Cpu>&, T*, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
