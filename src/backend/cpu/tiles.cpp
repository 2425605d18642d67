// Tile products on the host: packed operands, one register tile for both inner products of Y = (M ∘ A Bᵀ) X.
// SPDX-License-Identifier: Apache-2.0
//
// Rows i of Y lie along SIMD lanes. For a block of up to 128 rows and each block of up to 96 sources j:
//   Sᵀ[j][i] = M_ij (b_j . a_i)   broadcast b, vectors of a; the mask is multiplied in while the tile is in registers
//   Yᵀ[c][i] += sum_j x_jc Sᵀ[j][i]   the same register tile with the roles b := x, a := Sᵀ; a block's sum starts at zero,
//                                    so that rounding grows with 96 + cols / 96, not with cols
// No transposes inside; Yᵀ is turned once at the end. Where rows are few (own_columns) and columns fill the lanes, the second
// sum is taken as Y[i][c] instead, a broadcast Sᵀ[j][i] by vectors of x's own rows, into the caller's own rows: the same bits,
// nothing to clear or turn and no rows of padding, 4 to 5 % of a product of 197 tokens; and rows are divided by their sums
// before they leave the registers, 1 %. Tasks are row blocks: bits do not depend on the number of threads.
#include "backend/tiles.hpp"

#include <espalier/core/error.hpp>

#include "backend/cpu/entry_plan.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/tile_geometry.hpp"
#include "backend/elementwise.hpp"
#include "backend/rows.hpp"
#include "backend/work.hpp"

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/tiles.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/entry_tiles-inl.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

#ifndef ESPALIER_FORWARD_CALL
#define ESPALIER_FORWARD_CALL
namespace espalier::backend {

// One product, the same for all its tasks.
template <class T>
struct ForwardCall {
  const EntryPlan<T>* plan;
  MatrixView<const T, Cpu> a, b, x;  // a and b empty: the plain product
  const HeadTiles<T, Cpu>* head;
  MatrixView<T, Cpu> y;
  VectorView<T, Cpu> row_sum;
  Index lane_block, source_block;
  // Sources source_begin .. source_end - 1 are packed; `add`: to what y and row_sum hold.
  Index source_begin, source_end;
  bool add;
  bool own_columns;   // x is not packed: few rows read it, and packing would cost them more than it saves
  bool column_lanes;  // besides, columns lie along lanes (add_row_tiles)
  T* b_packed;
  T* x_packed;
};

}  // namespace espalier::backend
#endif  // ForwardCall

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

TileGeometry geometry(int bytes) {
  const Index panel = bytes == 4 ? kPanel<float> : kPanel<double>;
  return {panel, kRows, kColumnVectors * panel / 2};
}

// f(what the elements of a and b go through).
template <class T, class F>
HWY_INLINE void with_packing_map(const ForwardCall<T>& call, const F& f) {
  if (call.head->relu) {
    f(ReluPlus<T>{call.head->epsilon});
  } else {
    f(AsIs());
  }
}

// Packs sources j0 .. j0 + nj - 1.
template <class T>
void pack_sources(const ForwardCall<T>& call, Index j0, Index nj) {
  const Index at = j0 - call.source_begin;
  if (call.a && j0 == 0) prefetch_rows<false>(call.a, 0, std::min(call.lane_block, call.a.rows));
  if (call.a) {
    with_packing_map(call, [&](auto map) HWY_ATTR { pack_rows(call.b, j0, nj, call.b_packed + at * call.b.cols, map); });
  }
  if (call.own_columns) return;
  pack_columns(call.x, j0, nj, call.a ? T(1) : call.plan->folded_scale, call.x_packed + at * padded_rows(call.x.cols));
}

// The next head's rows, a part of them in every block of this one's.
template <class T>
class HeadToCome {
 public:
  // `parts`: calls of ask() while the block runs.
  HeadToCome(const ForwardCall<T>& call, Index i0, Index ni, Index parts)
      : a_(call.head->next.a, call.y.rows, i0, ni),
        b_(call.head->next.b, call.y.rows, i0, ni),
        x_(call.head->next.x, call.y.rows, i0, ni),
        y_(call.head->next_y, call.y.rows, i0, ni),
        parts_(std::max<Index>(1, parts)),
        any_(call.head->next_y || call.head->next.a) {}
  HWY_INLINE void ask() {
    if (any_) ask_now();
  }

