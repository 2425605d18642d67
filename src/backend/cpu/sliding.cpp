// Plain products by sliding windows on the host: columns in panels of one cache line, rows in waves.
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
constexpr Index kColumns = static_cast<Index>(64 / sizeof(T));
// Rows that one window passes before the next one does: a wave of one cache line each stays in the first cache.
constexpr Index kRows = 64;

template <class T>
Index panel_elements(const WindowPlan<T>& plan, Index columns) {
  return align_elements<T>((2 * kRows + plan.depth + plan.vectors) * columns);
}

// y = or += the part of one side, for a panel of columns; upward: the lower side.
template <class T>
void run_side(const WindowPlan<T>& plan, bool upward, bool add, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, T* memory) {
  const Index n = x.rows, c = x.cols, ring = kRows + plan.depth;
  T* vectors = memory;
  T* out = vectors + ring * c;
  T* state = out + kRows * c;
  const auto row = [&](Index t) { return upward ? t : n - 1 - t; };
  for (Index t0 = 0; t0 < n; t0 += kRows) {
    const Index t1 = std::min(n, t0 + kRows);
    for (Index t = t0; t < t1; ++t) std::copy_n(x.row(row(t)), c, vectors + t % ring * c);
    run_windows<T>({&plan, c, ring, vectors, state, t0, t1, out, nullptr, nullptr}, 0, c);
    for (Index t = t0; t < t1; ++t) {
      T* to = y.row(row(t));
      const T* from = out + (t - t0) * c;
      for (Index k = 0; k < c; ++k) to[k] = add ? to[k] + from[k] : from[k];
    }
  }
}

}  // namespace

template <class T, class B>
void sliding_multiply(const SlidingToeplitz<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  const WindowPlan<T> lower(m.lower), upper(m.upper);
  const Index panels = (x.cols + kColumns<T> - 1) / kColumns<T>, width = std::min(x.cols, kColumns<T>);
  Context<Cpu> inner = context;
  const Index workers = std::min<Index>({panels, thread_count(context), kMaxWorkers});
  inner.threads = static_cast<int>(std::max<Index>(1, workers));
  const Index each = std::max(panel_elements(lower, width), panel_elements(upper, width));
  Buffer<T, Cpu> memory(workers * each);
  parallel_for(inner, panels, [&](Index panel, int worker) {
    const Index first = panel * kColumns<T>, columns = std::min(kColumns<T>, x.cols - first);
    T* at = memory.data() + worker * each;
    run_side(lower, true, false, x.columns(first, columns), y.columns(first, columns), at);
    if (!m.upper.empty()) run_side(upper, false, true, x.columns(first, columns), y.columns(first, columns), at);
  });
}

template <class T>
std::size_t sliding_bytes(const SlidingToeplitz<T>& m, Index columns) {
  const Index width = std::min(columns, kColumns<T>);
  const Index workers = std::min((columns + kColumns<T> - 1) / kColumns<T>, kMaxWorkers);
  const Index each = std::max(panel_elements(WindowPlan<T>(m.lower), width), panel_elements(WindowPlan<T>(m.upper), width));
  return static_cast<std::size_t>(workers * each) * sizeof(T) + 4096;
}

#define ESPALIER_INSTANTIATE(T)                                                                           \
  template void sliding_multiply(const SlidingToeplitz<T>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, \
                                 const Context<Cpu>&);                                                    \
  template std::size_t sliding_bytes(const SlidingToeplitz<T>&, Index);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
