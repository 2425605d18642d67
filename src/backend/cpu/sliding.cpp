// Plain products by sliding windows on the host: columns in panels of a few cache lines, rows in waves.
// SPDX-License-Identifier: Apache-2.0
//
// The axis is cut into stretches, a function of the windows alone, so that one panel feeds several threads. A thread that
// begins inside starts twice the longest window early, after which every window is in the block it would be in; the running sum
// of a window without an end begins every stretch with the total before it, whoever runs it. No bit depends on the threads.
#include "backend/sliding.hpp"

#include "backend/cpu/chunk_windows.hpp"
#include "backend/cpu/chunked_call.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/progress_part.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>
#include <atomic>

namespace espalier::backend {

namespace {

template <class T>
constexpr Index kColumns = static_cast<Index>(256 / sizeof(T));
template <class T>
constexpr Index kFewestColumns = static_cast<Index>(64 / sizeof(T));
// Rows that one window passes before the next one does: they and what they read stay in the first cache.
constexpr Index kRows = 64;
// Rows between two looks at the stop token.
constexpr Index kLook = 16 * kRows;
// The shortest stretch; and how many times the rows of an early start a stretch has at least.
constexpr Index kShortest = 4096, kEarlyParts = 4;

Index whole_rows(Index n) {
  return (n + kRows - 1) / kRows * kRows;
}

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

// One side of the mask over the times t = 0 .. n - 1, rows rising (the lower side) or falling.
template <class T>
struct Side {
  WindowPlan<T> plan;
  bool upward;
  Index length, early = 0, stretch;
  std::size_t open;  // the window without an end, which is the last; none: their number