 private:
  // Not prefetch_rows: to GCC a function of prefetches alone has no effect, and it leaves out calls that it does not inline.
  template <class U>
  struct Part {
    MatrixView<U, Cpu> rows;
    Index next, last, count, due = 0;
    Part(MatrixView<U, Cpu> m, Index all, Index i0, Index ni)
        : rows(m), next(m.rows * i0 / all), last(m.rows * (i0 + ni) / all), count(last - next) {}
    HWY_INLINE void ask(Index parts) {
      constexpr Index line = static_cast<Index>(64 / sizeof(T));
      for (due += count; due >= parts && next < last; due -= parts, ++next) {
        for (Index k = 0; k < rows.cols; k += line) __builtin_prefetch(rows.row(next) + k, std::is_const_v<U> ? 0 : 1);
      }
    }
  };
  // A call: inlined, its addresses would push those of the tiles out of the registers (up to 15 % of a product).
  HWY_NOINLINE void ask_now() {
    a_.ask(parts_);
    b_.ask(parts_);
    x_.ask(parts_);
    y_.ask(parts_);
  }
  Part<const T> a_, b_, x_;
  Part<T> y_;
  Index parts_;
  bool any_;
};

// R rows j of Sᵀ for V vectors of lanes: s[r][.] = mask[r][.] * sum_k b[k][r] a[k][.], added to sum[.] as well. Only `rows` of
// them exist in the mask; the rest is not written.
template <int R, int V, class T>
HWY_INLINE void score_rows(Index depth, const T* HWY_RESTRICT b, const T* HWY_RESTRICT a, Index rows, const T* mask,
                           Index mask_step, T* HWY_RESTRICT s, hn::Vec<Wide<T>> (&sum)[V]) {
  const Wide<T> d;
  Accumulator<T, R, V> acc;
  clear(acc);
  multiply_accumulate<T, R, V>(depth, b, 1, R, a, kPanel<T>, acc);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    if (r < rows) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        auto t = acc.c[r][v];
        if (mask != nullptr) t = hn::Mul(t, hn::LoadU(d, mask + r * mask_step + v * kLanes<T>));
        hn::Store(t, d, s + r * kPanel<T> + v * kLanes<T>);
        sum[v] = hn::Add(sum[v], t);
      }
    }
  }
}

// Sᵀ of one panel (of its first V vectors) for nj sources, and its sum over j added to total[kPanel].
template <int V, class T>
HWY_INLINE void score_panel(Index depth, const T* HWY_RESTRICT b, const T* HWY_RESTRICT a, Index nj, const T* mask,
                            Index mask_step, T* HWY_RESTRICT s, T* HWY_RESTRICT total, HeadToCome<T>& to_come) {
  const Wide<T> d;
  hn::Vec<Wide<T>> sum[V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
  for (Index j = 0; j < nj; j += kRows) {
    with_tile_rows(nj - j, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      to_come.ask();
      score_rows<R, V>(depth, b, a, nj - j, mask, mask_step, s + j * kPanel<T>, sum);
      b += depth * R;
      if (mask != nullptr) mask += R * mask_step;
    });
  }
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    hn::Store(hn::Add(hn::Load(d, total + v * kLanes<T>), sum[v]), d, total + v * kLanes<T>);
  }
}

// factor[l] = 1 / d[l], or 1 where the row is to be 0; how many rows those are.
template <class T>
Index reciprocals(const T* HWY_RESTRICT d, Index n, double floor, T* HWY_RESTRICT factor) {
  Index floored = 0;
  for (Index l = 0; l < n; ++l) {
    const bool zero = is_floored(d[l], floor);
    factor[l] = T(1) / (zero ? T(1) : d[l]);
    floored += zero;
  }
  return floored;
}

