// Gradients of the masked product in chunk-basis form on the host.
// SPDX-License-Identifier: Apache-2.0
//
// With W_ij = y_bar_i . x_j + r_bar_i, each sweep carries two kinds of states over the chunks, [c + 1][m] each:
//   of sources   sum source(b) [x_b, 1] b_bᵀ              rows read them:     a_bar_i += sum_p row_p(i) [y_bar_i, r_bar_i] U_p
//   of rows      sum row(a) [y_bar_a, r_bar_a] a_aᵀ       sources read them:  b_bar_j += sum_p source_p(j) [x_j, 1] U_p,
//                                                                             x_bar_j += sum_p source_p(j) (U_p without its
//                                                                             last row) b_j
// the lower side's sources with the upper side's rows (both come from chunks below), and the other way round. The gradient by a
// parameter is <moments of the chunk's rows, states of sources read with the derivative's coefficients>; with derivatives on
// both sides the way up also has <moments of its sources, states of rows ..>, and the way down has none. Near tiles: a_bar by
// tiles of rows, b_bar and x_bar by tiles of sources, so that no task writes to another's chunk; the own chunk's tile serves
// all three.
#include "backend/chunked.hpp"
#include "backend/cpu/chunked_backward_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>
#include <optional>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/chunked_vjp.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/chunk_derivatives-inl.hpp"
#include "backend/cpu/chunk_kernels-inl.hpp"
#include "backend/cpu/chunk_near_vjp-inl.hpp"
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
                  VectorView<const T, Cpu> last, bool last_is_one, MatrixView<const T, Cpu> factor, bool upward, T* scratch,
                  T* moments) {
  const ChunkBackwardScratch<T> at({kPanel<T>, kRows}, call);
  const Index t0 = call.begin(chunk), n = call.rows(chunk);
  T* weighted = scratch + at.weighted;
  T* lasts = scratch + at.factor;
  if (last_is_one || !last) {
    std::fill_n(lasts, n, T(last_is_one ? 1 : 0));
  } else {
    copy_vector(last, t0, n, n, lasts);
  }
  const PlainRows<T> f = plain_rows(factor, t0, n, call.m_pad, scratch + at.plain_m);
  const PlainRows<T> v = value ? plain_rows(value, t0, n, call.c_pad, scratch + at.plain_c) : PlainRows<T>{};
  // A panel of columns stays in the first cache for all vectors of the basis. A chunk to come (with near tiles: the next one
  // that none has touched) is asked for in as many parts as there are products to wait behind.
  const Index ahead = call.near ? call.mask->gap : 1, next = upward ? chunk + ahead : chunk - ahead;
  const Index coming = call.rows_or_none(next);
  const Index parts = (call.m_pad + kPanel<T> - 1) / kPanel<T> * basis;
  Index asked = 0, part = 0;
  over_panels<T>(call.m_pad, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    for (Index p = 0; p < basis; ++p) {
      const Index count = ++part * coming / parts - asked;
      prefetch_rows<false>(factor, call.begin(next) + asked, count);
      if (value) prefetch_rows<false>(value, call.begin(next) + asked, count);
      asked += count;
      T* to = moments + p * call.step + column;
      scale_and_sum_rows<V>(n, weights + p * call.mask->chunk, lasts, f.data + column, f.step, weighted,
                            to + call.c * call.m_pad);
      if (value) {
        outer_panel<V>(n, v.data, v.step, call.c, weighted, kPanel<T>, to, call.m_pad);
      } else {
        for (Index k = 0; k < call.c; ++k) std::fill_n(to + k * call.m_pad, V * kLanes<T>, T(0));
      }
    }
  });
}

template <class T>
void source_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,
                    T* moments) {
  pair_moments(call, chunk, basis, weights, call.x, {}, true, call.b, upward, scratch, moments);
}
// weights: [basis, C] of the rows.
template <class T>
void row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,
                 T* moments) {
  pair_moments(call, chunk, basis, weights, call.y_bar, call.r_bar, false, call.a, upward, scratch, moments);
}

