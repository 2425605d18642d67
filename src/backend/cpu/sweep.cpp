// Tree sweeps on the host: column panels, states of unfinished nodes in the first-level cache, compiled per instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/sweep.hpp"

#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>
#include <vector>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/sweep.cpp"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#ifndef ESPALIER_SWEEP_ARGUMENTS
#define ESPALIER_SWEEP_ARGUMENTS
namespace espalier::backend {

inline constexpr Index sweep_levels = 33;    // slots of unfinished nodes: levels 0 .. 31, and one to spare
inline constexpr Index sweep_panel = 32;     // columns of a product's panel: 128 bytes of float, two cache lines a row
inline constexpr Index gradient_panel = 16;  // the gradient keeps four rows a node and panel
inline constexpr Index sweep_prefetch = 12;  // rows ahead: 12 x 20 cycles cover a miss to main memory

// One panel of one operand: rows by node, except `suffix` (by light child, position order).
template <class T>
struct SweepPanel {
  const T* x = nullptr;
  Index x_stride = 0;
  T* u = nullptr;  // up: subtree sums; after a product's down sweep: the result
  Index u_stride = 0;
  T* suffix = nullptr;        // [light, width]
  double* outside = nullptr;  // [trees, width]: up: sums of x over a tree; down: over all other trees; null: not wanted
  Index width = 0;
};

}  // namespace espalier::backend
#endif

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE auto load([[maybe_unused]] D d, const double* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE auto load([[maybe_unused]] D d, const float* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), p));
}
template <class D, class V>
HWY_INLINE void store(D d, V v, double* p) {
  hn::StoreU(v, d, p);
}
template <class D, class V>
HWY_INLINE void store([[maybe_unused]] D d, V v, float* p) {
  const hn::Rebind<float, D> f;
  hn::StoreU(hn::DemoteTo(f, v), f, p);
}

// Calls f(tag, column) for whole vectors, then for single columns.
template <class F>
HWY_INLINE void over_columns(Index width, const F& f) {
  const hn::ScalableTag<double> d;
  const auto lanes = static_cast<int>(hn::Lanes(d)), columns = static_cast<int>(width);
  const int whole = columns - columns % lanes;
  for (int k = 0; k < whole; k += lanes) f(d, k);
  const hn::CappedTag<double, 1> one;
  for (int k = whole; k < columns; ++k) f(one, k);
}

// e v, as (v or 0) + factor v.
template <class D, class V>
HWY_INLINE V edge_times(D d, double factor, double keep, V v) {
  return hn::MulAdd(hn::Set(d, factor), v, hn::Mul(hn::Set(d, keep), v));
}

template <class T>
HWY_INLINE void prefetch_row(const T* p, Index width) {
  hwy::Prefetch(p);
  if (static_cast<std::size_t>(width) * sizeof(T) > 64) hwy::Prefetch(reinterpret_cast<const char*>(p) + 64);
}

