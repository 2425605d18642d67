// Gradients of the masked product in chunk-basis form on the host.
// SPDX-License-Identifier: Apache-2.0
//
// With W_ij = y_bar_i . x_j + r_bar_i, each sweep carries two kinds of states over the chunks, [c + 1][m] each:
//   of sources   sum source(b) [x_b, 1] b_bᵀ              rows read them:     a_bar_i += sum_p row_p(i) [y_bar_i, r_bar_i] U_p
//   of rows      sum row(a) [y_bar_a, r_bar_a] a_aᵀ       sources read them:  b_bar_j += sum_p source_p(j) [x_j, 1] U_p,
//                                                                             x_bar_j += sum_p source_p(j) (U_p without its
//                                                                             last row) b_j
// the lower side's sources with the upper side's rows (both come from chunks below), and the other way round. The gradient by a
// parameter is <moments of the chunk's rows, states of sources read with the derivative's coefficients>.
// Near tiles: a_bar by tiles of rows, b_bar and x_bar by tiles of sources, so that no task writes to another's chunk.
#include "backend/chunked.hpp"
#include "backend/cpu/chunked_backward_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/chunked_vjp.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/chunk_derivatives-inl.hpp"
#include "backend/cpu/chunk_kernels-inl.hpp"
#include "backend/cpu/chunk_near_vjp-inl.hpp"
#include "backend/cpu/chunk_scan-inl.hpp"
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Moments of one chunk, [basis][c + 1][m_pad]: sum_t weight_p(t) [value_t, last_t] factor_tᵀ. last empty: ones.
template <class T>
void pair_moments(const ChunkBackward<T>& call, Index chunk, Index basis, const T* weights, MatrixView<const T, Cpu> value,
                  VectorView<const T, Cpu> last, bool last_is_one, MatrixView<const T, Cpu> factor, T* scratch, T* moments) {
  const ChunkBackwardScratch<T> at({kPanel<T>, kRows}, call);
  const Index t0 = call.begin(chunk), n = call.rows(chunk);
  T* f = scratch + at.b_plain;
  T* v = scratch + at.x_plain;
  T* weighted = scratch + at.weighted;
  T* w = scratch + at.factor;
  copy_padded(factor, t0, n, call.m_pad, f);
  if (value) copy_padded(value, t0, n, call.c_pad, v);
  for (Index p = 0; p < basis; ++p) {
    const T* weight = weights + p * call.mask->chunk;
    T* to = moments + p * call.step;
    if (value) {
      scale_rows(n, call.m_pad, weight, f, weighted);
      outer_products(n, v, call.c_pad, call.c, weighted, call.m_pad, to);
    } else {
      std::fill_n(to, call.c * call.m_pad, T(0));
    }
    for (Index t = 0; t < n; ++t) w[t] = last_is_one ? weight[t] : last ? weight[t] * last[t0 + t] : T(0);
    weighted_sum(n, call.m_pad, w, f, to + call.c * call.m_pad);
  }
}

template <class T>
void source_moments(const ChunkBackward<T>& call, const ChunkSide<T>& side, Index basis, Index chunk, T* scratch, T* moments) {
  pair_moments(call, chunk, basis, side.source.data(), call.x, {}, true, call.b, scratch, moments);
}
// weights: [basis, C] of the rows.
template <class T>
void row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, T* scratch, T* moments) {
  pair_moments(call, chunk, basis, weights, call.y_bar, call.r_bar, false, call.a, scratch, moments);
}

// to[k][.] = w[.] from[k][.] for `depth` rows of one panel.
template <int V, class T>
HWY_INLINE void weigh_lanes(Index depth, const T* HWY_RESTRICT weight, const T* HWY_RESTRICT from, T* HWY_RESTRICT to) {
  const Wide<T> d;
  hn::Vec<Wide<T>> w[V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) w[v] = hn::LoadU(d, weight + v * kLanes<T>);
  for (Index k = 0; k < depth; ++k) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const Index l = k * kPanel<T> + v * kLanes<T>;
      hn::Store(hn::Mul(w[v], hn::Load(d, from + l)), d, to + l);
    }
  }
}

