// Products in chunk-basis form on the host.
// SPDX-License-Identifier: Apache-2.0
//
// A sweep goes over the chunks once, in waves of a few chunks, each on one thread (chunk_waves.hpp):
//   moments   P_p = sum_b source_p(b) b_b x_bᵀ of every chunk of the wave
//   advance   states take the moments of `gap` chunks ago, or windows theirs, U = what the rows read: after the wave before
//   rows      near tiles, and y_a += sum_p row_p(a) a_aᵀ U_p
// The lower side goes up and does the near tiles, then the upper side goes down and adds. Every number is computed the same way
// whatever the length of a wave and the number of threads.
#include "backend/chunked.hpp"

#include "backend/cpu/chunk_stream.hpp"
#include "backend/cpu/chunked_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/progress_part.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/chunked.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/chunk_kernels-inl.hpp"
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Moments of one chunk, [R][step].
template <class T>
void chunk_moments(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, Index chunk, T* scratch, T* moments) {
  const MomentShape& s = call.shape;
  const ChunkScratch<T> at({kPanel<T>, kRows}, s, call.mask->chunk, call.plain());
  const Index j0 = call.begin(chunk), nj = call.rows(chunk), basis = sweep.side->basis;
  if (call.plain()) {
    copy_padded(call.x, j0, nj, s.c_pad, scratch + at.x);
    outer_products(nj, sweep.source_by_row.data(), sweep.source_stride, basis, scratch + at.x, s.c_pad, moments);
    return;
  }
  const PlainRows<T> x = plain_rows(call.x, j0, nj, s.c_pad, scratch + at.x);
  const PlainRows<T> b = plain_rows(call.b, j0, nj, s.m_pad, scratch + at.b);
  T* weighted = scratch + at.x_weighted;
  const Index next = sweep.upward ? chunk + 1 : chunk - 1, parts = basis * panels<T>(s.c_pad) * tiles(s.m);
  RowsToCome<false, const T> next_b(call.b, call.begin(next), call.rows_or_none(next), parts);
  RowsToCome<false, const T> next_x(call.x, call.begin(next), call.rows_or_none(next), parts);
  const auto ask = [&] HWY_ATTR { next_b.ask(), next_x.ask(); };
  over_panels<T>(s.c_pad, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    for (Index p = 0; p < basis; ++p) {
      const T* weight = sweep.side->source.data() + p * call.mask->chunk;
      T* to = moments + p * s.step;
      scale_rows(nj, V * kLanes<T>, weight, PlainRows<T>{x.data + column, x.step}, weighted);
      outer_panel<V>(nj, b.data, b.step, s.m, weighted, V * kLanes<T>, to + column, s.c_pad, ask);
    }
  });
  if (!call.row_sum) return;
  over_panels<T>(s.m_pad, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    outer_panel<V>(nj, sweep.source_by_row.data(), sweep.source_stride, basis, b.data + column, b.step,
                   moments + s.m * s.c_pad + column, s.step);
  });
}

// Scores of one panel: s[j][.] = mask_ij (b_j . a_.), added to total[.] as well.
template <int R, int V, class T>
HWY_INLINE void near_scores(Index depth, const T* HWY_RESTRICT b, Index b_step, const T* HWY_RESTRICT a, Index rows,
                            const T* mask, T* HWY_RESTRICT s, hn::Vec<Wide<T>> (&sum)[V]) {
  const Wide<T> d;
  Accumulator<T, R, V> acc;
  clear(acc);
  multiply_rows<T, R, V>(depth, b, b_step, a, kPanel<T>, acc);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    if (r < rows) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const auto t = hn::Mul(acc.c[r][v], hn::LoadU(d, mask - r + v * kLanes<T>));
        hn::Store(t, d, s + r * kPanel<T> + v * kLanes<T>);
        sum[v] = hn::Add(sum[v], t);
      }
    }
  }
}

