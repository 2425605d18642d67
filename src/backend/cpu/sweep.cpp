// Tree sweeps on the host: column panels, states of unfinished nodes in the first-level cache, compiled per instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/sweep.hpp"

#include "backend/cpu/parallel.hpp"
#include "backend/cpu/sweep_panel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>
#include <vector>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/sweep.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/sweep-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {

#define ESPALIER_BY_WIDTH(call) \
  switch (panel.width) {        \
    case 1: {                   \
      constexpr Index W = 1;    \
      return call;              \
    }                           \
    case 16: {                  \
      constexpr Index W = 16;   \
      return call;              \
    }                           \
    case 32: {                  \
      constexpr Index W = 32;   \
      return call;              \
    }                           \
    default: {                  \
      constexpr Index W = 0;    \
      return call;              \
    }                           \
  }
#define ESPALIER_KERNELS(T, suffix)                                                                                       \
  void up_##suffix(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s,              \
                   const SweepPanel<T>& panel) {                                                                          \
    ESPALIER_BY_WIDTH((up<T, W>(f, e, first, last, s, panel)))                                                            \
  }                                                                                                                       \
  void down_##suffix(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s,            \
                     const SweepPanel<T>& panel) {                                                                        \
    ESPALIER_BY_WIDTH((down<T, W>(f, e, first, last, s, panel)))                                                          \
  }                                                                                                                       \
  double down_gradient_##suffix(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s, \
                                const SweepPanel<T>& panel, const SweepPanel<T>& bar, double* edge) {                     \
    ESPALIER_BY_WIDTH((down_gradient<T, W>(f, e, first, last, s, panel, bar, edge)))                                      \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS
#undef ESPALIER_BY_WIDTH

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(up_float);
HWY_EXPORT(up_double);
HWY_EXPORT(down_float);
HWY_EXPORT(down_double);
HWY_EXPORT(down_gradient_float);
HWY_EXPORT(down_gradient_double);

namespace {

template <class T>
constexpr bool single = sizeof(T) == sizeof(float);

template <class T>
void run_up(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s, const SweepPanel<T>& p) {
  if constexpr (single<T>) {
    ESPALIER_DISPATCH(up_float)(f, e, first, last, s, p);
  } else {
    ESPALIER_DISPATCH(up_double)(f, e, first, last, s, p);
  }
}
template <class T>
void run_down(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s,
              const SweepPanel<T>& p) {
  if constexpr (single<T>) {
    ESPALIER_DISPATCH(down_float)(f, e, first, last, s, p);
  } else {
    ESPALIER_DISPATCH(down_double)(f, e, first, last, s, p);
  }
}
template <class T>
double run_gradient(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s,
                    const SweepPanel<T>& x, const SweepPanel<T>& y, double* edge) {
  if constexpr (single<T>) {
    return ESPALIER_DISPATCH(down_gradient_float)(f, e, first, last, s, x, y, edge);
  } else {
    return ESPALIER_DISPATCH(down_gradient_double)(f, e, first, last, s, x, y, edge);
  }
}

// How many columns make a panel and how many panels are alive at once: as much as the scratch memory holds, at least one
// panel of 4 columns. Results do not depend on it: columns never mix.
struct Plan {
  Index width, panels, alive;
  std::size_t bytes() const { return static_cast<std::size_t>(alive) * panel_bytes; }
  std::size_t panel_bytes;
};

template <class F>
Plan make_plan(Index columns, Index widest, std::size_t scratch, const F& bytes_of_width) {
  Plan plan{};
  plan.width = std::max<Index>(1, std::min(widest, columns));
  while (plan.width > 4 && bytes_of_width(plan.width) > scratch) plan.width = (plan.width + 1) / 2;
  plan.panels = (columns + plan.width - 1) / plan.width;
  plan.panel_bytes = bytes_of_width(plan.width);
  const std::size_t fits = plan.panel_bytes == 0 ? static_cast<std::size_t>(plan.panels) : scratch / plan.panel_bytes;
  plan.alive = std::clamp<Index>(static_cast<Index>(std::min<std::size_t>(fits, 1u << 20)), 1, std::max<Index>(1, plan.panels));
  return plan;
}

template <class T>
Plan product_plan(const SweepForest<Cpu>& forest, bool between, Index columns, std::size_t scratch) {
  return make_plan(columns, sweep_panel, scratch, [&](Index width) {
    const Index doubles = between ? 2 * forest.trees * width : 0;
    // Each array comes with 64 bytes to spare.
    return static_cast<std::size_t>(forest.light * width) * sizeof(T) + static_cast<std::size_t>(doubles) * sizeof(double) +
           3 * 64;
  });
}
template <class T>
Plan gradient_plan(const SweepForest<Cpu>& forest, Index columns, std::size_t scratch) {
  return make_plan(columns, gradient_panel, scratch, [&](Index width) {
    return static_cast<std::size_t>(2 * (forest.light + forest.size) * width) * sizeof(T) +
           static_cast<std::size_t>(forest.size + forest.chunks) * sizeof(double) + 6 * 64;
  });
}

// outside[t] = sum of the totals of all other trees: prefix + suffix, for each column.
void exclude_own(double* outside, double* after, Index trees, Index width) {
  for (Index k = 0; k < width; ++k) {
    double sum = 0;
    for (Index t = trees - 1; t >= 0; --t) {
      after[t * width + k] = sum;
      sum += outside[t * width + k];
    }
    sum = 0;
    for (Index t = 0; t < trees; ++t) {
      const double own = outside[t * width + k];
      outside[t * width + k] = sum + after[t * width + k];
      sum += own;
    }
  }
}

Context<Cpu> with_threads_at_most(Context<Cpu> context, Index threads) {
  context.threads = static_cast<int>(std::min<Index>(thread_count(context), threads));
  return context;
}

}  // namespace

template <class T, class B>
void tree_sweep(const SweepForest<B>& forest, const SweepFactors<B>& factors, MatrixView<const T, B> x, MatrixView<T, B> y,
                const Context<B>& context) {
  const bool between = factors.between != 0 && forest.trees > 1;
  const Plan plan = product_plan<T>(forest, between, x.cols, context.scratch_bytes);
  // One thread a panel while there are panels for all of them; else the trees of a few panels are shared out.
  const bool by_panel = plan.panels >= thread_count(context) || forest.chunks == 1;
  const Context<Cpu> inner = by_panel ? with_threads_at_most(context, plan.alive) : context;
  const Index slots = by_panel ? std::min<Index>(plan.alive, thread_count(inner)) : plan.alive;
  const Index suffix_size = forest.light * plan.width, total_size = between ? forest.trees * plan.width : 0;
  Buffer<T, B> suffix(slots * suffix_size);
  Buffer<double, B> outside(slots * total_size), after(slots * total_size);
  const auto panel_of = [&](Index panel, Index slot) {
    const Index first = panel * plan.width, width = std::min(plan.width, x.cols - first);
    return SweepPanel<T>{x.data + first,
                         x.row_stride,
                         y.data + first,
                         y.row_stride,
                         suffix.data() + slot * suffix_size,
                         between ? outside.data() + slot * total_size : nullptr,
                         width};
  };
  if (by_panel) {
    parallel_for(
        inner, plan.panels,
        [&](Index panel, int worker) {
          const SweepPanel<T> p = panel_of(panel, worker);
          run_up(forest, factors, 0, forest.trees, factors.scale, p);
          if (between) exclude_own(p.outside, after.data() + worker * total_size, forest.trees, p.width);
          run_down(forest, factors, 0, forest.trees, factors.scale, p);
        },
        "sweep");
    return;
  }
  for (Index start = 0; start < plan.panels; start += plan.alive) {
    const Index count = std::min(plan.alive, plan.panels - start);
    const auto over_chunks = [&](const auto& run) {
      parallel_for(context, count * forest.chunks, [&](Index task, int) {
        const Index slot = task / forest.chunks, chunk = task % forest.chunks;
        run(forest, factors, forest.chunk_start[chunk], forest.chunk_start[chunk + 1], factors.scale,
            panel_of(start + slot, slot));
      });
    };
    over_chunks(run_up<T>);
    if (between) {
      parallel_for(context, count, [&](Index slot, int) {
        const SweepPanel<T> p = panel_of(start + slot, slot);
        exclude_own(p.outside, after.data() + slot * total_size, forest.trees, p.width);
      });
    }
    over_chunks(run_down<T>);
  }
}

template <class T, class B>
std::size_t tree_sweep_bytes(const SweepForest<B>& forest, bool between, Index columns, std::size_t scratch_bytes) {
  return product_plan<T>(forest, between && forest.trees > 1, columns, scratch_bytes).bytes();
}

template <class T, class B>
double tree_sweep_gradient(const SweepForest<B>& forest, const SweepFactors<B>& factors, MatrixView<const T, B> x,
                           MatrixView<const T, B> y_bar, double* edge_bar, const Context<B>& context) {
  const Plan plan = gradient_plan<T>(forest, x.cols, context.scratch_bytes);
  const Index rows = forest.size * plan.width, suffixes = forest.light * plan.width, slots = plan.alive;
  Buffer<T, B> sums(2 * slots * rows), suffix(2 * slots * suffixes);
  Buffer<double, B> edges(slots * forest.size), values(slots * forest.chunks);
  double value = 0;
  for (Index start = 0; start < plan.panels; start += plan.alive) {
    const Index count = std::min(plan.alive, plan.panels - start);
    parallel_for(
        context, count * forest.chunks,
        [&](Index task, int) {
          const Index slot = task / forest.chunks, chunk = task % forest.chunks;
          const Index first = (start + slot) * plan.width, width = std::min(plan.width, x.cols - first);
          const Index tree = forest.chunk_start[chunk], end = forest.chunk_start[chunk + 1];
          const auto side = [&](MatrixView<const T, B> data, Index which) {
            return SweepPanel<T>{data.data + first,
                                 data.row_stride,
                                 sums.data() + (2 * slot + which) * rows,
                                 width,
                                 suffix.data() + (2 * slot + which) * suffixes,
                                 nullptr,
                                 width};
          };
          const SweepPanel<T> xs = side(x, 0), ys = side(y_bar, 1);
          double* edge = edges.data() + slot * forest.size;
          std::fill(edge + forest.tree_start[tree], edge + forest.tree_start[end], 0.0);
          run_up(forest, factors, tree, end, factors.scale, xs);
          run_up(forest, factors, tree, end, 1.0, ys);
          values.data()[task] = run_gradient(forest, factors, tree, end, factors.scale, xs, ys, edge);
        },
        "sweep gradient");
    // Panels are added in their order, whatever the number alive at once.
    for (Index slot = 0; slot < count; ++slot) {
      for (Index p = 0; p < forest.size; ++p) edge_bar[p] += edges.data()[slot * forest.size + p];
      for (Index chunk = 0; chunk < forest.chunks; ++chunk) value += values.data()[slot * forest.chunks + chunk];
    }
  }
  return value;
}

template <class T, class B>
std::size_t tree_sweep_gradient_bytes(const SweepForest<B>& forest, Index columns, std::size_t scratch_bytes) {
  return gradient_plan<T>(forest, columns, scratch_bytes).bytes();
}

#define ESPALIER_INSTANTIATE(T)                                                                                             \
  template void tree_sweep(const SweepForest<Cpu>&, const SweepFactors<Cpu>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, \
                           const Context<Cpu>&);                                                                            \
  template std::size_t tree_sweep_bytes<T, Cpu>(const SweepForest<Cpu>&, bool, Index, std::size_t);                         \
  template double tree_sweep_gradient(const SweepForest<Cpu>&, const SweepFactors<Cpu>&, MatrixView<const T, Cpu>,          \
                                      MatrixView<const T, Cpu>, double*, const Context<Cpu>&);                              \
  template std::size_t tree_sweep_gradient_bytes<T, Cpu>(const SweepForest<Cpu>&, Index, std::size_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