// A gradient of one chunk between its panels and the caller's rows.
template <class T>
void load_panels(MatrixView<T, Cpu> from, Index first, Index n, T* y) {
  for (Index i = 0; i < n; i += kPanel<T>, y += padded_rows(from.cols) * kPanel<T>) {
    transpose<T>(from.row(first + i), from.row_stride, std::min(kPanel<T>, n - i), from.cols, y, kPanel<T>);
  }
}
template <class T>
void store_panels(const T* y, Index first, Index n, MatrixView<T, Cpu> to) {
  for (Index i = 0; i < n; i += kPanel<T>, y += padded_rows(to.cols) * kPanel<T>) {
    transpose<T>(y, kPanel<T>, to.cols, std::min(kPanel<T>, n - i), to.row(first + i), to.row_stride);
  }
}

// Everything that one chunk reads: source states (for its rows) and row states (for its sources); null: nothing far.
template <class T>
void chunk_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index chunk, const T* source_reads,
                 const T* row_reads, T* near_bar, T* scratch) {
  const ChunkBackwardScratch<T> at({kPanel<T>, kRows}, call);
  const Index t0 = call.begin(chunk), n = call.rows(chunk), m = call.m, c = call.c, size = call.mask->chunk;
  const Index m_panel = padded_rows(m) * kPanel<T>, c_panel = padded_rows(c) * kPanel<T>;
  if (call.add && source_reads == nullptr && row_reads == nullptr) return;
  const Index panels = (size + kPanel<T> - 1) / kPanel<T>;
  std::fill_n(scratch + at.a_bar, panels * m_panel, T(0));
  std::fill_n(scratch + at.b_bar, panels * m_panel, T(0));
  std::fill_n(scratch + at.x_bar, panels * c_panel, T(0));
  if (call.add) {
    if (call.want_a) load_panels(call.a_bar, t0, n, scratch + at.a_bar);
    if (call.want_b) load_panels(call.b_bar, t0, n, scratch + at.b_bar);
    if (call.want_x) load_panels(call.x_bar, t0, n, scratch + at.x_bar);
  }
  if (call.want_a) pack_lanes_with_last(call.y_bar, c, call.r_bar, false, t0, n, scratch + at.y_lanes);
  if (call.want_sources) {
    pack_lanes_with_last(call.x, c, {}, true, t0, n, scratch + at.x_lanes);
    pack_lanes(call.b, t0, n, T(1), scratch + at.b_lanes);
  }
  if (call.near) {
    if (call.want_a) near_rows(call, at, chunk, scratch);
    if (call.want_sources) near_sources(call, at, chunk, near_bar, scratch);
  }
  const auto read = [&](const T* weights, const T* states, Index depth, const T* lanes, Index step, Index columns, T* y,
                        Index first) HWY_ATTR {
    with_panel_vectors<T>(n - first, [&](auto vectors) HWY_ATTR {
      constexpr int V = vectors;
      weigh_lanes<V>(depth, weights + first, lanes, scratch + at.lanes_weighted);
      add_strided<V>(depth, states, step, columns, scratch + at.lanes_weighted, kPanel<T>, y);
    });
  };
  for (Index p = 0; call.want_a && source_reads != nullptr && p < sweep.sources.side->reads; ++p) {
    for (Index k = 0, i = 0; i < n; ++k, i += kPanel<T>) {
      read(sweep.sources.side->row.data() + p * size, source_reads + p * call.step, c + 1,
           scratch + at.y_lanes + k * (c + 1) * kPanel<T>, call.m_pad, m, scratch + at.a_bar + k * m_panel, i);
    }
  }
  for (Index p = 0; call.want_sources && row_reads != nullptr && p < sweep.rows.side->reads; ++p) {
    const T* weights = sweep.rows.side->row.data() + p * size;
    const T* states = row_reads + p * call.step;
    if (call.want_x) transpose(states, call.m_pad, c, m, scratch + at.turned, call.c_pad);
    for (Index k = 0, i = 0; i < n; ++k, i += kPanel<T>) {
      if (call.want_b) {
        read(weights, states, c + 1, scratch + at.x_lanes + k * (c + 1) * kPanel<T>, call.m_pad, m,
             scratch + at.b_bar + k * m_panel, i);
      }
      if (call.want_x) {
        read(weights, scratch + at.turned, m, scratch + at.b_lanes + k * m * kPanel<T>, call.c_pad, c,
             scratch + at.x_bar + k * c_panel, i);
      }
    }
  }
  if (call.want_a) store_panels(scratch + at.a_bar, t0, n, call.a_bar);
  if (call.want_b) store_panels(scratch + at.b_bar, t0, n, call.b_bar);
  if (call.want_x) store_panels(scratch + at.x_bar, t0, n, call.x_bar);
}