// Near tiles of one chunk of rows.
template <class T>
void add_near(const ChunkCall<T>& call, const ChunkScratch<T>& at, Index chunk, T* scratch) {
  const Wide<T> d;
  const ChunkedToeplitz<T>& mask = *call.mask;
  const MomentShape& s = call.shape;
  const Index i0 = call.begin(chunk), ni = call.rows(chunk);
  for (const NearTile& tile : call.tiles) {
    const Index source = chunk - tile.distance;
    if (source < 0 || source >= call.chunks()) continue;
    const Index j0 = call.begin(source), nj = call.rows(source);
    const PlainRows<T> x = plain_rows(call.x, j0, nj, s.c_pad, scratch + at.x);
    const PlainRows<T> b = call.plain() ? PlainRows<T>{} : whole_rows(call.b, j0, nj, s.m_pad, scratch + at.b);
    for (Index p = 0, i = 0; i < ni; ++p, i += kPanel<T>) {
      Index from, to;
      visible_sources(mask, i0 + i, kPanel<T>, j0, nj, from, to);
      if (from >= to) continue;
      // Offset (i0 + i) - (j0 + j) of lane 0 and source j = 0, in the table.
      const T* near = mask.near.data() + tile.entry + i;
      T* y = scratch + at.y + p * padded_rows(s.c) * kPanel<T>;
      T* sums = scratch + at.sums + i;
      with_panel_vectors<T>(ni - i, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        if (call.plain()) {
          add_strided<V>(to - from, x.row(from), x.step, s.c, near - from, -1, y);
          return;
        }
        T* scores = scratch + at.scores;
        hn::Vec<Wide<T>> sum[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
        for (Index j = from; j < to;) {
          j += with_even_rows(to - j, [&](auto height) HWY_ATTR {
            constexpr int R = height;
            near_scores<R, V>(s.m, b.row(j), b.step, scratch + at.a_lanes + i * s.m, to - j, near - j, scores + j * kPanel<T>,
                              sum);
          });
        }
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          hn::Store(hn::Add(hn::Load(d, sums + v * kLanes<T>), sum[v]), d, sums + v * kLanes<T>);
        }
        add_strided<V>(to - from, x.row(from), x.step, s.c, scores + from * kPanel<T>, kPanel<T>, y);
      });
    }
  }
}

// sums[.] += w[.] sum_k u[k] q[k][.], four chains.
template <int V, class T>
HWY_INLINE void add_dot(Index depth, const T* HWY_RESTRICT u, const T* HWY_RESTRICT q, const hn::Vec<Wide<T>> (&weight)[V],
                        T* HWY_RESTRICT sums) {
  const Wide<T> d;
  hn::Vec<Wide<T>> acc[2][V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) acc[0][v] = acc[1][v] = hn::Zero(d);
  Index k = 0;
  for (; k + 2 <= depth; k += 2) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const auto w = hn::Set(d, u[k + h]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[h][v] = hn::MulAdd(w, hn::Load(d, q + (k + h) * kPanel<T> + v * kLanes<T>), acc[h][v]);
    }
  }
  if (k < depth) {
    const auto w = hn::Set(d, u[k]);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[0][v] = hn::MulAdd(w, hn::Load(d, q + k * kPanel<T> + v * kLanes<T>), acc[0][v]);
  }
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    T* to = sums + v * kLanes<T>;
    hn::Store(hn::MulAdd(weight[v], hn::Add(acc[0][v], acc[1][v]), hn::Load(d, to)), d, to);
  }
}

// y_a += sum_p row_p(a) a_aᵀ U_p for one chunk of rows; `read` = U, [R][step].
template <class T>
void add_far(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, const ChunkScratch<T>& at, Index chunk, const T* read,
             T* scratch) {
  const Wide<T> d;
  const MomentShape& s = call.shape;
  const Index ni = call.rows(chunk), size = call.mask->chunk, basis = sweep.side->basis;
  const Index next = sweep.upward ? chunk + 1 : chunk - 1, parts = panels<T>(ni) * basis * tiles(s.c);
  RowsToCome<false, const T> next_a(call.a, call.begin(next), call.rows_or_none(next), parts);
  RowsToCome<true, T> next_y(call.y, call.begin(next), call.rows_or_none(next), parts);
  const auto ask = [&] HWY_ATTR { next_a.ask(), next_y.ask(); };
  for (Index p = 0, i = 0; i < ni; ++p, i += kPanel<T>) {
    T* y = scratch + at.y + p * padded_rows(s.c) * kPanel<T>;
    with_panel_vectors<T>(ni - i, [&](auto vectors) HWY_ATTR {
      constexpr int V = vectors;
      if (call.plain()) {
        add_strided<V>(basis, read, s.step, s.c, sweep.side->row.data() + i, size, y);
        return;
      }
      const T* a = scratch + at.a_lanes + i * s.m;
      for (Index r = 0; r < basis; ++r) {
        const T* weight = sweep.side->row.data() + r * size + i;
        hn::Vec<Wide<T>> w[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) w[v] = hn::LoadU(d, weight + v * kLanes<T>);
        const T* state = read + r * s.step;
        add_weighted<V>(s.m, state, s.c_pad, s.c, a, w, y, ask);
        if (call.row_sum) add_dot<V>(s.m, state + s.m * s.c_pad, a, w, scratch + at.sums + i);
      }
    });
  }
}