// Children before parents over the trees first .. last - 1. acc[level] holds the sum of e u over the children done so far of
// the unfinished node on that level; the last child comes first here and starts it.
template <class T, Index W>
void up(const SweepForest<Cpu>& forest, const SweepFactors<Cpu>& factors, Index first, Index last, double x_scale,
        const SweepPanel<T>& panel) {
  const Index width = W > 0 ? W : std::min(panel.width, sweep_panel);
  HWY_ALIGN double acc[sweep_levels * sweep_panel];
  HWY_ALIGN double total[sweep_panel] = {};
  for (Index t = last - 1; t >= first; --t) {
    const Index root = forest.tree_start[t], end = forest.tree_start[t + 1];
    T* suffix = panel.suffix + forest.light_start[t + 1] * width;
    if (panel.outside) std::fill_n(total, width, 0.0);
    for (Index p = end - 1; p >= root; --p) {
      const Index node = forest.node[p];
      if (p >= sweep_prefetch) prefetch_row(panel.x + forest.node[p - sweep_prefetch] * panel.x_stride, width);
      const std::uint8_t shape = forest.shape[p];
      double* own = acc + (shape & sweep_level) * sweep_panel;
      const bool leaf = shape & sweep_leaf, only_store = p == root, light = !(shape & sweep_last_child) && !only_store;
      double* parent = light ? own - sweep_panel : own;
      if (light) suffix -= width;
      const double factor = only_store ? 0 : factors.factor[p];
      const double keep = !only_store && factors.near_one[p] ? 1 : 0;
      const T* x = panel.x + node * panel.x_stride;
      T* u = panel.u + node * panel.u_stride;
      if (panel.outside) {
        over_columns(width, [&](auto d, Index k)
                                HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, total + k), load(d, x + k)), d, total + k); });
      }
      over_columns(width, [&](auto d, Index k) HWY_ATTR {
        auto v = hn::Mul(hn::Set(d, x_scale), load(d, x + k));
        if (!leaf) v = hn::Add(v, hn::LoadU(d, own + k));
        store(d, v, u + k);
        const auto term = edge_times(d, factor, keep, v);
        if (light) {
          const auto later = hn::LoadU(d, parent + k);
          store(d, later, suffix + k);
          hn::StoreU(hn::Add(later, term), d, parent + k);
        } else {
          hn::StoreU(term, d, parent + k);
        }
      });
    }
    if (panel.outside) std::copy_n(total, width, panel.outside + t * width);
  }
}

// What the down sweeps share: z = the sum outside of p's subtree, seen from the parent; keeps before[level] = x + e z + the sum
// of e u over the children already passed of the unfinished node on that level. Returns e z.
template <class D, class T>
HWY_INLINE auto descend(D d, double factor, double keep, bool light, const T* suffix, hn::Vec<D> u, double* parent,
                        hn::Vec<D>* z) {
  *z = hn::LoadU(d, parent);
  if (light) {
    hn::StoreU(hn::Add(*z, edge_times(d, factor, keep, u)), d, parent);
    *z = hn::Add(*z, load(d, suffix));
  }
  return edge_times(d, factor, keep, *z);
}

// Parents before children: u in place becomes the result.
template <class T, Index W>
void down(const SweepForest<Cpu>& forest, const SweepFactors<Cpu>& factors, Index first, Index last, double x_scale,
          const SweepPanel<T>& panel) {
  const Index width = W > 0 ? W : std::min(panel.width, sweep_panel);
  HWY_ALIGN double before[sweep_levels * sweep_panel];
  for (Index t = first; t < last; ++t) {
    const Index root = forest.tree_start[t], end = forest.tree_start[t + 1];
    const T* suffix = panel.suffix + forest.light_start[t] * width;
    const double* outside = panel.outside ? panel.outside + t * width : nullptr;
    for (Index p = root; p < end; ++p) {
      const Index node = forest.node[p];
      if (p + sweep_prefetch < forest.size) {
        const Index ahead = forest.node[p + sweep_prefetch];
        prefetch_row(panel.x + ahead * panel.x_stride, width);
        prefetch_row(panel.u + ahead * panel.u_stride, width);
      }
      const std::uint8_t shape = forest.shape[p];
      double* own = before + (shape & sweep_level) * sweep_panel;
      const bool leaf = shape & sweep_leaf, at_root = p == root, light = !(shape & sweep_last_child);
      double* parent = light ? own - sweep_panel : own;
      const T* x = panel.x + node * panel.x_stride;
      T* y = panel.u + node * panel.u_stride;
      const double factor = at_root ? 0 : factors.factor[p], keep = !at_root && factors.near_one[p] ? 1 : 0;
      over_columns(width, [&](auto d, Index k) HWY_ATTR {
        using V = hn::Vec<decltype(d)>;
        V u = load(d, y + k), inner = hn::Zero(d), z;
        if (!at_root) {
          inner = descend(d, factor, keep, light, suffix + k, u, parent + k, &z);
          u = hn::Add(u, inner);
        }
        if (!leaf) hn::StoreU(hn::MulAdd(hn::Set(d, x_scale), load(d, x + k), inner), d, own + k);
        if (outside) u = hn::MulAdd(hn::Set(d, factors.between), hn::LoadU(d, outside + k), u);
        if (outside || !at_root) store(d, u, y + k);
      });
      if (light && !at_root) suffix += width;
    }
  }
}

