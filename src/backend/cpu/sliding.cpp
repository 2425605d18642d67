// Plain products by sliding windows on the host: columns in panels of a few cache lines, rows in waves.
// SPDX-License-Identifier: Apache-2.0
#include "backend/sliding.hpp"

#include "backend/cpu/chunk_windows.hpp"
#include "backend/cpu/chunked_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>

namespace espalier::backend {

namespace {

template <class T>
constexpr Index kColumns = static_cast<Index>(256 / sizeof(T));
// Rows that one window passes before the next one does: they and what they read stay in the first cache.
constexpr Index kRows = 64;

// Elements of a panel's row: whole vectors, unless that were more than four times as many.
template <class T>
Index row_elements(Index columns) {
  const Index padded = tile_geometry(sizeof(T)).padded_lanes(columns);
  return padded <= 4 * columns ? padded : columns;
}
template <class T>
Index panel_elements(const WindowPlan<T>& plan, Index columns) {
  return align_elements<T>((2 * kRows + plan.depth + plan.vectors) * row_elements<T>(columns));
}

// y = or += the part of one side, for a panel of columns; upward: the lower side.
template <class T>
void run_side(const WindowPlan<T>& plan, bool upward, bool add, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, T* memory) {
  const Index n = x.rows, c = x.cols, step = row_elements<T>(c), ring = kRows + plan.depth;
  T* vectors = memory;
  T* out = vectors + ring * step;
  T* state = out + kRows * step;
  std::fill_n(vectors, ring * step, T(0));
  const auto row = [&](Index t) { return upward ? t : n - 1 - t; };
  for (Index t0 = 0; t0 < n; t0 += kRows) {
    const Index t1 = std::min(n, t0 + kRows);
    for (Index t = t0; t < t1; ++t) std::copy_n(x.row(row(t)), c, vectors + t % ring * step);
    run_windows<T>({&plan, step, ring, vectors, state, t0, t1, out, nullptr, nullptr}, 0, step);
    for (Index t = t0; t < t1; ++t) {
      T* to = y.row(row(t));
      const T* from = out + (t - t0) * step;
      for (Index k = 0; k < c; ++k) to[k] = add ? to[k] + from[k] : from[k];
    }
  }
}

// Columns of a panel and how many panels at once, so that they fit in the scratch memory; no number depends on either.
struct Panels {
  Index columns, workers;
};
template <class T>
Panels panels_of(const WindowPlan<T>& lower, const WindowPlan<T>& upper, Index columns, Index threads, std::size_t bytes) {
  const auto each = [&](Index n) { return std::max(panel_elements(lower, n), panel_elements(upper, n)); };
  const auto room = std::max<Index>(1, static_cast<Index>(bytes / sizeof(T)));
  Panels p{std::min(columns, kColumns<T>), 1};
  while (p.columns > 1 && each(p.columns) > room) p.columns = (p.columns + 1) / 2;
  p.workers = std::clamp<Index>(room / each(p.columns), 1,
                                std::min<Index>({(columns + p.columns - 1) / p.columns, threads, kMaxWorkers}));
  return p;
}

}  // namespace

template <class T, class B>
void sliding_multiply(const SlidingToeplitz<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  if (x.cols == 0 || m.length == 0) return;
  const WindowPlan<T> lower(m.lower), upper(m.upper);
  const Panels p = panels_of(lower, upper, x.cols, thread_count(context), context.scratch_bytes);
  Context<Cpu> inner = context;
  inner.threads = static_cast<int>(p.workers);
  const Index each = std::max(panel_elements(lower, p.columns), panel_elements(upper, p.columns));
  Buffer<T, Cpu> memory(p.workers * each);
  parallel_for(inner, (x.cols + p.columns - 1) / p.columns, [&](Index panel, int worker) {
    const Index first = panel * p.columns, columns = std::min(p.columns, x.cols - first);
    T* at = memory.data() + worker * each;
    run_side(lower, true, false, x.columns(first, columns), y.columns(first, columns), at);
    if (!m.upper.empty()) run_side(upper, false, true, x.columns(first, columns), y.columns(first, columns), at);
  });
}

template <class T>
std::size_t sliding_bytes(const SlidingToeplitz<T>& m, Index columns) {
  const WindowPlan<T> lower(m.lower), upper(m.upper);
  const Panels p = panels_of(lower, upper, std::max<Index>(1, columns), kMaxWorkers, Context<Cpu>{}.scratch_bytes);
  const Index each = std::max(panel_elements(lower, p.columns), panel_elements(upper, p.columns));
  return static_cast<std::size_t>(p.workers * each) * sizeof(T) + 4096;
}

#define ESPALIER_INSTANTIATE(T)                                                                           \
  template void sliding_multiply(const SlidingToeplitz<T>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, \
                                 const Context<Cpu>&);                                                    \
  template std::size_t sliding_bytes(const SlidingToeplitz<T>&, Index);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