// One chunk of rows; read: U or null (nothing far yet).
template <class T>
void chunk_rows(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, Index chunk, const T* read, T* scratch) {
  const MomentShape& s = call.shape;
  const ChunkScratch<T> at({kPanel<T>, kRows}, s, call.mask->chunk, call.plain());
  const Index i0 = call.begin(chunk), ni = call.rows(chunk), panel_size = padded_rows(s.c) * kPanel<T>;
  if (sweep.add && read == nullptr && !sweep.near) return;
  std::fill_n(scratch + at.sums, call.mask->chunk, T(0));
  std::fill_n(scratch + at.y, (call.mask->chunk + kPanel<T> - 1) / kPanel<T> * panel_size, T(0));
  if (sweep.add) {
    for (Index p = 0, i = 0; i < ni; ++p, i += kPanel<T>) {
      transpose(call.y.row(i0 + i), call.y.row_stride, std::min(kPanel<T>, ni - i), s.c, scratch + at.y + p * panel_size,
                kPanel<T>);
    }
    for (Index i = 0; call.row_sum && i < ni; ++i) scratch[at.sums + i] = call.row_sum[i0 + i];
  }
  if (!call.plain()) pack_lanes(call.a, i0, ni, T(1), scratch + at.a_lanes);
  if (sweep.near) add_near(call, at, chunk, scratch);
  if (read != nullptr) add_far(call, sweep, at, chunk, read, scratch);
  for (Index p = 0, i = 0; i < ni; ++p, i += kPanel<T>) {
    transpose(scratch + at.y + p * panel_size, kPanel<T>, s.c, std::min(kPanel<T>, ni - i), call.y.row(i0 + i),
              call.y.row_stride);
  }
  for (Index i = 0; call.row_sum && i < ni; ++i) call.row_sum[i0 + i] = scratch[at.sums + i];
}

#define ESPALIER_KERNELS(T, name)                                                                                  \
  void moments_##name(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, Index chunk, T* scratch, T* moments) { \
    chunk_moments(call, sweep, chunk, scratch, moments);                                                           \
  }                                                                                                                \
  void rows_##name(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, Index chunk, const T* read, T* scratch) { \
    chunk_rows(call, sweep, chunk, read, scratch);                                                                 \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

