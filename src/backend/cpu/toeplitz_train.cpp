// ToeplitzTrain on the host: planes of one column each, panels of the last axis, the register tile.
// SPDX-License-Identifier: Apache-2.0
#include "backend/toeplitz_train.hpp"

#include <algorithm>
#include <utility>

#include "backend/block_product.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

namespace espalier::backend {

namespace {

// Places of the last axis that travel together: the widest panel of any instruction set.
constexpr Index kLanes = kBlockPadding;
// Rows that share the numbers of x while they are in the cache, and rows that share the ends of a band.
constexpr Index kRowChunk = 96;
// Inner axes up to this size have their matrices formed, all right tables side by side: one product of depth Q n instead of Q
// short ones. (n = 32: 4 KiB a table.)
constexpr Index kFormed = 32;
// Fewer groups of columns than this: threads share panels instead.
constexpr Index kFewGroups = 4;
// A report cannot know the thread count: its bound on memory counts this many workers.
constexpr Index kReportedWorkers = 64;

constexpr Index rounded_up(Index n, Index unit) {
  return (n + unit - 1) / unit * unit;
}
constexpr std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

// The j < n for which i - j lies in first .. last for some i in low .. high - 1.
struct Range {
  Index begin, end;
};
Range reached(Index low, Index high, Index first, Index last, Index n) {
  const Index begin = std::clamp<Index>(low - last, 0, n);
  return {begin, std::clamp<Index>(high - first, begin, n)};
}

}  // namespace

template <class T>
struct ToeplitzTrain<T>::Scratch {
  Buffer<T, Cpu> between[2], planes;
};

template <class T>
ToeplitzTrain<T>::ToeplitzTrain(const std::vector<Index>& sizes, std::vector<TrainAxis<T>> axes) : axes_(std::move(axes)) {
  std::vector<Index> step(sizes.size(), 1);
  for (std::size_t t = sizes.size(); t-- > 1;) step[t - 1] = step[t] * sizes[t];
  for (const TrainAxis<T>& a : axes_) length_ *= a.size;
  const TrainAxis<T>& lanes = axes_.back();
  rows_ = length_ / lanes.size;
  token_step_ = step[at(lanes.axis)];
  // A cache line more than a power of two: rows of a plane would share the few places that one address has in the cache.
  stride_ = rounded_up(lanes.size, 16) + 16;
  // Neither multiples of 4 KiB: an odd number of cache lines.
  plane_ = rounded_up(rows_ * stride_, 32) + 16;
  table_stride_ = lanes.size + rounded_up(lanes.size, kLanes);
  token_.reserve(at(rows_));
  for (Index row = 0; row < rows_; ++row) {
    Index rest = row, token = 0;
    for (std::size_t t = axes_.size() - 1; t-- > 0;) {
      token += rest % axes_[t].size * step[at(axes_[t].axis)];
      rest /= axes_[t].size;
    }
    token_.push_back(token);
  }
  for (const TrainAxis<T>& a : axes_) between_ = std::max(between_, a.left * rows_ * kLanes);
  for (const bool transpose : {false, true}) {
    for (std::size_t t = 0; t < axes_.size(); ++t) {
      const TrainAxis<T>& a = axes_[t];
      const Index n = a.size, width = 2 * n - 1, count = a.left * a.right;
      const bool last = t + 1 == axes_.size();
      const Index stride = last ? table_stride_ : width;
      Tables f;
      f.first = transpose ? -a.last : a.first;
      f.last = transpose ? -a.first : a.last;
      f.values.assign(at(count * stride), T(0));
      for (Index k = 0; k < count; ++k) {
        const auto from = a.values.begin() + k * width;
        const auto to = f.values.begin() + k * stride;
        transpose ? std::reverse_copy(from, from + width, to) : std::copy(from, from + width, to);
      }
      if (!last && n <= kFormed && a.right > 1) {
        f.formed.resize(at(count * n * n));
        for (Index p = 0; p < a.left; ++p) {
          for (Index i = 0; i < n; ++i) {
            for (Index k = 0; k < a.right * n; ++k) {
              f.formed[at((p * n + i) * a.right * n + k)] = f.values[at((p * a.right + k / n) * width + i - k % n + n - 1)];
            }
          }
        }
      }
      tables_[transpose ? 1 : 0].push_back(std::move(f));
    }
  }
}

// out[b, p, i, lane] = sum_j x[b, i, j] v_p[lane - j] for the lanes of one panel; i: along the axis before the last, b: along
// those before that.
template <class T>
void ToeplitzTrain<T>::last_axis(Index panel, bool transpose, const T* x_plane, T* out) const {
  const Tables& f = tables_[transpose ? 1 : 0].back();
  const Index n = axes_.back().size, left = axes_.back().left;
  // With one table rows of all b follow one another.
  const Index inner = left == 1 ? rows_ : axes_[axes_.size() - 2].size, outer = rows_ / inner;
  const Index lane0 = panel * kLanes, lanes = std::min(kLanes, n - lane0);
  const Range j = reached(lane0, lane0 + lanes, f.first, f.last, n);
  // The next axes read whole panels of several rows at once.
  const Index cols = axes_.size() == 2 ? lanes : kLanes;
  for (Index b = 0; b < outer; ++b) {
    for (Index i = 0; i < inner; i += kRowChunk) {
      const Index rows = std::min(kRowChunk, inner - i);
      for (Index p = 0; p < left; ++p) {
        block_product<T>(rows, cols, j.end - j.begin, x_plane + (b * inner + i) * stride_ + j.begin, stride_, 1,
                         f.values.data() + p * table_stride_ + n - 1 + lane0 - j.begin, -1,
                         out + ((b * left + p) * inner + i) * kLanes, kLanes, false);
      }
    }
  }
}

// out[b', p, i', i, after] = sum_q sum_j u_pq[i - j] in[b', i', q, j, after], i' along the axis before this one.
template <class T>
void ToeplitzTrain<T>::inner_axis(std::size_t t, Index panel, bool transpose, const T* in, T* out) const {
  const TrainAxis<T>& a = axes_[t];
  const Tables& f = tables_[transpose ? 1 : 0][t];
  const Index n = a.size, left = a.left, right = a.right, width = 2 * n - 1;
  Index after = 1, before = 1;
  for (std::size_t s = t + 1; s + 1 < axes_.size(); ++s) after *= axes_[s].size;
  for (std::size_t s = 0; s < t; ++s) before *= axes_[s].size;
  const Index previous = t > 0 ? axes_[t - 1].size : 1, step = after * kLanes;
  const Index lanes = std::min(kLanes, axes_.back().size - panel * kLanes);
  const Index cols = axes_.size() == 2 ? lanes : step;
  const bool whole = f.first <= 1 - n && f.last >= n - 1;
  const Index chunk = whole ? n : kRowChunk / 2;
  for (Index b = 0; b < before; ++b) {
    const T* from = in + b * right * n * step;
    for (Index p = 0; p < left; ++p) {
      T* to = out + ((b / previous * left + p) * previous + b % previous) * n * step;
      if (!f.formed.empty()) {
        block_product<T>(n, cols, right * n, f.formed.data() + p * n * right * n, right * n, 1, from, step, to, step, false);
        continue;
      }
      for (Index i = 0; i < n; i += chunk) {
        const Index rows = std::min(chunk, n - i);
        const Range j = reached(i, i + rows, f.first, f.last, n);
        for (Index q = 0; q < right; ++q) {
          const T* u = f.values.data() + (p * right + q) * width + n - 1;
          block_product<T>(rows, cols, j.end - j.begin, u + i - j.begin, 1, -1, from + (q * n + j.begin) * step, step,
                           to + i * step, step, q > 0);
        }
      }
    }
  }
}

template <class T>
void ToeplitzTrain<T>::make_panel(Index panel, bool transpose, const T* x_plane, T* y_plane, Scratch& scratch) const {
  T* from = scratch.between[0].data();
  T* to = scratch.between[1].data();
  last_axis(panel, transpose, x_plane, from);
  for (std::size_t t = axes_.size() - 1; t-- > 0; std::swap(from, to)) inner_axis(t, panel, transpose, from, to);
  const Index lane0 = panel * kLanes, lanes = std::min(kLanes, axes_.back().size - lane0);
  for (Index row = 0; row < rows_; ++row) std::copy_n(from + row * kLanes, lanes, y_plane + row * stride_ + lane0);
}

// planes[k, row, j] = x(token, first + k).
template <class T>
void ToeplitzTrain<T>::gather(MatrixView<const T, Cpu> x, Index first, Index count, T* planes) const {
  for (Index row = 0; row < rows_; ++row) {
    transpose_block<T>(x.row(token_[at(row)]) + first, token_step_ * x.row_stride, axes_.back().size, count,
                       planes + row * stride_, plane_);
  }
}

template <class T>
void ToeplitzTrain<T>::scatter(const T* planes, Index first, Index count, Index row0, Index rows, MatrixView<T, Cpu> y) const {
  for (Index row = row0; row < row0 + rows; ++row) {
    transpose_block<T>(planes + row * stride_, plane_, count, axes_.back().size, y.row(token_[at(row)]) + first,
                       token_step_ * y.row_stride);
  }
}

// Columns gathered at once: a cache line of a row, while their planes stay within half an L2 of 1 MiB; at least four.
template <class T>
Index ToeplitzTrain<T>::group_size(Index columns) const {
  const Index line = static_cast<Index>(64 / sizeof(T)), fits = (Index{1} << 18) / (static_cast<Index>(sizeof(T)) * length_);
  return std::min(columns, std::clamp<Index>(fits, 4, line));
}
template <class T>
bool ToeplitzTrain<T>::by_panels(Index columns) const {
  return (columns + group_size(columns) - 1) / group_size(columns) < kFewGroups;
}

template <class T>
void ToeplitzTrain<T>::multiply(MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                                const Context<Cpu>& context) const {
  const Index columns = x.cols, group = group_size(columns), groups = (columns + group - 1) / group;
  const Index plane = plane_, panels = (axes_.back().size + kLanes - 1) / kLanes;
  const auto prepared = [&](Scratch& s, Index planes) {
    if (s.between[0].size() > 0) return;
    s.between[0] = Buffer<T, Cpu>(between_);
    s.between[1] = Buffer<T, Cpu>(between_);
    s.planes = Buffer<T, Cpu>(planes * plane);
  };
  const Index tasks = by_panels(columns) ? columns * panels : groups;
  std::vector<Scratch> workers(at(std::min<Index>(thread_count(context), tasks)));
  if (!by_panels(columns)) {
    parallel_for(
        context, groups,
        [&](Index task, int worker) {
          Scratch& s = workers[at(worker)];
          prepared(s, 2 * group);
          const Index first = task * group, count = std::min(group, columns - first);
          T* result = s.planes.data() + group * plane;
          gather(x, first, count, s.planes.data());
          for (Index k = 0; k < count; ++k) {
            for (Index p = 0; p < panels; ++p) make_panel(p, transpose, s.planes.data() + k * plane, result + k * plane, s);
          }
          scatter(result, first, count, 0, rows_, y);
        },
        "separable");
    return;
  }
  const Buffer<T, Cpu> planes(2 * columns * plane);
  T* result = planes.data() + columns * plane;
  parallel_for(context, groups, [&](Index g, int) {
    const Index first = g * group;
    gather(x, first, std::min(group, columns - first), planes.data() + first * plane);
  });
  parallel_for(
      context, tasks,
      [&](Index task, int worker) {
        Scratch& s = workers[at(worker)];
        prepared(s, 0);
        const Index k = task / panels;
        make_panel(task % panels, transpose, planes.data() + k * plane, result + k * plane, s);
      },
      "separable");
  const Index chunks = (rows_ + kRowChunk - 1) / kRowChunk;
  parallel_for(context, chunks, [&](Index c, int) {
    scatter(result, 0, columns, c * kRowChunk, std::min(kRowChunk, rows_ - c * kRowChunk), y);
  });
}

template <class T>
double ToeplitzTrain<T>::flops(bool executed) const {
  const auto panel = static_cast<Index>(static_cast<std::size_t>(kLanes) * sizeof(float) / sizeof(T));
  const Index n = axes_.back().size;
  double sum = 0;
  for (std::size_t t = 0; t < axes_.size(); ++t) {
    const TrainAxis<T>& a = axes_[t];
    // A point's own share of the offsets that are not 0, ends of the axis included.
    double pairs = 0;
    for (Index o = std::max(a.first, 1 - a.size); o <= std::min(a.last, a.size - 1); ++o) {
      pairs += static_cast<double>(a.size - (o < 0 ? -o : o));
    }
    sum += static_cast<double>(a.left * a.right) * pairs / static_cast<double>(a.size);
  }
  const Index lanes = !executed ? n : axes_.size() == 2 ? rounded_up(n, panel) : rounded_up(n, kLanes);
  return 2 * sum * static_cast<double>(rows_) * static_cast<double>(lanes);
}

template <class T>
std::size_t ToeplitzTrain<T>::bytes(Index columns) const {
  const Index c = std::max<Index>(1, columns), group = group_size(c), plane = plane_ + 16;
  const Index panels = (axes_.back().size + kLanes - 1) / kLanes;
  const bool few = by_panels(c);
  const Index workers = std::min(kReportedWorkers, few ? c * panels : (c + group - 1) / group);
  const Index numbers = workers * (2 * (between_ + 16) + (few ? 0 : 2 * group * plane)) + (few ? 2 * c * plane : 0);
  return at(numbers) * sizeof(T);
}
template <class T>
std::size_t ToeplitzTrain<T>::kept_bytes() const {
  std::size_t numbers = 0;
  for (std::size_t t = 0; t < axes_.size(); ++t) {
    numbers += axes_[t].values.size() + 2 * (tables_[0][t].values.size() + tables_[0][t].formed.size());
  }
  return numbers * sizeof(T) + token_.size() * sizeof(Index);
}

template class ToeplitzTrain<float>;
template class ToeplitzTrain<double>;

}  // namespace espalier::backend