// Where a gradient of one chunk is added up, rows of `width` elements: in the caller's own where plain_rows would take them,
// else in `memory`, a copy.
template <class T>
T* open_gradient(MatrixView<T, Cpu> to, Index first, Index n, Index width, T* memory, Index& step) {
  const PlainRows<T> rows = whole_rows(MatrixView<const T, Cpu>(to), first, n, width, memory);
  step = rows.step;
  T* y = rows.data == memory ? memory : to.row(first);
  return y;
}
template <class T>
void close_gradient(const T* y, Index step, Index first, Index n, MatrixView<T, Cpu> to) {
  for (Index i = 0; y != to.row(first) && i < n; ++i) std::copy_n(y + i * step, to.cols, to.row(first + i));
}

// One basis vector's sums of one chunk: product(kinds, sums) adds to sums [kKinds][lanes].
template <class T, class F>
void add_terms(TermGradients<T>& terms, bool upper, typename TermGradients<T>::Reader reader, Index chunk, Index p,
               const F& product) {
  constexpr Index kKinds = TermGradients<T>::kKinds;
  HWY_ALIGN T sums[kKinds * kLanes<T>] = {};
  product(terms.weights(upper, reader, p), sums);
  double* to = terms.sums(upper, reader, chunk) + p * kKinds;
  for (Index k = 0; k < kKinds; ++k) {
    for (Index l = 0; l < kLanes<T>; ++l) to[k] += static_cast<double>(sums[k * kLanes<T> + l]);
  }
}

// Everything that one chunk reads: source states (for its rows) and row states (for its sources); null: nothing far.
template <class T>
void chunk_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index chunk, const T* source_reads,
                 const T* row_reads, T* near_bar, T* scratch) {
  if (call.add && source_reads == nullptr && row_reads == nullptr) return;
  const ChunkBackwardScratch<T> at({kPanel<T>, kRows}, call);
  const Index t0 = call.begin(chunk), n = call.rows(chunk), m = call.m, c = call.c, size = call.mask->chunk;
  ChunkRows<T> own{};
  own.b = whole_rows(call.b, t0, n, call.m_pad, scratch + at.b);
  own.x = whole_rows(call.x, t0, n, call.c_pad, scratch + at.x);
  if (call.y_bar) own.y_bar = whole_rows(call.y_bar, t0, n, call.c_pad, scratch + at.y_bar);
  if (call.r_bar) copy_vector(call.r_bar, t0, n, size, scratch + at.r_bar), own.r_bar = scratch + at.r_bar;
  std::fill_n(scratch + at.ones, size, T(1));
  if (call.want_a) own.a_bar = open_gradient(call.a_bar, t0, n, call.m_pad, scratch + at.a_bar, own.a_step);
  if (call.want_b) own.b_bar = open_gradient(call.b_bar, t0, n, call.m_pad, scratch + at.b_bar, own.b_step);
  if (call.want_x) own.x_bar = open_gradient(call.x_bar, t0, n, call.c_pad, scratch + at.x_bar, own.x_step);
  // The next chunk's gradients are asked for, and wait behind this one's products.
  const Index next = sweep.sources.upward ? chunk + 1 : chunk - 1, coming = call.rows_or_none(next);
  if (call.want_a) prefetch_rows<true>(call.a_bar, call.begin(next), coming);
  if (call.near) {
    if (call.want_sources) near_sources(call, at, chunk, own, near_bar, scratch);
    if (call.want_a) near_rows(call, at, chunk, !call.want_sources, own, scratch);
  }
  if (call.want_b) prefetch_rows<true>(call.b_bar, call.begin(next), coming);
  const bool upper = !sweep.sources.upward;
  using Terms = TermGradients<T>;
  const bool row_terms = call.terms != nullptr && source_reads != nullptr && call.terms->wanted(upper);
  const bool source_terms = call.terms != nullptr && row_reads != nullptr && call.terms->wanted(!upper);
  PlainRows<T> own_a{};
  if (row_terms) own_a = whole_rows(call.a, t0, n, call.m_pad, scratch + at.a);
  if (row_terms && !call.r_bar) std::fill_n(scratch + at.r_bar, size, T(0));
  for (Index p = 0; call.want_a && source_reads != nullptr && p < sweep.sources.side->reads; ++p) {
    const T* states = source_reads + p * call.step;
    const T* weight = sweep.sources.side->row.data() + p * size;
    // Without y_bar only the states' last row counts.
    const Index depth = call.y_bar ? c : 0;
    if (row_terms) {
      add_terms<T>(*call.terms, upper, Terms::kRows, chunk, p, [&](const T* kinds, T* sums) {
        add_met_row_products(depth, own.y_bar, n, weight, scratch + at.r_bar, call.y_bar ? states : states + c * call.m_pad,
                             call.m_pad, call.m_pad, own.a_bar, own.a_step, own_a, kinds, call.terms->stride(), sums);
      });
      continue;
    }
    add_row_products(depth, own.y_bar, n, weight, own.r_bar, call.y_bar ? states : states + c * call.m_pad, call.m_pad,
                     call.m_pad, own.a_bar, own.a_step);
  }
  if (call.want_x) prefetch_rows<true>(call.x_bar, call.begin(next), coming);
  for (Index p = 0; call.want_sources && row_reads != nullptr && p < sweep.rows.side->reads; ++p) {
    const T* weight = sweep.rows.side->row.data() + p * size;
    const T* states = row_reads + p * call.step;
    if (source_terms) {
      add_terms<T>(*call.terms, !upper, Terms::kSources, chunk, p, [&](const T* kinds, T* sums) {
        add_met_row_products(c, own.x, n, weight, scratch + at.ones, states, call.m_pad, call.m_pad, own.b_bar, own.b_step,
                             own.b, kinds, call.terms->stride(), sums);
      });
    } else if (call.want_b) {
      add_row_products(c, own.x, n, weight, scratch + at.ones, states, call.m_pad, call.m_pad, own.b_bar, own.b_step);
    }
    if (call.want_x) {
      transpose(states, call.m_pad, c, m, scratch + at.turned, call.c_pad);
      add_row_products<T>(m, own.b, n, weight, nullptr, scratch + at.turned, call.c_pad, call.c_pad, own.x_bar, own.x_step);
    }
  }
  if (call.want_a) close_gradient(own.a_bar, own.a_step, t0, n, call.a_bar);
  if (call.want_b) close_gradient(own.b_bar, own.b_step, t0, n, call.b_bar);
  if (call.want_x) close_gradient(own.x_bar, own.x_step, t0, n, call.x_bar);
}

