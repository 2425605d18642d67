// Gradients of the tile products on the host, all in one pass over the tiles.
// SPDX-License-Identifier: Apache-2.0
//
// With S_ij = a_i . b_j, W_ij = y_bar_i . x_j + r_bar_i, P = M ∘ S, G = M ∘ W, for each tile:
//   a_bar_i += sum_j G_ij b_j     b_bar_j += sum_i G_ij a_i     x_bar_j += sum_i P_ij y_bar_i     entries: S ∘ W
// Five products of the forward kernel's register tile. A task is a stripe of columns: it owns b_bar and x_bar there; a_bar and
// the entries' gradient are kept per stripe and added in the stripes' order. Stripes depend on the shape alone.
#include <espalier/core/error.hpp>

#include "backend/cpu/entry_plan.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/sink_parts.hpp"
#include "backend/cpu/tile_geometry.hpp"
#include "backend/elementwise.hpp"
#include "backend/tiles.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/tiles_vjp.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/entry_gradients-inl.hpp"
#include "backend/cpu/entry_tiles-inl.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"
#include "backend/cpu/source_sums-inl.hpp"

#ifndef ESPALIER_BACKWARD_CALL
#define ESPALIER_BACKWARD_CALL
namespace espalier::backend {

// One backward call, the same for all its stripes.
template <class T>
struct BackwardCall {
  const EntryPlan<T>* plan;
  MatrixView<const T, Cpu> a, b, x, y_bar;
  VectorView<const T, Cpu> r_bar;
  bool scores;  // false: S_ij = 1 (gradient of the plain product)
  bool want_a, want_b, want_x, want_entries;
  bool need_w() const { return want_a || want_b || want_entries; }
  bool need_s() const { return scores && (want_x || want_entries); }
  Index lane_block, source_block;
};

// What one stripe of sources writes, and its scratch memory.
template <class T>
struct Stripe {
  Index begin, end;
  MatrixView<T, Cpu> a_bar;  // all rows, overwritten
  MatrixView<T, Cpu> b_bar, x_bar;
  EntriesGradient<T, Cpu> sink;
  T* scratch;
};

// Where the scratch memory of a stripe of n sources goes; sizes in elements, each part on whole cache lines.
template <class T>
struct StripeMemory {
  StripeMemory(const BackwardCall<T>& call, const TileGeometry& g, Index n) {
    const Index m = call.a.cols, c = call.y_bar ? call.x.cols : 0, lanes = call.lane_block;
    const Index sources = (n + call.source_block - 1) / call.source_block * call.source_block;
    const bool w = call.need_w();
    tile = take(kTileScratch);
    s = take(lanes * kTileSources);
    w_tile = take(w ? lanes * kTileSources : 0);
    d = take(call.want_entries ? kGradientTile : 0);
    block = take(call.want_entries ? kGradientTile : 0);
    a_lanes = take(call.need_s() ? lanes * m : 0);
    a_padded = take(call.want_b ? lanes * g.padded_lanes(m) : 0);
    y_lanes = take(w ? lanes * c : 0);
    y_padded = take(call.want_x ? lanes * g.padded_lanes(c) : 0);
    r = take(lanes);
    a_bar = take(call.want_a ? lanes * g.padded_rows(m) : 0);
    b_rows = take(call.need_s() ? sources * m : 0);
    b_columns = take(call.want_a ? sources * g.padded_rows(m) : 0);
    x_rows = take(w ? sources * c : 0);
    b_bar = take(call.want_b ? sources * g.padded_lanes(m) : 0);
    x_bar = take(call.want_x ? sources * g.padded_lanes(c) : 0);
  }
  Index take(Index n) {
    const Index at = size;
    size += align_elements<T>(n);
    return at;
  }
  Index size = 0;
  Index tile, s, w_tile, d, block, a_lanes, a_padded, y_lanes, y_padded, r, a_bar, b_rows, b_columns, x_rows, b_bar, x_bar;
};

}  // namespace espalier::backend
#endif  // BackwardCall

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// out[j][.] = mask[j][.] * sum_k b[k][j] a[k][.] for the first V vectors of one panel of lanes (mask null: no factor).
template <int V, class T>
HWY_INLINE void product_panel(Index depth, const T* HWY_RESTRICT b, const T* HWY_RESTRICT a, Index nj, const T* mask,
                              Index mask_step, T* HWY_RESTRICT out) {
  const Wide<T> d;
  for (Index j = 0; j < nj; j += kRows) {
    with_tile_rows(nj - j, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, b, 1, R, a, kPanel<T>, acc);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        if (j + r < nj) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) {
            auto s = acc.c[r][v];
            if (mask != nullptr) s = hn::Mul(s, hn::LoadU(d, mask + (j + r) * mask_step + v * kLanes<T>));
            hn::Store(s, d, out + (j + r) * kPanel<T> + v * kLanes<T>);
          }
        }
      }
      b += depth * R;
    });
  }
}