// The down sweep of both operands of the gradient at once: edge[p] += e sum_c (U' Z + U Z'); returns sum_ic y_bar_ic (M x)_ic.
template <class T, Index W>
double down_gradient(const SweepForest<Cpu>& forest, const SweepFactors<Cpu>& factors, Index first, Index last, double x_scale,
                     const SweepPanel<T>& xs, const SweepPanel<T>& ys, double* edge) {
  const Index width = W > 0 ? W : std::min(xs.width, gradient_panel);
  HWY_ALIGN double before_x[sweep_levels * sweep_panel], before_y[sweep_levels * sweep_panel];
  double value = 0;
  for (Index t = first; t < last; ++t) {
    const Index root = forest.tree_start[t], end = forest.tree_start[t + 1];
    Index light_child = forest.light_start[t];
    for (Index p = root; p < end; ++p) {
      const Index node = forest.node[p];
      const std::uint8_t shape = forest.shape[p];
      const bool leaf = shape & sweep_leaf, at_root = p == root, light = !(shape & sweep_last_child);
      const Index level = (shape & sweep_level) * sweep_panel, from = light ? level - sweep_panel : level;
      const T* x = xs.x + node * xs.x_stride;
      const T* y = ys.x + node * ys.x_stride;
      const double factor = at_root ? 0 : factors.factor[p], keep = !at_root && factors.near_one[p] ? 1 : 0;
      double through = 0, at_node = 0;
      over_columns(width, [&](auto d, Index k) HWY_ATTR {
        using V = hn::Vec<decltype(d)>;
        V u = load(d, xs.u + node * xs.u_stride + k), u_bar = load(d, ys.u + node * ys.u_stride + k);
        const V x_row = hn::Mul(hn::Set(d, x_scale), load(d, x + k)), y_row = load(d, y + k);
        V inner = hn::Zero(d), inner_bar = inner, z, z_bar;
        if (!at_root) {
          inner = descend(d, factor, keep, light, xs.suffix + light_child * width + k, u, before_x + from + k, &z);
          inner_bar = descend(d, factor, keep, light, ys.suffix + light_child * width + k, u_bar, before_y + from + k, &z_bar);
          through += hn::GetLane(hn::SumOfLanes(d, hn::MulAdd(u_bar, inner, hn::Mul(u, inner_bar))));
        }
        at_node += hn::GetLane(hn::SumOfLanes(d, hn::Mul(y_row, hn::Add(u, inner))));
        if (!leaf) {
          hn::StoreU(hn::Add(x_row, inner), d, before_x + level + k);
          hn::StoreU(hn::Add(y_row, inner_bar), d, before_y + level + k);
        }
      });
      value += at_node;
      if (!at_root) edge[p] += through;
      if (light && !at_root) ++light_child;
    }
  }
  return value;
}

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
    HWY_DYNAMIC_DISPATCH(up_float)(f, e, first, last, s, p);
  } else {
    HWY_DYNAMIC_DISPATCH(up_double)(f, e, first, last, s, p);
  }
}
template <class T>
void run_down(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s,
              const SweepPanel<T>& p) {
  if constexpr (single<T>) {
    HWY_DYNAMIC_DISPATCH(down_float)(f, e, first, last, s, p);
  } else {
    HWY_DYNAMIC_DISPATCH(down_double)(f, e, first, last, s, p);
  }
}
template <class T>
double run_gradient(const SweepForest<Cpu>& f, const SweepFactors<Cpu>& e, Index first, Index last, double s,
                    const SweepPanel<T>& x, const SweepPanel<T>& y, double* edge) {
  if constexpr (single<T>) {
    return HWY_DYNAMIC_DISPATCH(down_gradient_float)(f, e, first, last, s, x, y, edge);
  } else {
    return HWY_DYNAMIC_DISPATCH(down_gradient_double)(f, e, first, last, s, x, y, edge);
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