#define ESPALIER_KERNELS(T, name)                                                                                            \
  void source_moments_##name(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward,          \
                             T* scratch, T* moments) {                                                                       \
    source_moments(call, weights, basis, chunk, upward, scratch, moments);                                                   \
  }                                                                                                                          \
  void row_moments_##name(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch, \
                          T* moments) {                                                                                      \
    row_moments(call, weights, basis, chunk, upward, scratch, moments);                                                      \
  }                                                                                                                          \
  void state_dots_##name(Index basis, Index states, Index step, Index from, Index to, const T* moments, const T* state,      \
                         T* out) {                                                                                           \
    state_dots(basis, states, step, from, to, moments, state, out);                                                          \
  }                                                                                                                          \
  void chunk_reads_##name(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index chunk,                     \
                          const T* source_reads, const T* row_reads, T* near_bar, T* scratch) {                              \
    chunk_reads(call, sweep, chunk, source_reads, row_reads, near_bar, scratch);                                             \
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

#define ESPALIER_KERNELS(T, name)                                                                                              \
  HWY_EXPORT(source_moments_##name);                                                                                           \
  HWY_EXPORT(row_moments_##name);                                                                                              \
  HWY_EXPORT(state_dots_##name);                                                                                               \
  HWY_EXPORT(chunk_reads_##name);                                                                                              \
  void run_source_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,   \
                          T* moments) {                                                                                        \
    ESPALIER_DISPATCH(source_moments_##name)(call, weights, basis, chunk, upward, scratch, moments);                           \
  }                                                                                                                            \
  void run_row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,      \
                       T* moments) {                                                                                           \
    ESPALIER_DISPATCH(row_moments_##name)(call, weights, basis, chunk, upward, scratch, moments);                              \
  }                                                                                                                            \
  void run_state_dots(Index basis, Index states, Index step, Index from, Index to, const T* moments, const T* state, T* out) { \
    ESPALIER_DISPATCH(state_dots_##name)(basis, states, step, from, to, moments, state, out);                                  \
  }                                                                                                                            \
  void run_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index chunk, const T* source_reads,         \
                 const T* row_reads, T* near_bar, T* scratch) {                                                                \
    ESPALIER_DISPATCH(chunk_reads_##name)(call, sweep, chunk, source_reads, row_reads, near_bar, scratch);                     \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS

// Coefficients of far derivatives for the steps of one wave, [step][derivative][r, R].
template <class T>
class DerivativeSteps {
 public:
  DerivativeSteps() = default;
  DerivativeSteps(const ChunkSweep<T>& sweep, const ChunkStream<T>& stream, Index derivatives, Index from, Index to)
      : basis_(stream.basis()), states_(stream.states()), derivatives_(derivatives), from_(from) {
    const Index size = basis_ * states_;
    std::vector<T> unused(static_cast<std::size_t>(size));
    all_.resize(static_cast<std::size_t>(std::max<Index>(0, to - from) * derivatives * size));
    for (Index t = from; t < to; ++t) {
      for (Index d = 0; d < derivatives; ++d) {
        sweep.coefficients(t, unused.data(), all_.data() + ((t - from) * derivatives + d) * size,
                           sweep.side->derivative_out[static_cast<std::size_t>(d)]);
      }
    }
  }
  // sums[d] += the derivative d's part of step t in elements [first, last).
  void add(Index t, Index step, Index first, Index last, const T* moments, const T* state, std::vector<T>& dots,
           double* sums) const {
    const auto size = static_cast<std::size_t>(basis_ * states_);
    dots.resize(size);
    run_state_dots(basis_, states_, step, first, last, moments, state, dots.data());
    const T* w = all_.data() + (t - from_) * derivatives_ * static_cast<Index>(size);
    for (Index d = 0; d < derivatives_; ++d, w += size) {
      double sum = 0;
      for (std::size_t k = 0; k < size; ++k) sum += static_cast<double>(w[k]) * static_cast<double>(dots[k]);
      sums[d] += sum;
    }
  }

 private:
  Index basis_ = 0, states_ = 0, derivatives_ = 0, from_ = 0;
  std::vector<T> all_;
};

// One sweep's memory and tasks (chunk_waves.hpp).
template <class T>
class BackwardSweepRun {
 public:
  BackwardSweepRun(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, ChunkedParameterGradient* parameters,
                   BackwardPlan<T>& plan)
      : call_(call),
        sweep_(sweep),
        parameters_(parameters),
        plan_(plan),
        memory_(plan.size),
        far_(static_cast<std::size_t>(plan.blocks * plan.derivatives), 0.0),
        steps_(static_cast<std::size_t>(plan.workers)) {
    plan_.place(memory_.data());
  }

  void run(const Context<Cpu>& context) {
    WaveTasks tasks{};
    tasks.blocks = plan_.sources.exists() || plan_.rows.exists() ? plan_.blocks : 0;
    tasks.moments = [&](Index t0, Index t1, int worker) {
      for (Index t = t0; t < t1; ++t) moments(t, scratch(worker));
      own(worker).prepare(sweep_, plan_, t0, t1);
    };
    tasks.advance = [&](Index t0, Index t1, Index block, int worker) { advance(t0, t1, block, own(worker)); };
    tasks.rows = [&](Index t0, Index t1, int worker) {
      for (Index t = t0; t < t1; ++t) reads(t, near_wanted() ? near_entries(worker, t - t0) : nullptr, scratch(worker));
    };
    if (near_wanted()) {
      tasks.gather = [&](Index t0, Index t1, int worker) {
        for (Index t = t0; t < t1; ++t) gather_near(near_entries(worker, t - t0));
      };
    }
    run_waves(context, call_.chunks(), plan_.waves, tasks, "chunks, backward");
    gather_far();
  }

 private:
  // Coefficients of a worker's wave.
  struct Steps {
    ChunkSteps<T> sources, rows;
    DerivativeSteps<T> below, above;

    void prepare(const ChunkBackwardSweep<T>& sweep, const BackwardPlan<T>& plan, Index t0, Index t1) {
      plan.sources.prepare(t0, t1, sources);
      plan.rows.prepare(t0, t1, rows);
      const Index from = std::max(t0, plan.sources.lag());
      const bool steps = plan.derivatives > 0 && !plan.sources.windowed();
      below = DerivativeSteps<T>(sweep.sources, plan.sources, steps ? plan.derivatives : 0, from, t1);
      above = DerivativeSteps<T>(sweep.rows, plan.rows, plan.both ? plan.derivatives : 0, from, t1);
    }
  };

  bool near_wanted() const { return call_.near && call_.want_parameters; }
  T* scratch(int worker) { return memory_.data() + worker * plan_.per_worker; }
  T* near_entries(int worker, Index k) { return memory_.data() + plan_.near_entries(worker, k, call_.near_size()); }
  Steps& own(int worker) { return steps_[static_cast<std::size_t>(worker)]; }

  void moments(Index t, T* scratch) {
    const Index n = call_.chunks(), chunk = sweep_.sources.chunk(t);
    const ChunkSide<T>& sources = *sweep_.sources.side;
    if (plan_.wanted(plan_.sources, t, n)) {
      run_source_moments(call_, sources.source.data(), plan_.sources.basis(), chunk, sweep_.sources.upward, scratch,
                         plan_.sources.moments(t));
    }
    if (plan_.wanted(plan_.rows, t, n)) {
      run_row_moments(call_, sweep_.rows.side->source.data(), plan_.rows.basis(), chunk, sweep_.rows.upward, scratch,
                      plan_.rows.moments(t));
    }
    if (plan_.derivative_basis > 0 && t >= plan_.sources.lag()) {
      run_row_moments(call_, (sources.windows.empty() ? sources.derivative_row : sources.row).data(), plan_.derivative_basis,
                      chunk, sweep_.rows.upward, scratch, memory_.data() + plan_.derivative_moments(t, call_.step));
    }
  }

  // The streams of the wave [t0, t1), and the gradients of far parameters, for one block of elements.
  void advance(Index t0, Index t1, Index block, const Steps& steps) {
    const Index first = block * kScanBlock, last = std::min(call_.step, first + kScanBlock);
    double* sums = far_.data() + block * plan_.derivatives;
    plan_.rows.fetch(last, std::min(call_.step, last + kScanBlock));
    plan_.sources.fetch(last, std::min(call_.step, last + kScanBlock));
    const bool windows = plan_.derivatives > 0 && plan_.sources.windowed();
    if (plan_.derivatives == 0 || windows) {
      plan_.rows.advance(steps.rows, t0, t1, first, last);
      const T* met = windows ? memory_.data() + plan_.derivative_moments(t0, call_.step) : nullptr;
      plan_.sources.advance(steps.sources, t0, t1, first, last, met, sums);
      return;
    }
    std::vector<T> dots;
    for (Index t = t0; t < t1; ++t) {
      plan_.rows.advance(steps.rows, t, t + 1, first, last);
      plan_.sources.advance(steps.sources, t, t + 1, first, last);
      if (t < plan_.sources.lag()) continue;
      const T* met = plan_.both ? plan_.rows.moments(t) : memory_.data() + plan_.derivative_moments(t, call_.step);
      steps.below.add(t, call_.step, first, last, met, plan_.sources.state(), dots, sums);
      if (plan_.both) {
        steps.above.add(t, call_.step, first, last, plan_.sources.moments(t), plan_.rows.state(), dots, sums);
      }
    }
  }

  void reads(Index t, T* near, T* scratch) {
    if (near != nullptr) std::fill_n(near, call_.near_size(), T(0));
    run_reads(call_, sweep_, sweep_.sources.chunk(t), call_.want_a ? plan_.sources.read(t) : nullptr, plan_.rows.read(t), near,
              scratch);
  }

  // By offsets of the transposed mask.
  void gather_near(const T* part) {
    for (Index o = 0; o < call_.near_size(); ++o) {
      parameters_->near[static_cast<std::size_t>(transposed_near(*call_.turned, o))] += static_cast<double>(part[o]);
    }
  }

  void gather_far() {
    for (Index block = 0; block < plan_.blocks; ++block) {
      for (Index d = 0; d < plan_.derivatives; ++d) {
        const ChunkSide<T>& sources = *sweep_.sources.side;
        const Index p = plan_.sources.windowed() ? sources.windows[static_cast<std::size_t>(d)].parameter : d;
        parameters_->far[static_cast<std::size_t>(p)] += far_[static_cast<std::size_t>(block * plan_.derivatives + d)];
      }
    }
  }

  const ChunkBackward<T>& call_;
  const ChunkBackwardSweep<T>& sweep_;
  ChunkedParameterGradient* parameters_;
  BackwardPlan<T>& plan_;
  Buffer<T, Cpu> memory_;
  std::vector<double> far_;
  std::vector<Steps> steps_;
};

template <class T>
void run_sweep(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, ChunkedParameterGradient* parameters,
               const Context<Cpu>& context) {
  Context<Cpu> inner = context;
  BackwardPlan<T> plan(call, sweep, thread_count(context));
  inner.threads = static_cast<int>(plan.workers);
  BackwardSweepRun<T>(call, sweep, parameters, plan).run(inner);
}

std::vector<NearTile> own_tile_first(std::vector<NearTile> tiles) {
  const auto own = std::find_if(tiles.begin(), tiles.end(), [](const NearTile& t) { return t.distance == 0; });
  std::rotate(tiles.begin(), own, own + 1);
  return tiles;
}

// Features of one far sweep: all of them, unless windows then keep more than the scratch memory.
template <class T>
Index far_features(const ChunkBackward<T>& call, std::size_t scratch_bytes) {
  // With as many chunks as any number of threads keeps: sums must not depend on it.
  const Index most = most_kept_chunks(1, call.chunks(), kMaxWorkers, sizeof(T));
  const Index kept = window_elements(call.mask->lower, most) + window_elements(call.mask->upper, most);
  if (kept == 0) return call.m;
  return std::clamp<Index>(static_cast<Index>(scratch_bytes / sizeof(T)) / (kept * (call.c + 1)), 1, call.m);
}

// `features` of a call from the k-th on, without near tiles; what it computes is added.
template <class T>
ChunkBackward<T> far_part(const ChunkBackward<T>& call, Index k, Index features) {
  const TileGeometry g = tile_geometry(sizeof(T));
  ChunkBackward<T> part = call;
  part.near = false;
  part.add = true;
  part.m = std::min(features, call.m - k);
  part.a = call.a.columns(k, part.m), part.b = call.b.columns(k, part.m);
  if (call.want_a) part.a_bar = call.a_bar.columns(k, part.m);
  if (call.want_b) part.b_bar = call.b_bar.columns(k, part.m);
  part.m_pad = g.padded_lanes(g.padded_rows(part.m));
  part.step = (part.c + 1) * part.m_pad;
  return part;
}

}  // namespace

template <class T, class B>
void chunked_low_rank_vjp(const ChunkedToeplitz<T>& product, const ChunkedToeplitz<T>* learning, const LowRankInputs<T, B>& in,
                          const LowRankCotangents<T, B>& cotangents, const LowRankGradients<T, B>& gradients,
                          ChunkedParameterGradient* parameters, const Context<B>& context) {
  const ChunkedToeplitz<T>& m = learning != nullptr ? *learning : product;
  if (learning != nullptr && parameters != nullptr && TermGradients<T>::wanted(m) && (!gradients.a || !gradients.b)) {
    // Terms are read off both.
    const auto own = [&](const MatrixView<T, B>& g) { return Buffer<T, B>(g ? 0 : in.a.rows * in.a.cols, context); };
    const Buffer<T, B> a = own(gradients.a), b = own(gradients.b);
    LowRankGradients<T, B> both = gradients;
    if (!both.a) both.a = {a.data(), in.a.rows, in.a.cols};
    if (!both.b) both.b = {b.data(), in.a.rows, in.a.cols};
    return chunked_low_rank_vjp<T, B>(product, learning, in, cotangents, both, parameters, context);
  }
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
  call.tiles = own_tile_first(near_tiles(m));
  call.turned_tiles = own_tile_first(near_tiles(turned));
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
  std::optional<TermGradients<T>> terms;
  if (call.want_parameters && TermGradients<T>::wanted(m)) terms.emplace(m);
  call.terms = terms ? &*terms : nullptr;
  call.near = true;
  const Index n = call.chunks(), panel = far_features(call, context.scratch_bytes);
  const bool whole = panel == call.m;
  const ChunkSide<T> none;
  const auto sweep = [&](bool upward, bool far) {
    const ChunkSide<T>& sources = !far ? none : upward ? m.lower : m.upper;
    const ChunkSide<T>& below = m.rows_below.basis > 0 && call.want_parameters ? m.rows_below : turned.lower;
    const ChunkSide<T>& rows = !far ? none : upward ? below : turned.upper;
    return ChunkBackwardSweep<T>{{m, sources, upward, n, g}, {turned, rows, upward, n, g}};
  };
  run_sweep(call, sweep(true, whole), parameters, context);
  for (Index k = 0; k < call.m; k += panel) {
    const ChunkBackward<T> part = far_part(call, k, panel);
    if (!whole) run_sweep(part, sweep(true, true), parameters, context);
    run_sweep(part, sweep(false, true), parameters, context);
  }
  if (terms) terms->add_to(parameters->far);
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