// W of one panel, and with it what the other products need: s := M S (where want_p), w := M W (where w is given), and
// gradient := S W (where given). s null: S = 1.
template <class T>
struct Combination {
  const T* mask;
  Index mask_step;
  T* s;
  T* w;
  T* gradient;
  bool want_p;
};
template <int V, class T>
HWY_INLINE void combine_panel(Index depth, const T* HWY_RESTRICT x, const T* HWY_RESTRICT y_bar, const T* HWY_RESTRICT r_bar,
                              Index nj, const Combination<T>& to) {
  const Wide<T> d;
  for (Index j = 0; j < nj; j += kRows) {
    with_tile_rows(nj - j, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, x, 1, R, y_bar, kPanel<T>, acc);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        if (j + r < nj) {
          const Index at = (j + r) * kPanel<T>;
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) {
            const Index l = v * kLanes<T>;
            const auto w = hn::Add(acc.c[r][v], hn::Load(d, r_bar + l));
            const auto m = to.mask == nullptr ? hn::Set(d, T(1)) : hn::LoadU(d, to.mask + (j + r) * to.mask_step + l);
            if (to.w != nullptr) hn::Store(hn::Mul(m, w), d, to.w + at + l);
            if (to.s == nullptr) {
              if (to.gradient != nullptr) hn::StoreU(w, d, to.gradient + (j + r) * kGradientStride + l);
            } else {
              const auto s = hn::Load(d, to.s + at + l);
              if (to.gradient != nullptr) hn::StoreU(hn::Mul(s, w), d, to.gradient + (j + r) * kGradientStride + l);
              if (to.want_p) hn::Store(hn::Mul(m, s), d, to.s + at + l);
            }
          }
        }
      }
      x += depth * R;
    });
  }
}

// Packed rows and cotangents of one row block, in the stripe's scratch.
template <class T>
void pack_lane_block(const BackwardCall<T>& call, const StripeMemory<T>& at, T* scratch, Index i0, Index ni) {
  const T scale = call.plan->folded_scale;
  if (call.need_s()) pack_lanes(call.a, i0, ni, scale, scratch + at.a_lanes);
  if (call.want_b) pack_padded(call.a, i0, ni, scale, scratch + at.a_padded);
  if (call.need_w() && call.y_bar) pack_lanes(call.y_bar, i0, ni, call.scores ? T(1) : scale, scratch + at.y_lanes);
  if (call.want_x) pack_padded(call.y_bar, i0, ni, T(1), scratch + at.y_padded);
  for (Index i = 0; i < call.lane_block; ++i) scratch[at.r + i] = call.r_bar && i < ni ? call.r_bar[i0 + i] : T(0);
}