  Side(const std::vector<ChunkWindow<T>>& windows, bool up, Index n)
      : plan(windows), upward(up), length(n), open(windows.size()) {
    Index longest = 0;
    for (std::size_t k = 0; k < windows.size(); ++k) {
      if (windows[k].last == kOpenWindow) {
        open = k;
      } else if (windows[k].last - windows[k].first + 1 > WindowPlan<T>::kDirect) {
        longest = std::max(longest, windows[k].last - windows[k].first + 1);
      }
    }
    early = whole_rows(2 * longest);
    stretch = std::max(kShortest, kEarlyParts * whole_rows(early + plan.depth));
  }
  Index row(Index t) const { return upward ? t : length - 1 - t; }
  Index stretches() const { return plan.windows->empty() ? 1 : std::max<Index>(1, length / stretch); }
  // The last one is up to twice as long.
  Index begin(Index g) const { return g < stretches() ? g * stretch : length; }
  bool has_open() const { return open < plan.windows->size(); }
  // Arrivals that the open window has seen before time t.
  Index seen(Index t) const { return std::max<Index>(0, t - (*plan.windows)[open].first); }
};

// A sum and what rounding leaves out of it, += (value, rest).
template <class T>
void add_compensated(T value, T rest, T& sum, T& low) {
  const T old = sum, more = value + (low + rest);
  sum = old + more;
  low = more - (sum - old);
}

// Totals of an open window's arrivals in one stretch after the other: [stretches, 2, columns], sums and what rounding left out.
// On return of `carry` those of all stretches before each.
template <class T>
void stretch_total(const Side<T>& side, Index g, MatrixView<const T, Cpu> x, T* total) {
  const Index c = x.cols;
  std::fill_n(total, 2 * c, T(0));
  for (Index u = side.seen(side.begin(g)); u < side.seen(side.begin(g + 1)); ++u) {
    const T* p = x.row(side.row(u));
    for (Index k = 0; k < c; ++k) add_compensated(p[k], T(0), total[k], total[c + k]);
  }
}
template <class T>
void carry(Index stretches, Index c, T* totals) {
  for (Index k = 0; k < c; ++k) {
    T sum = 0, low = 0;
    for (Index g = 0; g < stretches; ++g) {
      T* at = totals + 2 * g * c + k;
      const T value = at[0], rest = at[c];
      at[0] = sum, at[c] = low;
      add_compensated(value, rest, sum, low);
    }
  }
}

// What a task has: columns first .. of x and y, stretches of one side; y = or += its part.
template <class T>
struct Task {
  const Side<T>* side;
  Index first_stretch, last_stretch;
  MatrixView<const T, Cpu> x;
  MatrixView<T, Cpu> y;
  const T* before;  // see `carry`; at this task's first column, rows of `width`
  Index width;
  bool add;
};

// note(rows) is called after some rows are done.
template <class T, class F>
void run_stretches(const Task<T>& task, T* memory, const F& note) {
  const Side<T>& side = *task.side;
  const WindowPlan<T>& plan = side.plan;
  const Index n = side.length, c = task.x.cols, step = row_elements<T>(c), ring = kRows + plan.depth;
  const Index from = side.begin(task.first_stretch), to = side.begin(task.last_stretch),
              start = std::max<Index>(0, from - side.early);
  T* vectors = memory;
  T* out = vectors + ring * step;
  T* state = out + kRows * step;
  std::fill_n(vectors, ring * step, T(0));
  std::fill_n(state, plan.vectors * step, T(0));
  const auto load = [&](Index t) { std::copy_n(task.x.row(side.row(t)), c, vectors + t % ring * step); };
  for (Index t = std::max<Index>(0, start - plan.depth); t < start; ++t) load(t);
  Index stretch = task.first_stretch, looked = start;
  for (Index t0 = start; t0 < to; t0 += kRows) {
    const Index t1 = std::min(n, t0 + kRows);
    if (t0 >= from && stretch < task.last_stretch && t0 == side.begin(stretch)) {
      if (side.has_open() && side.seen(t0) > 0) {
        T* sum = state + plan.places[side.open] * step;
        std::copy_n(task.before + 2 * stretch * task.width, c, sum);
        std::copy_n(task.before + (2 * stretch + 1) * task.width, c, sum + step);
      }
      ++stretch;
    }
    for (Index t = t0; t < t1; ++t) load(t);
    run_windows<T>({&plan, step, ring, vectors, state, t0, t1, out, nullptr, nullptr}, 0, step);
    for (Index t = std::max(t0, from); t < t1; ++t) {
      T* y = task.y.row(side.row(t));
      const T* result = out + (t - t0) * step;
      for (Index k = 0; k < c; ++k) y[k] = task.add ? y[k] + result[k] : result[k];
    }
    if (t1 - looked < kLook && t1 < to) continue;
    note(std::max<Index>(0, t1 - std::max(looked, from)));
    looked = t1;
  }
}

// Columns of a panel and how many workers at once, so that they fit in the scratch memory; no number depends on either.
struct Panels {
  Index columns, workers, parts;  // parts: tasks of a panel
};
template <class T>
Panels panels_of(const Side<T>& lower, const Side<T>& upper, Index columns, Index threads, std::size_t bytes) {
  const auto each = [&](Index n) { return std::max(panel_elements(lower.plan, n), panel_elements(upper.plan, n)); };
  const auto room = std::max<Index>(1, static_cast<Index>(bytes / sizeof(T)));
  const Index stretches = std::max(lower.stretches(), upper.stretches()), wanted = std::min(threads, kMaxWorkers);
  const auto count = [&](Index n) { return (columns + n - 1) / n; };
  Panels p{std::min(columns, kColumns<T>), 1, 1};
  while (p.columns > 1 && each(p.columns) > room) p.columns = (p.columns + 1) / 2;
  // Narrower panels are dearer a column: only where stretches do not give every thread a task.
  while (p.columns > kFewestColumns<T> && count(p.columns) * stretches < wanted) {
    p.columns = std::max(kFewestColumns<T>, (p.columns + 1) / 2);
  }
  p.parts = std::clamp<Index>((wanted + count(p.columns) - 1) / count(p.columns), 1, stretches);
  p.workers = std::clamp<Index>(room / each(p.columns), 1, std::min(count(p.columns) * p.parts, wanted));
  return p;
}

// y = or += one side, in tasks of a panel of columns and some stretches each.
template <class T>
void run_side(const Side<T>& side, const Panels& p, bool add, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, T* memory,
              Index each, const Context<Cpu>& context) {
  const Index stretches = side.stretches(), parts = std::min(p.parts, stretches), panels = (x.cols + p.columns - 1) / p.columns;
  // Where there are several stretches an open window's totals take 2 numbers a column and stretch.
  const bool carries = stretches > 1 && side.has_open();
  Buffer<T, Cpu> before(carries ? 2 * stretches * x.cols : 0);
  if (carries) {
    parallel_for(context, stretches, [&](Index g, int) { stretch_total(side, g, x, before.data() + 2 * g * x.cols); });
    carry(stretches, x.cols, before.data());
  }
  std::atomic<Index> done{0};
  const double all = static_cast<double>(side.length) * static_cast<double>(x.cols);
  parallel_for(context, panels * parts, [&](Index t, int worker) {
    const Index first = t / parts * p.columns, part = t % parts, columns = std::min(p.columns, x.cols - first);
    const Task<T> task{&side,
                       stretches * part / parts,
                       stretches * (part + 1) / parts,
                       x.columns(first, columns),
                       y.columns(first, columns),
                       carries ? before.data() + first : nullptr,
                       x.cols,
                       add};
    run_stretches(task, memory + worker * each, [&](Index rows) {
      const Index now = done.fetch_add(rows * columns) + rows * columns;
      check_cancelled(context);
      // Worker 0 is the calling thread.
      if (worker == 0 && rows > 0 && context.progress != nullptr && context.progress->callback) {
        context.progress->callback("windows", static_cast<double>(now) / all);
      }
    });
  });
}

}  // namespace

template <class T, class B>
void sliding_multiply(const SlidingToeplitz<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  if (x.cols == 0 || m.length == 0) return;
  const Side<T> lower(m.lower, true, m.length), upper(m.upper, false, m.length);
  const Panels p = panels_of(lower, upper, x.cols, thread_count(context), context.scratch_bytes);
  const Index each = std::max(panel_elements(lower.plan, p.columns), panel_elements(upper.plan, p.columns));
  const Buffer<T, Cpu> memory(p.workers * each);
  const bool both = !m.upper.empty();
  for (const Side<T>* side : {&lower, &upper}) {
    const bool second = side == &upper;
    if (second && !both) continue;
    const ProgressPart part(context, second ? 0.5 : 0, both && !second ? 0.5 : 1);
    Context<Cpu> inner = part.context();
    inner.threads = static_cast<int>(p.workers);
    run_side<T>(*side, p, second, x, y, memory.data(), each, inner);
  }
}

template <class T>
std::size_t sliding_bytes(const SlidingToeplitz<T>& m, Index columns) {
  const Side<T> lower(m.lower, true, m.length), upper(m.upper, false, m.length);
  const Index c = std::max<Index>(1, columns);
  const auto each = [&](Index n) { return std::max(panel_elements(lower.plan, n), panel_elements(upper.plan, n)); };
  // More threads may mean more workers with narrower panels: the most memory of either.
  std::size_t most = 0;
  for (Index threads = 1; threads <= kMaxWorkers; ++threads) {
    const Panels p = panels_of(lower, upper, c, threads, Context<Cpu>{}.scratch_bytes);
    most = std::max(most, static_cast<std::size_t>(p.workers * each(p.columns)));
  }
  const auto carried = static_cast<std::size_t>(2 * std::max(lower.stretches(), upper.stretches()) * c);
  return (most + carried) * sizeof(T) + 4096;
}

#define ESPALIER_INSTANTIATE(T)                                                                           \
  template void sliding_multiply(const SlidingToeplitz<T>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, \
                                 const Context<Cpu>&);                                                    \
  template std::size_t sliding_bytes(const SlidingToeplitz<T>&, Index);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
