// Gradients of the masked product in chunk-basis form on the host: sweeps, their memory, what parameters get.
// SPDX-License-Identifier: Apache-2.0
//
// chunked_vjp.cpp has the formulas and the kernels.
#include "backend/chunked.hpp"
#include "backend/cpu/chunked_backward_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>
#include <optional>
#include <vector>

namespace espalier::backend {

namespace {

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
      Steps& steps = own(worker);
      if (steps.rows_end != t0) steps.rows_begin = t0;
      steps.rows_end = t1;
      for (Index t = t0; t < t1; ++t) {
        reads(steps.rows_begin, t, near_wanted() ? near_entries(worker, t - t0) : nullptr, scratch(worker));
      }
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
  // Coefficients of a worker's wave; which chunks, without a gap, it has done last.
  struct Steps {
    Index rows_begin = 0, rows_end = 0;
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
    const Index first = block * kScanBlock, last = std::min(call_.size, first + kScanBlock);
    double* sums = far_.data() + block * plan_.derivatives;
    plan_.rows.fetch(last, std::min(call_.size, last + kScanBlock));
    plan_.sources.fetch(last, std::min(call_.size, last + kScanBlock));
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

  void reads(Index begin, Index t, T* near, T* scratch) {
    if (near != nullptr) std::fill_n(near, call_.near_size(), T(0));
    run_reads(call_, sweep_, sweep_.sources.chunk(begin), sweep_.sources.chunk(t),
              call_.want_a ? plan_.sources.read(t) : nullptr, plan_.rows.read(t), near, scratch);
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
  part.set_moment_size();
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
  call.set_moment_size();
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