template <class T>
void backward_tile(const BackwardCall<T>& call, const Stripe<T>& stripe, const StripeMemory<T>& at, Index i0, Index ni,
                   Index j0, Index nj) {
  T* scratch = stripe.scratch;
  const EntryTile<T> tile = entry_tile(*call.plan, i0, ni, j0, nj, scratch + at.tile);
  if (tile.zero) return;
  const Index m = call.a.cols, c = call.y_bar ? call.x.cols : 0, source = j0 - stripe.begin;
  T* d = call.want_entries ? scratch + at.d + kGradientPad : nullptr;
  for (Index p = 0, i = 0; i < ni; ++p, i += kPanel<T>) {
    const T* mask = tile.data == nullptr ? nullptr : tile.data + i;
    T* s = scratch + at.s + p * kTileSources * kPanel<T>;
    T* w = call.want_a || call.want_b ? scratch + at.w_tile + p * kTileSources * kPanel<T> : nullptr;
    T* gradient = d == nullptr ? nullptr : d + i;
    with_panel_vectors<T>(ni - i, [&](auto vectors) HWY_ATTR {
      constexpr int V = vectors;
      if (call.need_s()) {
        product_panel<V>(m, scratch + at.b_rows + source * m, scratch + at.a_lanes + i * m, nj, call.need_w() ? nullptr : mask,
                         tile.j_step, s);
      }
      if (!call.need_w()) return;
      const Combination<T> to{mask, tile.j_step, call.need_s() ? s : nullptr, w, gradient, call.want_x};
      combine_panel<V>(c, scratch + at.x_rows + source * c, scratch + at.y_lanes + i * c, scratch + at.r + i, nj, to);
      if (!call.want_a) return;
      add_columns<V>(nj, Columns<T>{scratch + at.b_columns + source * padded_rows(m)}, m, w, kPanel<T>,
                     scratch + at.a_bar + i * padded_rows(m));
    });
  }
  if (call.want_b) {
    const Index width = padded_lanes<T>(m);
    add_sources(ni, nj, scratch + at.w_tile, scratch + at.a_padded, width, scratch + at.b_bar + source * width);
  }
  if (call.want_x) {
    const Index width = padded_lanes<T>(c);
    add_sources(ni, nj, scratch + at.s, scratch + at.y_padded, width, scratch + at.x_bar + source * width);
  }
  if (d == nullptr) return;
  for (Index j = 0; j < nj; ++j) {  // both pads, and what the last panel wrote past its rows
    zero(d + j * kGradientStride - kGradientPad, kGradientPad);
    zero(d + j * kGradientStride + ni, kTileLanes + kGradientPad - ni);
  }
  add_entry_gradient(*call.plan, i0, ni, j0, nj, d, stripe.sink, scratch + at.block);
}

template <class T>
void backward_stripe(const BackwardCall<T>& call, const Stripe<T>& stripe) {
  const StripeMemory<T> at(call, {kPanel<T>, kRows}, stripe.end - stripe.begin);
  const Index m = call.a.cols, c = call.y_bar ? call.x.cols : 0, rows = call.plan->m.rows;
  T* scratch = stripe.scratch;
  for (Index j0 = stripe.begin; j0 < stripe.end; j0 += call.source_block) {
    const Index nj = std::min(call.source_block, stripe.end - j0), source = j0 - stripe.begin;
    if (call.need_s()) pack_rows(call.b, j0, nj, scratch + at.b_rows + source * m);
    if (call.want_a) pack_columns(call.b, j0, nj, T(1), scratch + at.b_columns + source * padded_rows(m));
    if (call.need_w() && c > 0) pack_rows(call.x, j0, nj, scratch + at.x_rows + source * c);
  }
  const Index sources = stripe.end - stripe.begin, m_width = padded_lanes<T>(m), c_width = padded_lanes<T>(c);
  if (call.want_b) zero(scratch + at.b_bar, sources * m_width);
  if (call.want_x) zero(scratch + at.x_bar, sources * c_width);
  for (Index i0 = 0; i0 < rows; i0 += call.lane_block) {
    const Index ni = std::min(call.lane_block, rows - i0);
    pack_lane_block(call, at, scratch, i0, ni);
    if (call.want_a) zero(scratch + at.a_bar, call.lane_block * padded_rows(m));
    for (Index j0 = stripe.begin; j0 < stripe.end; j0 += call.source_block) {
      backward_tile(call, stripe, at, i0, ni, j0, std::min(call.source_block, stripe.end - j0));
    }
    for (Index i = 0; call.want_a && i < ni; i += kPanel<T>) {
      T* from = scratch + at.a_bar + i * padded_rows(m);
      if (call.plan->folded_scale != T(1)) multiply_by(call.plan->folded_scale, from, m * kPanel<T>);
      transpose(from, kPanel<T>, m, std::min(kPanel<T>, ni - i), stripe.a_bar.row(i0 + i), stripe.a_bar.row_stride);
    }
  }
  for (Index j = 0; j < sources; ++j) {
    if (call.want_b) copy_lanes(scratch + at.b_bar + j * m_width, m, stripe.b_bar.row(stripe.begin + j));
    if (call.want_x) copy_lanes(scratch + at.x_bar + j * c_width, c, stripe.x_bar.row(stripe.begin + j));
  }
}