namespace {

#define ESPALIER_KERNELS(T, name)                                                                               \
  HWY_EXPORT(moments_##name);                                                                                   \
  HWY_EXPORT(rows_##name);                                                                                      \
  void run_moments(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, Index chunk, T* scratch, T* moments) { \
    ESPALIER_DISPATCH(moments_##name)(call, sweep, chunk, scratch, moments);                                    \
  }                                                                                                             \
  void run_rows(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, Index chunk, const T* read, T* scratch) { \
    ESPALIER_DISPATCH(rows_##name)(call, sweep, chunk, read, scratch);                                          \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS

template <class T>
void run_sweep(const ChunkCall<T>& call, const ChunkSweep<T>& sweep, const Context<Cpu>& context) {
  const TileGeometry g = tile_geometry(sizeof(T));
  const Index n = sweep.chunks, size = call.shape.size, step = call.shape.step, basis = sweep.side->basis;
  Context<Cpu> inner = context;
  const Index workers = std::min<Index>({n, thread_count(context), kMaxWorkers});
  inner.threads = static_cast<int>(workers);
  const WaveLength waves = wave_length(basis * step, n, workers, sizeof(T));
  const Index per_worker = ChunkScratch<T>(g, call.shape, call.mask->chunk, call.plain()).size;
  const Index scratch = align_elements<T>(workers * per_worker);
  ChunkStream<T> stream(sweep, basis, step, call.mask->gap, waves);
  Buffer<T, Cpu> memory(scratch + stream.elements());
  stream.place(memory.data() + scratch);
  std::vector<ChunkSteps<T>> steps(static_cast<std::size_t>(workers));
  const auto own = [&](int worker) { return memory.data() + worker * per_worker; };
  WaveTasks tasks{};
  tasks.blocks = sweep.far() ? (size + kScanBlock - 1) / kScanBlock : 0;
  tasks.moments = [&](Index t0, Index t1, int worker) {
    for (Index t = t0; t < (sweep.far() ? std::min(t1, n - stream.lag()) : t0); ++t) {
      run_moments(call, sweep, sweep.chunk(t), own(worker), stream.moments(t));
    }
    if (sweep.far()) stream.prepare(t0, t1, steps[static_cast<std::size_t>(worker)]);
  };
  tasks.advance = [&](Index t0, Index t1, Index block, int worker) {
    const Index first = block * kScanBlock, last = std::min(size, first + kScanBlock);
    stream.fetch(last, std::min(size, last + kScanBlock));
    stream.advance(steps[static_cast<std::size_t>(worker)], t0, t1, first, last);
  };
  tasks.rows = [&](Index t0, Index t1, int worker) {
    for (Index t = t0; t < t1; ++t) run_rows(call, sweep, sweep.chunk(t), stream.read(t), own(worker));
  };
  run_waves(inner, n, waves, tasks, "chunks");
}

// Features of one far sweep: all of them, unless windows then keep more than the scratch memory.
template <class T>
Index far_features(const ChunkedToeplitz<T>& m, const MomentShape& shape, std::size_t scratch_bytes) {
  // With as many chunks as any number of threads keeps: sums must not depend on it.
  const Index chunks = (m.length + m.chunk - 1) / std::max<Index>(1, m.chunk);
  const Index most = most_kept_chunks(1, chunks, kMaxWorkers, sizeof(T));
  const Index kept = std::max(window_elements(m.lower, most), window_elements(m.upper, most));
  if (kept == 0) return shape.m;
  const auto room = static_cast<Index>(scratch_bytes / sizeof(T)) / (kept * (shape.c_pad + 1));
  return std::clamp<Index>(room, 1, shape.m);
}

template <class T>
void run_product(ChunkCall<T> call, const Context<Cpu>& context) {
  const TileGeometry g = tile_geometry(sizeof(T));
  const ChunkedToeplitz<T>& m = *call.mask;
  if (m.length == 0) return;
  call.tiles = near_tiles(m);
  const MatrixView<const T, Cpu> x = call.x;
  const MatrixView<T, Cpu> y = call.y;
  const ChunkSide<T> none;
  for (Index c = 0; c == 0 || c < x.cols; c += kColumnBlock) {
    const Index columns = std::min(kColumnBlock, x.cols - c);
    if (c > 0) call.row_sum = {};
    call.x = x.columns(c, columns);
    call.y = y.columns(c, columns);
    call.shape = MomentShape(sizeof(T), g, call.a.cols, columns, static_cast<bool>(call.row_sum));
    const Index panel = far_features(m, call.shape, context.scratch_bytes), features = call.shape.m;
    const bool whole = panel == features;
    const double all = static_cast<double>(x.cols);
    const ProgressPart block(context, c == 0 ? 0 : static_cast<double>(c) / all,
                             c + columns == x.cols ? 1 : static_cast<double>(c + columns) / all);
    // Each sweep counts alike.
    const Index sides = (m.lower.basis > 0 ? 1 : 0) + (m.upper.basis > 0 ? 1 : 0), panels = (features + panel - 1) / panel;
    const Index sweeps = 1 + (whole ? (m.upper.basis > 0 ? 1 : 0) : panels * sides);
    Index sweep = 0;
    const auto run = [&](const ChunkCall<T>& part, const ChunkSweep<T>& s) {
      const double count = static_cast<double>(sweeps), at = static_cast<double>(sweep++);
      const ProgressPart mine(block.context(), at / count, (at + 1) / count);
      run_sweep(part, s, mine.context());
    };
    ChunkSweep<T> up(m, whole ? m.lower : none, true, call.chunks(), g);
    up.near = true;
    run(call, up);
    for (Index k = 0; k < features; k += panel) {
      ChunkCall<T> part = call;
      if (!whole) {
        part.a = call.a.columns(k, std::min(panel, features - k)), part.b = call.b.columns(k, part.a.cols);
        part.shape = MomentShape(sizeof(T), g, part.a.cols, columns, static_cast<bool>(call.row_sum));
      }
      for (const bool upward : {true, false}) {
        if (whole && upward) continue;
        ChunkSweep<T> far(m, upward ? m.lower : m.upper, upward, call.chunks(), g);
        far.add = true;
        if (far.far()) run(part, far);
      }
    }
  }
}

}  // namespace

template <class T, class B>
void chunked_multiply(const ChunkedToeplitz<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  run_product(ChunkCall<T>{&m, {}, {}, x, y, {}, MomentShape(sizeof(T), tile_geometry(sizeof(T)), 0, 0, false), {}}, context);
}

template <class T, class B>
void chunked_low_rank(const ChunkedToeplitz<T>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                      const Context<B>& context) {
  if (!in.a || in.a.cols == 0) {
    fill(out.y, T(0), context);
    if (out.row_sum) fill(MatrixView<T, Cpu>(out.row_sum.data, 1, out.row_sum.size), T(0), context);
    return;
  }
  run_product(
      ChunkCall<T>{&m, in.a, in.b, in.x, out.y, out.row_sum, MomentShape(sizeof(T), tile_geometry(sizeof(T)), 0, 0, false), {}},
      context);
}

template <class T>
std::size_t chunked_bytes(const ChunkedToeplitz<T>& m, Index rank, Index columns) {
  const TileGeometry g = tile_geometry(sizeof(T));
  const MomentShape shape(sizeof(T), g, rank, std::min(columns, kColumnBlock), rank > 0);
  const Index chunks = (m.length + m.chunk - 1) / std::max<Index>(1, m.chunk), workers = std::min(chunks, kMaxWorkers);
  const Index per_worker = ChunkScratch<T>(g, shape, m.chunk, rank == 0).size;
  const Index panel = far_features(m, shape, Context<Cpu>{}.scratch_bytes);
  const MomentShape part(sizeof(T), g, rank > 0 ? panel : 0, std::min(columns, kColumnBlock), rank > 0);
  const MomentShape bare(sizeof(T), g, part.m, part.c, false);  // without row sums, but perhaps further apart
  Index most = 0;
  for (const ChunkSide<T>* s : {&m.lower, &m.upper}) {
    // Of one feature panel where there are several: the last one may be smaller, and its waves longer.
    const Index step = std::max(part.step, bare.step), moment = panel < shape.m ? 1 : s->basis * step;
    const Index longest = most_kept_chunks(moment, chunks, workers, sizeof(T));
    const Index kept = s->windows.empty() ? s->basis * (longest + m.gap) + 2 * s->states : window_elements(*s, longest);
    most = std::max(most, kept * step + 2 * longest * s->states * s->basis + 2 * m.chunk * g.padded_rows(s->basis));
  }
  // Host vectors of coefficients and the allocator's rounding beside it.
  return static_cast<std::size_t>(align_elements<T>(workers * per_worker) + most) * sizeof(T) + 65536;
}

#define ESPALIER_INSTANTIATE(T)                                                                                          \
  template void chunked_multiply(const ChunkedToeplitz<T>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>,                \
                                 const Context<Cpu>&);                                                                   \
  template void chunked_low_rank(const ChunkedToeplitz<T>&, const LowRankInputs<T, Cpu>&, const LowRankOutputs<T, Cpu>&, \
                                 const Context<Cpu>&);                                                                   \
  template std::size_t chunked_bytes(const ChunkedToeplitz<T>&, Index, Index);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
