// The sweep kernels, once per instruction set (included again and again by foreach_target).
// SPDX-License-Identifier: Apache-2.0
#if defined(ESPALIER_SWEEP_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_SWEEP_INL
#undef ESPALIER_SWEEP_INL
#else
#define ESPALIER_SWEEP_INL
#endif

#include "backend/cpu/sweep_panel.hpp"
#include "backend/sweep.hpp"

#include <algorithm>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

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

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