void backward_float(const BackwardCall<float>& call, const Stripe<float>& stripe) {
  backward_stripe(call, stripe);
}
void backward_double(const BackwardCall<double>& call, const Stripe<double>& stripe) {
  backward_stripe(call, stripe);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(backward_float);
HWY_EXPORT(backward_double);

namespace {

void run(const BackwardCall<float>& call, const Stripe<float>& stripe) {
  ESPALIER_DISPATCH(backward_float)(call, stripe);
}
void run(const BackwardCall<double>& call, const Stripe<double>& stripe) {
  ESPALIER_DISPATCH(backward_double)(call, stripe);
}

// Stripes of columns: enough for a few threads, wide enough (512) that packing the rows again for each costs under 1 %.
Index stripe_count(Index cols) {
  return std::clamp<Index>((cols + 511) / 512, 1, 8);
}

template <class T>
void add_stripes(const T* parts, Index stripes, MatrixView<T, Cpu> out, const Context<Cpu>& context) {
  const Index block = std::max<Index>(1, 16384 / std::max<Index>(1, out.cols));
  parallel_for(context, (out.rows + block - 1) / block, [&](Index t, int) {
    for (Index i = t * block; i < std::min(out.rows, (t + 1) * block); ++i) {
      T* __restrict to = out.row(i);
      for (Index s = 0; s < stripes; ++s) {
        const T* __restrict from = parts + (s * out.rows + i) * out.cols;
        for (Index k = 0; k < out.cols; ++k) to[k] = s == 0 ? from[k] : to[k] + from[k];
      }
    }
  });
}

template <class T>
void backward(BackwardCall<T>& call, MatrixView<T, Cpu> a_bar, MatrixView<T, Cpu> b_bar, MatrixView<T, Cpu> x_bar,
              const EntriesGradient<T, Cpu>& sink, Index sink_size, const Context<Cpu>& context) {
  const Index rows = call.plan->m.rows, cols = call.plan->m.cols, m = call.a.cols;
  if (rows == 0 || cols == 0) return;
  const TileGeometry g = tile_geometry(sizeof(T));
  call.lane_block = even_block(rows, kTileLanes, g.panel);
  const Index stripes = stripe_count(cols);
  const Index width = even_block((cols + stripes - 1) / stripes, cols, g.rows);
  call.source_block = even_block(std::min(width, cols), kTileSources, g.rows);
  const Index tasks = (cols + width - 1) / width;
  const Index per_worker = StripeMemory<T>(call, g, width).size;
  const Index workers = std::min<Index>(tasks, thread_count(context));
  const Index a_part = call.want_a && tasks > 1 ? rows * m : 0;
  Buffer<T, Cpu> scratch(workers * per_worker), a_parts(tasks * a_part);
  const SinkParts<T> sinks(sink, sink_size, call.plan->m.kind, tasks);
  parallel_for(
      context, tasks,
      [&](Index t, int worker) {
        Stripe<T> stripe{t * width,   std::min(cols, (t + 1) * width),     a_bar, b_bar, x_bar,
                         sinks.of(t), scratch.data() + worker * per_worker};
        if (a_part > 0) stripe.a_bar = MatrixView<T, Cpu>(a_parts.data() + t * a_part, rows, m);
        run(call, stripe);
      },
      "tile gradients");
  if (a_part > 0) add_stripes(a_parts.data(), tasks, a_bar, context);
  sinks.add_up();
}

}  // namespace

template <class T, class B>
void tile_low_rank_vjp(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                       const LowRankGradients<T, B>& gradients, const EntriesGradient<T, B>& sink, Index sink_size,
                       const Context<B>& context) {
  if (m.kind == EntryKind::none) throw ValueError("this mask has no entries by tile");
  const bool any = in.a.cols > 0 && (cotangents.y || cotangents.row_sum);
  for (const auto& out : {gradients.a, gradients.b, gradients.x}) {
    if (out && !any) fill(out, T(0), context);
  }
  if (!any) return;
  if (gradients.x && !cotangents.y) fill(gradients.x, T(0), context);
  const EntryPlan<T> plan(m, false, false);
  BackwardCall<T> call{};
  call.plan = &plan;
  call.a = in.a;
  call.b = in.b;
  call.x = in.x;
  call.y_bar = cotangents.y;
  call.r_bar = cotangents.row_sum;
  call.scores = true;
  call.want_a = static_cast<bool>(gradients.a);
  call.want_b = static_cast<bool>(gradients.b);
  call.want_x = gradients.x && cotangents.y;
  call.want_entries = static_cast<bool>(sink);
  backward(call, gradients.a, gradients.b, gradients.x, sink, sink_size, context);
}

template <class T, class B>
void tile_multiply_entries_gradient(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                    const EntriesGradient<T, B>& sink, Index sink_size, const Context<B>& context) {
  if (m.kind == EntryKind::none) throw ValueError("this mask has no entries by tile");
  if (!sink || x.cols == 0) return;
  const EntryPlan<T> plan(m, false, false);
  BackwardCall<T> call{};
  call.plan = &plan;
  call.x = x;
  call.y_bar = y_bar;
  call.want_entries = true;
  backward(call, {}, {}, {}, sink, sink_size, context);
}

template <>
std::size_t tile_low_rank_bytes<Cpu>(Index rows, Index cols, Index rank, Index columns, std::size_t element) {
  // The backward call takes most: a_bar once a stripe (at most 8), packed sources and their gradients, and for each stripe that
  // runs at the same time its tiles and one block of rows.
  const Index stripes = stripe_count(cols), rank_padded = rank + 48, columns_padded = columns + 48;
  const Index sources = cols + stripes * 2 * kTileSources;
  const Index tiles = kTileScratch + 2 * kTileLanes * kTileSources + 2 * kGradientTile;
  const Index blocks = kTileLanes * (3 * rank_padded + 2 * columns_padded + 2);
  const Index elements = (stripes > 1 ? stripes * rows * rank : 0) + sources * (3 * rank_padded + 2 * columns_padded) +
                         stripes * (tiles + blocks + 1024);
  return static_cast<std::size_t>(elements) * element;
}

template <>
CostModel cost_model<Cpu>() {
  CostModel cost;
  if (tile_geometry(sizeof(float)).panel > 16) {
    cost.tile_flops *= 2;
    cost.chunk_flops *= 2;
    cost.chunk_plain_flops *= 2;
  }
  return cost;
}

#define ESPALIER_INSTANTIATE(T)                                                                                            \
  template void tile_multiply_entries_gradient(const Entries<T, Cpu>&, MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, \
                                               const EntriesGradient<T, Cpu>&, Index, const Context<Cpu>&);                \
  template void tile_low_rank_vjp(const Entries<T, Cpu>&, const LowRankInputs<T, Cpu>&, const LowRankCotangents<T, Cpu>&,  \
                                  const LowRankGradients<T, Cpu>&, const EntriesGradient<T, Cpu>&, Index,                  \
                                  const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