// One task: rows i0 .. i0 + ni - 1 of y over the packed sources.
template <class T>
void forward_block(const ForwardCall<T>& call, Index i0, Index ni, T* scratch) {
  const Index m = call.a.cols, c = call.x.cols, c_rows = padded_rows(c), panels = (ni + kPanel<T> - 1) / kPanel<T>;
  T* tile_scratch = scratch;
  T* s = tile_scratch + kTileScratch;
  T* sums = s + call.source_block * kPanel<T>;
  T* factors = sums + panels * kPanel<T>;
  T* y = factors + panels * kPanel<T>;
  T* a = y + (call.column_lanes ? 0 : panels * c_rows * kPanel<T>);
  const bool plain = !call.a;
  bool add = call.add;  // column_lanes: to what rows of the result hold
  const bool divide = call.head->divide && call.source_end == call.plan->sources();
  bool divided = false;
  Index floored = 0;
  for (T* p = sums; p < a; ++p) *p = T(0);
  if (call.add) {
    for (Index p = 0; p < panels; ++p) {
      const Index i = p * kPanel<T>, n = std::min(kPanel<T>, ni - i);
      if (!call.column_lanes) transpose(call.y.row(i0 + i), call.y.row_stride, n, c, y + p * c_rows * kPanel<T>, kPanel<T>);
      for (Index l = 0; call.row_sum && l < n; ++l) sums[i + l] = call.row_sum[i0 + i + l];
    }
  }
  if (!plain) {
    with_packing_map(call, [&](auto map) HWY_ATTR { pack_lanes(call.a, i0, ni, call.plan->folded_scale, a, map); });
  }
  // What comes later is asked for now: the results' memory, the next block's rows, and below the columns of each source block.
  prefetch_rows<true>(call.y, i0, ni);
  if (!plain) prefetch_rows<false>(call.a, i0 + ni, std::min(ni, call.a.rows - i0 - ni));
  const Index tiles = (call.source_end - call.source_begin + kRows - 1) / kRows;
  HeadToCome<T> to_come(call, i0, ni, panels * tiles);
  for (Index j0 = call.source_begin; j0 < call.source_end; j0 += call.source_block) {
    const Index nj = std::min(call.source_block, call.source_end - j0), at = j0 - call.source_begin;
    EntryTile<T> tile = entry_tile(*call.plan, i0, ni, j0, nj, tile_scratch);
    if (tile.zero) continue;
    if (plain && tile.data == nullptr) {
      for (Index k = 0; k < kTileLanes * nj; ++k) tile_scratch[k] = T(1);
      tile = {tile_scratch, kTileLanes, false};
    }
    if (call.own_columns) prefetch_rows<false>(call.x, j0, nj);
    const Columns<T> x =
        call.own_columns ? Columns<T>{call.x.row(j0), call.x.row_stride} : Columns<T>{call.x_packed + at * c_rows};
    const bool last = divide && call.column_lanes && j0 + nj == call.source_end;
    for (Index p = 0; p < panels; ++p) {
      const T* mask = tile.data == nullptr ? nullptr : tile.data + p * kPanel<T>;
      T* to = y + p * c_rows * kPanel<T>;
      with_panel_vectors<T>(ni - p * kPanel<T>, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        if (plain) {
          add_columns<V>(nj, x, c, mask, tile.j_step, to);
          return;
        }
        score_panel<V>(m, call.b_packed + at * m, a + p * m * kPanel<T>, nj, mask, tile.j_step, s, sums + p * kPanel<T>,
                       to_come);
        if constexpr (kColumnVectors > 0) {
          if (call.column_lanes) {
            const Index i = p * kPanel<T>, n = std::min(kPanel<T>, ni - i);
            if (last) floored += reciprocals(sums + i, n, call.head->floor, factors + i);
            add_row_tiles<T>(nj, {s, kPanel<T>}, n, {x.data, x.step}, c, add, last ? factors + i : nullptr,
                             {call.y.row(i0 + i), call.y.row_stride});
            return;
          }
        }
        add_columns<V>(nj, x, c, s, kPanel<T>, to);
      });
    }
    add = true;
    divided = last;  // in add_row_tiles
  }
  if (call.column_lanes && !add) {
    for (Index i = 0; i < ni; ++i) std::fill_n(call.y.row(i0 + i), c, T(0));
  }
  for (Index p = 0; p < panels; ++p) {
    const Index i = p * kPanel<T>, n = std::min(kPanel<T>, ni - i);
    if (!call.column_lanes) transpose(y + p * c_rows * kPanel<T>, kPanel<T>, c, n, call.y.row(i0 + i), call.y.row_stride);
    for (Index l = 0; call.row_sum && l < n; ++l) call.row_sum[i0 + i + l] = sums[i + l];
  }
  if (!divide) return;
  if (!divided) floored = reciprocals(sums, ni, call.head->floor, factors);
  for (Index i = 0; i < ni && (!divided || floored > 0); ++i) {
    T* row = call.y.row(i0 + i);
    if (is_floored(sums[i], call.head->floor)) {
      std::fill_n(row, c, T(0));
    } else if (!divided) {
      multiply_by(factors[i], row, c);
    }
  }
  if (floored > 0) call.head->floored->fetch_add(floored, std::memory_order_relaxed);
}