#define ESPALIER_KERNELS(T, name)                                                                                             \
  void source_moments_##name(const ChunkBackward<T>& call, const ChunkSide<T>& side, Index basis, Index chunk, T* scratch,    \
                             T* moments) {                                                                                    \
    source_moments(call, side, basis, chunk, scratch, moments);                                                               \
  }                                                                                                                           \
  void row_moments_##name(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, T* scratch, T* moments) { \
    row_moments(call, weights, basis, chunk, scratch, moments);                                                               \
  }                                                                                                                           \
  void backward_scan_##name(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state) {                            \
    scan_chunk(scan, from, to, moments, state);                                                                               \
  }                                                                                                                           \
  void derivative_dot_##name(Index basis, Index states, Index count, const T* coefficients, Index step, Index from, Index to, \
                             const T* moments, const T* state, double* out) {                                                 \
    derivative_dot(basis, states, count, coefficients, step, from, to, moments, state, out);                                  \
  }                                                                                                                           \
  void chunk_reads_##name(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index chunk,                      \
                          const T* source_reads, const T* row_reads, T* near_bar, T* scratch) {                               \
    chunk_reads(call, sweep, chunk, source_reads, row_reads, near_bar, scratch);                                              \
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

#define ESPALIER_KERNELS(T, name)                                                                                          \
  HWY_EXPORT(source_moments_##name);                                                                                       \
  HWY_EXPORT(row_moments_##name);                                                                                          \
  HWY_EXPORT(backward_scan_##name);                                                                                        \
  HWY_EXPORT(derivative_dot_##name);                                                                                       \
  HWY_EXPORT(chunk_reads_##name);                                                                                          \
  void run_source_moments(const ChunkBackward<T>& call, const ChunkSide<T>& side, Index basis, Index chunk, T* scratch,    \
                          T* moments) {                                                                                    \
    ESPALIER_DISPATCH(source_moments_##name)(call, side, basis, chunk, scratch, moments);                                  \
  }                                                                                                                        \
  void run_row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, T* scratch, T* moments) { \
    ESPALIER_DISPATCH(row_moments_##name)(call, weights, basis, chunk, scratch, moments);                                  \
  }                                                                                                                        \
  void run_scan(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state) {                                     \
    ESPALIER_DISPATCH(backward_scan_##name)(scan, from, to, moments, state);                                               \
  }                                                                                                                        \
  void run_derivative_dot(Index basis, Index states, Index count, const T* coefficients, Index step, Index from, Index to, \
                          const T* moments, const T* state, double* out) {                                                 \
    ESPALIER_DISPATCH(derivative_dot_##name)(basis, states, count, coefficients, step, from, to, moments, state, out);     \
  }                                                                                                                        \
  void run_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index chunk, const T* source_reads,     \
                 const T* row_reads, T* near_bar, T* scratch) {                                                            \
    ESPALIER_DISPATCH(chunk_reads_##name)(call, sweep, chunk, source_reads, row_reads, near_bar, scratch);                 \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS

// How one sweep's memory is laid out: rings of moments, states, what each chunk of a wave adds to near entries.
template <class T>
struct BackwardPlan {
  Index workers, wave, ring, scan_tasks;
  Index source_basis, row_basis, derivative_basis, derivatives;
  Index source_states, row_states;
  Index scratch, source_ring, row_ring, derivative_ring, source_state, row_state, near;  // offsets
  Index size;

  BackwardPlan(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, int threads) {
    const TileGeometry g = tile_geometry(sizeof(T));
    const ChunkSide<T>& sources = *sweep.sources.side;
    const ChunkSide<T>& rows = *sweep.rows.side;
    derivatives = call.want_parameters ? static_cast<Index>(sources.derivative_out.size()) : 0;
    derivative_basis = derivatives > 0 ? sources.basis : 0;
    source_basis = derivatives > 0 ? sources.basis : call.want_a ? sources.basis : 0;
    row_basis = call.want_sources ? rows.basis : 0;
    source_states = source_basis > 0 ? sources.states : 0;
    row_states = row_basis > 0 ? rows.states : 0;
    const Index n = call.chunks(), per_chunk = (source_basis + row_basis + derivative_basis) * call.step;
    workers = std::min<Index>({n, threads, kMaxWorkers});
    wave = wave_length(per_chunk, n, workers, sizeof(T));
    // Each chunk of a wave gathers near entries of its own: 8 MiB of them, or one chunk a worker.
    const Index gathered = (Index{8} << 20) / static_cast<Index>(sizeof(T)) / std::max<Index>(1, call.near_size());
    if (call.near && call.want_parameters) wave = std::min(wave, std::max(workers, gathered));
    ring = wave + call.mask->gap;
    scan_tasks = (call.step + kScanBlock - 1) / kScanBlock;
    const Index per_worker = ChunkBackwardScratch<T>(g, call).size;
    Index at = 0;
    const auto take = [&](Index elements) {
      const Index offset = at;
      at += align_elements<T>(elements);
      return offset;
    };
    scratch = take(workers * per_worker);
    source_ring = take(ring * source_basis * call.step);
    row_ring = take(ring * row_basis * call.step);
    derivative_ring = take(wave * derivative_basis * call.step);
    source_state = take(source_states > 0 ? sweep.sources.state_elements(call.step) : 0);
    row_state = take(row_states > 0 ? sweep.rows.state_elements(call.step) : 0);
    near = take(call.near && call.want_parameters ? wave * call.near_size() : 0);
    size = at;
  }
};

template <class T>
void run_sweep(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, ChunkedParameterGradient* parameters,
               const Context<Cpu>& context) {
  Context<Cpu> inner = context;
  const BackwardPlan<T> plan(call, sweep, thread_count(context));
  inner.threads = static_cast<int>(plan.workers);
  const Index n = call.chunks(), gap = call.mask->gap, step = call.step;
  const Index per_worker = ChunkBackwardScratch<T>(tile_geometry(sizeof(T)), call).size;
  const ChunkSide<T>& sources = *sweep.sources.side;
  const ChunkSide<T>& rows = *sweep.rows.side;
  Buffer<T, Cpu> memory(plan.size);
  T* base = memory.data();
  if (plan.source_states > 0) std::fill_n(base + plan.source_state, sweep.sources.state_elements(step), T(0));
  if (plan.row_states > 0) std::fill_n(base + plan.row_state, sweep.rows.state_elements(step), T(0));
  const auto source_slot = [&](Index t) { return base + plan.source_ring + t % plan.ring * (plan.source_basis * step); };
  const auto row_slot = [&](Index t) { return base + plan.row_ring + t % plan.ring * (plan.row_basis * step); };
  const auto scratch = [&](int worker) { return base + plan.scratch + worker * per_worker; };
  const Index source_size = plan.source_states * plan.source_basis, row_size = plan.row_states * plan.row_basis;
  const auto wave_size = [&](Index each) { return static_cast<std::size_t>(plan.wave * each); };
  std::vector<T> source_in(wave_size(source_size)), source_out(source_in.size()), row_in(wave_size(row_size)),
      row_out(row_in.size()), unused(static_cast<std::size_t>(source_size)),
      derivative(wave_size(source_size * plan.derivatives));
  std::vector<double> far(static_cast<std::size_t>(plan.scan_tasks * plan.derivatives), 0.0);
  for (Index t0 = 0; t0 < n; t0 += plan.wave) {
    const Index t1 = std::min(n, t0 + plan.wave), scan_from = std::max(t0, gap);
    parallel_for(inner, t1 - t0, [&](Index k, int worker) {
      const Index t = t0 + k, chunk = sweep.sources.chunk(t);
      if (t + gap < n) {
        if (plan.source_basis > 0) run_source_moments(call, sources, plan.source_basis, chunk, scratch(worker), source_slot(t));
        if (plan.row_basis > 0) run_row_moments(call, rows.source.data(), plan.row_basis, chunk, scratch(worker), row_slot(t));
      }
      if (plan.derivative_basis > 0 && t >= gap) {
        run_row_moments(call, sources.row.data(), plan.derivative_basis, chunk, scratch(worker),
                        base + plan.derivative_ring + k * plan.derivative_basis * step);
      }
    });
    for (Index t = scan_from; t < t1; ++t) {
      const Index k = t - scan_from;
      if (source_size > 0)
        sweep.sources.coefficients(t, source_in.data() + k * source_size, source_out.data() + k * source_size);
      if (row_size > 0) sweep.rows.coefficients(t, row_in.data() + k * row_size, row_out.data() + k * row_size);
      for (Index d = 0; d < plan.derivatives; ++d) {
        sweep.sources.coefficients(t, unused.data(), derivative.data() + (k * plan.derivatives + d) * source_size,
                                   sources.derivative_out[static_cast<std::size_t>(d)]);
      }
    }
    const bool far_exists = source_size + row_size > 0;
    parallel_for(inner, far_exists && scan_from < t1 ? plan.scan_tasks : 0, [&](Index block, int) {
      const Index from = block * kScanBlock, to = std::min(step, from + kScanBlock);
      for (Index t = scan_from; t < t1; ++t) {
        const Index k = t - scan_from;
        if (row_size > 0) {
          run_scan(
              sweep.rows.scan_step(step, row_in.data() + k * row_size, row_out.data() + k * row_size, base + plan.row_state),
              from, to, row_slot(t - gap), base + plan.row_state);
        }
        if (source_size == 0) continue;
        run_scan(sweep.sources.scan_step(step, source_in.data() + k * source_size, source_out.data() + k * source_size,
                                         base + plan.source_state),
                 from, to, source_slot(t - gap), base + plan.source_state);
        if (plan.derivatives == 0) continue;
        run_derivative_dot(plan.derivative_basis, plan.source_states, plan.derivatives,
                           derivative.data() + k * plan.derivatives * source_size, step, from, to,
                           base + plan.derivative_ring + (t - t0) * plan.derivative_basis * step, base + plan.source_state,
                           far.data() + block * plan.derivatives);
      }
    });
    const bool near_wanted = call.near && call.want_parameters;
    if (near_wanted) std::fill_n(base + plan.near, plan.wave * call.near_size(), T(0));
    parallel_for(
        inner, t1 - t0,
        [&](Index k, int worker) {
          const Index t = t0 + k;
          const bool past = t >= gap;
          run_reads(call, sweep, sweep.sources.chunk(t), past && plan.source_basis > 0 ? source_slot(t - gap) : nullptr,
                    past && plan.row_basis > 0 ? row_slot(t - gap) : nullptr,
                    near_wanted ? base + plan.near + k * call.near_size() : nullptr, scratch(worker));
        },
        "chunks, backward");
    if (!near_wanted) continue;
    for (Index k = 0; k < t1 - t0; ++k) {
      // Gathered by offsets of the transposed mask.
      const T* part = base + plan.near + k * call.near_size();
      for (Index o = 0; o < call.near_size(); ++o) {
        parameters->near[static_cast<std::size_t>(call.near_size() - 1 - o)] += static_cast<double>(part[o]);
      }
    }
  }
  for (Index block = 0; block < plan.scan_tasks; ++block) {
    for (Index d = 0; d < plan.derivatives; ++d) {
      parameters->far[static_cast<std::size_t>(d)] += far[static_cast<std::size_t>(block * plan.derivatives + d)];
    }
  }
}

}  // namespace

template <class T, class B>
void chunked_low_rank_vjp(const ChunkedToeplitz<T>& product, const ChunkedToeplitz<T>* learning, const LowRankInputs<T, B>& in,
                          const LowRankCotangents<T, B>& cotangents, const LowRankGradients<T, B>& gradients,
                          ChunkedParameterGradient* parameters, const Context<B>& context) {
  const ChunkedToeplitz<T>& m = learning != nullptr ? *learning : product;
  const bool any = in.a.cols > 0 && (cotangents.y || cotangents.row_sum);
  for (const auto& out : {gradients.a, gradients.b, gradients.x}) {
    if (out && !any) fill(out, T(0), context);
  }
  if (!any) return;
  if (gradients.x && !cotangents.y) fill(gradients.x, T(0), context);
  const TileGeometry g = tile_geometry(sizeof(T));
  const ChunkedToeplitz<T> turned = transposed(product);
  ChunkBackward<T> call{};
  call.mask = &m;
  call.turned = &turned;
  call.a = in.a, call.b = in.b, call.x = in.x;
  call.y_bar = in.x.cols > 0 ? cotangents.y : MatrixView<const T, Cpu>{};
  call.r_bar = cotangents.row_sum;
  call.a_bar = gradients.a, call.b_bar = gradients.b, call.x_bar = gradients.x;
  call.want_a = static_cast<bool>(gradients.a);
  call.want_b = static_cast<bool>(gradients.b);
  call.want_x = gradients.x && cotangents.y && in.x.cols > 0;
  call.want_parameters = learning != nullptr && parameters != nullptr;
  call.want_sources = call.want_b || call.want_x || call.want_parameters;
  if (!call.want_a && !call.want_sources) return;
  call.m = in.a.cols;
  call.c = in.x.cols;
  call.m_pad = g.padded_lanes(g.padded_rows(call.m));
  call.c_pad = g.padded_lanes(g.padded_rows(call.c));
  call.step = (call.c + 1) * call.m_pad;
  call.near = true;
  const Index n = call.chunks();
  run_sweep(call, ChunkBackwardSweep<T>{{m, m.lower, true, n, g}, {turned, turned.lower, true, n, g}}, parameters, context);
  call.near = false;
  call.add = true;
  run_sweep(call, ChunkBackwardSweep<T>{{m, m.upper, false, n, g}, {turned, turned.upper, false, n, g}}, parameters, context);
}

#define ESPALIER_INSTANTIATE(T)                                                                                          \
  template void chunked_low_rank_vjp(const ChunkedToeplitz<T>&, const ChunkedToeplitz<T>*, const LowRankInputs<T, Cpu>&, \
                                     const LowRankCotangents<T, Cpu>&, const LowRankGradients<T, Cpu>&,                  \
                                     ChunkedParameterGradient*, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