void pack_sources_float(const ForwardCall<float>& call, Index j0, Index nj) {
  pack_sources(call, j0, nj);
}
void pack_sources_double(const ForwardCall<double>& call, Index j0, Index nj) {
  pack_sources(call, j0, nj);
}
void forward_float(const ForwardCall<float>& call, Index i0, Index ni, float* scratch) {
  forward_block(call, i0, ni, scratch);
}
void forward_double(const ForwardCall<double>& call, Index i0, Index ni, double* scratch) {
  forward_block(call, i0, ni, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(geometry);
HWY_EXPORT(pack_sources_float);
HWY_EXPORT(pack_sources_double);
HWY_EXPORT(forward_float);
HWY_EXPORT(forward_double);

TileGeometry tile_geometry(std::size_t element) {
  return ESPALIER_DISPATCH(geometry)(static_cast<int>(element));
}

KernelWork kernel_work(std::size_t element) {
  const TileGeometry g = tile_geometry(element);
  const Index lanes = g.panel / 2, rows = g.rows / 3;
  return {static_cast<double>(lanes), static_cast<double>(rows)};
}

namespace {

void pack(const ForwardCall<float>& call, Index j0, Index nj) {
  ESPALIER_DISPATCH(pack_sources_float)(call, j0, nj);
}
void pack(const ForwardCall<double>& call, Index j0, Index nj) {
  ESPALIER_DISPATCH(pack_sources_double)(call, j0, nj);
}
void run(const ForwardCall<float>& call, Index i0, Index ni, float* scratch) {
  ESPALIER_DISPATCH(forward_float)(call, i0, ni, scratch);
}
void run(const ForwardCall<double>& call, Index i0, Index ni, double* scratch) {
  ESPALIER_DISPATCH(forward_double)(call, i0, ni, scratch);
}

template <class T>
void clear_outputs(const ForwardCall<T>& call, const Context<Cpu>& context) {
  fill(call.y, T(0), context);
  if (call.row_sum) fill(MatrixView<T, Cpu>(call.row_sum.data, 1, call.row_sum.size), T(0), context);
  if (call.head->divide) call.head->floored->fetch_add(call.y.rows, std::memory_order_relaxed);
}

// Sources that are packed at once: all, unless that takes more than the caller's bound on scratch memory.
Index sources_at_once(Index sources, Index block, Index per_source, std::size_t element, std::size_t bytes) {
  const Index fits = static_cast<Index>(bytes / element) / std::max<Index>(1, per_source) / block * block;
  return std::min(sources, std::max(block, fits));
}

template <class T>
void forward(ForwardCall<T> call, const Context<Cpu>& context) {
  const Index lanes = call.plan->lanes(), sources = call.plan->sources();
  if (lanes == 0) return;
  if (sources == 0) return clear_outputs(call, context);
  const TileGeometry g = tile_geometry(sizeof(T));
  call.lane_block = even_block(lanes, kTileLanes, g.panel);
  call.source_block = even_block(sources, kTileSources, g.rows);
  const Index m = call.a.cols, c_rows = g.padded_rows(call.x.cols);
  call.own_columns = call.a && own_columns(lanes, call.x, c_rows);
  call.column_lanes = call.own_columns && g.columns > 0 && call.x.cols % g.columns == 0;
  const Index at_once = sources_at_once(sources, call.source_block, m + c_rows, sizeof(T), context.scratch_bytes);
  const Index tasks = (lanes + call.lane_block - 1) / call.lane_block;
  const Index workers = std::min<Index>(tasks, thread_count(context));
  const Index lane_part = (call.lane_block + g.panel - 1) / g.panel * g.panel;
  const Index per_worker =
      align_elements<T>(kTileScratch + call.source_block * g.panel + lane_part * (2 + (call.column_lanes ? 0 : c_rows) + m));
  const Index padded = (at_once + call.source_block - 1) / call.source_block * call.source_block;
  const Index b_size = align_elements<T>(padded * m), x_size = call.own_columns ? 0 : align_elements<T>(padded * c_rows);
  Buffer<T, Cpu> memory(b_size + x_size + workers * per_worker);
  call.b_packed = memory.data();
  call.x_packed = call.b_packed + b_size;
  T* scratch = call.x_packed + x_size;
  for (Index begin = 0; begin < sources; begin += at_once) {
    call.source_begin = begin;
    call.source_end = std::min(sources, begin + at_once);
    call.add = begin > 0;
    const Index blocks = (call.source_end - begin + call.source_block - 1) / call.source_block;
    parallel_for(context, blocks, [&](Index t, int) {
      const Index j0 = begin + t * call.source_block;
      pack(call, j0, std::min(call.source_block, call.source_end - j0));
    });
    parallel_for(
        context, tasks,
        [&](Index t, int worker) {
          const Index i0 = t * call.lane_block;
          run(call, i0, std::min(call.lane_block, lanes - i0), scratch + worker * per_worker);
        },
        "tiles");
  }
}

void check_kind(EntryKind kind) {
  if (kind == EntryKind::none) throw ValueError("this mask has no entries by tile");
}

}  // namespace

template <class T, class B>
void tile_multiply(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                   const Context<B>& context) {
  check_kind(m.kind);
  const EntryPlan<T> plan(m, transpose, true);
  const HeadTiles<T, B> head;
  ForwardCall<T> call{};
  call.plan = &plan;
  call.head = &head;
  call.x = x;
  call.y = y;
  forward(call, context);
}

template <class T, class B>
void tile_low_rank(const Entries<T, B>& m, const HeadTiles<T, B>& head, const LowRankInputs<T, B>& in,
                   const LowRankOutputs<T, B>& out, const Context<B>& context) {
  check_kind(m.kind);
  const EntryPlan<T> plan(m, head.transpose, true);
  ForwardCall<T> call{};
  call.plan = &plan;
  call.head = &head;
  call.a = in.a;
  call.b = in.b;
  call.x = in.x;
  call.y = out.y;
  call.row_sum = out.row_sum;
  if (in.a.cols == 0 || !in.a) return clear_outputs(call, context);
  forward(call, context);
}

template <class T, class B>
void tile_low_rank(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                   const Context<B>& context) {
  tile_low_rank(m, HeadTiles<T, B>{.transpose = transpose}, in, out, context);
}

#define ESPALIER_INSTANTIATE(T)                                                                                          \
  template void tile_multiply(const Entries<T, Cpu>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, bool,                \
                              const Context<Cpu>&);                                                                      \
  template void tile_low_rank(const Entries<T, Cpu>&, const LowRankInputs<T, Cpu>&, const LowRankOutputs<T, Cpu>&, bool, \
                              const Context<Cpu>&);                                                                      \
  template void tile_low_rank(const Entries<T, Cpu>&, const HeadTiles<T, Cpu>&, const LowRankInputs<T, Cpu>&,            \
                              const LowRankOutputs<T, Cpu>&, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
