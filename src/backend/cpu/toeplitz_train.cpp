// ToeplitzTrain on the host: planes of one column each, panels of the last axis, the register tile.
// SPDX-License-Identifier: Apache-2.0
#include "backend/toeplitz_train.hpp"

#include <algorithm>
#include <utility>

#include "backend/block_product.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"
#include "backend/work.hpp"

namespace espalier::backend {

namespace {

// Places of the last axis that travel together: the widest panel of any instruction set.
constexpr Index kLanes = kBlockPadding;
// Rows that share the numbers of x while they are in the cache, and rows that share the ends of a band.
constexpr Index kRowChunk = 96;
// Inner axes up to this size have their matrices formed, all right tables side by side: one product of depth Q n instead of Q
// short ones. (n = 32: 4 KiB a table.)
constexpr Index kFormed = 32;
constexpr Index kLargestFolded = 512;
// Folding and unfolding a number take about as long as 32 multiply-adds.
constexpr Index kLeastFolded = 64;
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

bool folding_pays(Index size, Index tables, Index first, Index last, bool is_last_axis) {
  const Index half = (size + 1) / 2;
  if (size * tables < kLeastFolded || size > kLargestFolded || last - first + 1 < size) return false;
  return !is_last_axis || 2 * rounded_up(half, kLanes) <= rounded_up(size, kLanes);
}

template <class T>
ToeplitzTrain<T>::ToeplitzTrain(const std::vector<Index>& sizes, std::vector<TrainAxis<T>> axes) : axes_(std::move(axes)) {
  std::vector<Index> step(sizes.size(), 1);
  for (std::size_t t = sizes.size(); t-- > 1;) step[t - 1] = step[t] * sizes[t];
  for (const TrainAxis<T>& a : axes_) length_ *= a.size;
  const TrainAxis<T>& lanes = axes_.back();
  rows_ = length_ / lanes.size;
  token_step_ = step[at(lanes.axis)];
  // Strides are no multiples of large powers of two: such rows share the few places that one address has in the cache.
  stride_ = rounded_up(lanes.size, 16) + 16;
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
  make_tables(false);
  make_tables(true);
  make_blocks();
  for (const Block& block : blocks_) {
    for (const TrainAxis<T>& a : axes_) between_ = std::max(between_, a.left * static_cast<Index>(block.row.size()) * kLanes);
  }
}

template <class T>
void ToeplitzTrain<T>::make_tables(bool transpose) {
  for (std::size_t t = 0; t < axes_.size(); ++t) {
    const TrainAxis<T>& a = axes_[t];
    const Index n = a.size, width = 2 * n - 1, count = a.left * a.right;
    const bool last = t + 1 == axes_.size();
    for (const bool odd : {false, true}) {
      Tables f;
      f.size = !a.folded ? n : odd ? n / 2 : (n + 1) / 2;
      f.first = transpose ? -a.last : a.first;
      f.last = transpose ? -a.first : a.last;
      // The entry of row i and source j of table k.
      const auto entry = [&](Index k, Index i, Index j) {
        const T* u = a.values.data() + k * width + n - 1;
        if (!a.folded) return u[transpose ? j - i : i - j];
        const T mirror = u[n - 1 - i - j];
        return T(0.5) * (odd ? u[i - j] - mirror : u[i - j] + mirror);
      };
      if (last && a.folded) {
        const Index panels = (f.size + kLanes - 1) / kLanes;
        f.formed.assign(at(count * panels * f.size * kLanes), T(0));
        for (Index k = 0; k < count; ++k) {
          for (Index i = 0; i < f.size; ++i) {
            for (Index j = 0; j < f.size; ++j) {
              f.formed[at(((k * panels + i / kLanes) * f.size + j) * kLanes + i % kLanes)] = entry(k, i, j);
            }
          }
        }
      } else if (a.folded || (!last && n <= kFormed && a.right > 1)) {
        const Index depth = a.right * f.size;
        f.formed.resize(at(a.left * f.size * depth));
        for (Index p = 0; p < a.left; ++p) {
          for (Index i = 0; i < f.size; ++i) {
            for (Index k = 0; k < depth; ++k) {
              f.formed[at((p * f.size + i) * depth + k)] = entry(p * a.right + k / f.size, i, k % f.size);
            }
          }
        }
      } else {
        const Index stride = last ? table_stride_ : width;
        f.values.assign(at(count * stride), T(0));
        for (Index k = 0; k < count; ++k) {
          const auto from = a.values.begin() + k * width;
          const auto to = f.values.begin() + k * stride;
          transpose ? std::reverse_copy(from, from + width, to) : std::copy(from, from + width, to);
        }
      }
      tables_[transpose ? 1 : 0].push_back(a.folded || !odd ? std::move(f) : Tables());
    }
  }
}

template <class T>
void ToeplitzTrain<T>::make_blocks() {
  const std::size_t d = axes_.size();
  for (unsigned choice = 0; choice < 1U << d; ++choice) {
    Block block;
    bool exists = true;
    for (std::size_t t = 0; t < d; ++t) {
      block.half.push_back(static_cast<int>(choice >> t & 1U));
      exists = exists && (block.half[t] == 0 || axes_[t].folded);
    }
    if (!exists) continue;
    block.row.push_back(0);
    for (std::size_t t = 0; t + 1 < d; ++t) {
      const Index n = axes_[t].size, size = tables(false, t, block).size;
      std::vector<Index> rows;
      for (const Index row : block.row) {
        // The odd half lies backwards behind the even one.
        for (Index i = 0; i < size; ++i) rows.push_back(row * n + (block.half[t] == 1 ? n - 1 - i : i));
      }
      block.row = std::move(rows);
    }
    if (block.half[d - 1] == 1) block.column = axes_[d - 1].size - 1, block.step = -1;
    const Index lanes = tables(false, d - 1, block).size;
    for (Index panel = 0; panel * kLanes < lanes; ++panel) pieces_.push_back({static_cast<Index>(blocks_.size()), panel});
    blocks_.push_back(std::move(block));
  }
}

// out[b, p, i, lane] = sum_j x[b, i, j] v_p[lane, j] for the lanes of one panel; i: along the axis before the last, b: along
// those before that.
template <class T>
void ToeplitzTrain<T>::last_axis(const Piece& piece, bool transpose, const T* x_plane, T* out) const {
  const Block& block = blocks_[at(piece.block)];
  const std::size_t d = axes_.size();
  const Tables& f = tables(transpose, d - 1, block);
  const auto block_rows = static_cast<Index>(block.row.size());
  const Index n = axes_.back().size, left = axes_.back().left, size = f.size, panels = (size + kLanes - 1) / kLanes;
  // With one table rows of all b follow one another, and lie evenly where no axis is folded.
  const bool even = std::all_of(axes_.begin(), axes_.end() - 1, [](const TrainAxis<T>& a) { return !a.folded; });
  const Index inner = left == 1 && even ? block_rows : tables(transpose, d - 2, block).size, outer = block_rows / inner;
  const Index lane0 = piece.panel * kLanes, lanes = std::min(kLanes, size - lane0);
  const Range j = f.formed.empty() ? reached(lane0, lane0 + lanes, f.first, f.last, n) : Range{0, size};
  const Index row_step = block.half[d - 2] == 1 ? -stride_ : stride_;
  // The next axes read whole panels of several rows at once.
  const Index cols = d == 2 ? lanes : kLanes;
  for (Index b = 0; b < outer; ++b) {
    for (Index i = 0; i < inner; i += kRowChunk) {
      const Index rows = std::min(kRowChunk, inner - i);
      const T* from = x_plane + block.row[at(b * inner + i)] * stride_ + block.column + block.step * j.begin;
      for (Index p = 0; p < left; ++p) {
        const T* v = f.formed.empty() ? f.values.data() + p * table_stride_ + n - 1 + lane0 - j.begin
                                      : f.formed.data() + (p * panels + piece.panel) * size * kLanes;
        block_product<T>(rows, cols, j.end - j.begin, from, row_step, block.step, v, f.formed.empty() ? -1 : kLanes,
                         out + ((b * left + p) * inner + i) * kLanes, kLanes, false);
      }
    }
  }
}

// out[b', p, i', i, after] = sum_q sum_j u_pq[i, j] in[b', i', q, j, after], i' along the axis before this one.
template <class T>
void ToeplitzTrain<T>::inner_axis(std::size_t t, const Piece& piece, bool transpose, const T* in, T* out) const {
  const Block& block = blocks_[at(piece.block)];
  const std::size_t d = axes_.size();
  const Tables& f = tables(transpose, t, block);
  const Index n = f.size, left = axes_[t].left, right = axes_[t].right, width = 2 * n - 1;
  Index after = 1, before = 1;
  for (std::size_t s = t + 1; s + 1 < d; ++s) after *= tables(transpose, s, block).size;
  for (std::size_t s = 0; s < t; ++s) before *= tables(transpose, s, block).size;
  const Index previous = t > 0 ? tables(transpose, t - 1, block).size : 1, step = after * kLanes;
  const Index cols = d == 2 ? std::min(kLanes, tables(transpose, d - 1, block).size - piece.panel * kLanes) : step;
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
void ToeplitzTrain<T>::make_piece(const Piece& piece, bool transpose, const T* x_plane, T* y_plane, Scratch& scratch) const {
  const Block& block = blocks_[at(piece.block)];
  T* from = scratch.between[0].data();
  T* to = scratch.between[1].data();
  last_axis(piece, transpose, x_plane, from);
  for (std::size_t t = axes_.size() - 1; t-- > 0; std::swap(from, to)) inner_axis(t, piece, transpose, from, to);
  const Index lane0 = piece.panel * kLanes, lanes = std::min(kLanes, tables(transpose, axes_.size() - 1, block).size - lane0);
  for (std::size_t row = 0; row < block.row.size(); ++row) {
    const T* result = from + static_cast<Index>(row) * kLanes;
    T* y = y_plane + block.row[row] * stride_ + block.column + block.step * lane0;
    if (block.step == 1) {
      std::copy_n(result, lanes, y);
    } else {
      std::reverse_copy(result, result + lanes, y - lanes + 1);
    }
  }
}

// Every pair (a, b) of mirrored places along every folded axis becomes (a + b, a - b).
template <class T>
void ToeplitzTrain<T>::fold(T* plane) const {
  const Index n = axes_.back().size;
  Index after = rows_;  // rows that one step of the axis passes over
  for (std::size_t t = 0; t + 1 < axes_.size(); ++t) {
    const Index size = axes_[t].size, before = rows_ / after;
    after /= size;
    if (!axes_[t].folded) continue;
    for (Index b = 0; b < before; ++b) {
      for (Index i = 0; i < size / 2; ++i) {
        for (Index k = 0; k < after; ++k) {
          T* __restrict low = plane + ((b * size + i) * after + k) * stride_;
          T* __restrict high = plane + ((b * size + size - 1 - i) * after + k) * stride_;
          for (Index j = 0; j < n; ++j) {
            const T u = low[j], v = high[j];
            low[j] = u + v, high[j] = u - v;
          }
        }
      }
    }
  }
  if (!axes_.back().folded) return;
  for (Index row = 0; row < rows_; ++row) {
    T* __restrict low = plane + row * stride_;
    T* __restrict high = low + n - 1;
    for (Index j = 0; j < n / 2; ++j) {
      const T u = low[j], v = high[-j];
      low[j] = u + v, high[-j] = u - v;
    }
  }
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

// Columns gathered at once: a cache line of a row (half a line takes twice as long), while a plane stays within 1 MiB of
// floats; at least four.
template <class T>
Index ToeplitzTrain<T>::group_size(Index columns) const {
  const Index line = static_cast<Index>(64 / sizeof(T)), fits = (Index{1} << 22) / length_;
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
  const auto pieces = static_cast<Index>(pieces_.size());
  const auto prepared = [&](Scratch& s, Index planes) {
    if (s.between[0].size() > 0) return;
    s.between[0] = Buffer<T, Cpu>(between_);
    s.between[1] = Buffer<T, Cpu>(between_);
    s.planes = Buffer<T, Cpu>(planes * plane_);
  };
  const Index tasks = by_panels(columns) ? columns * pieces : groups;
  std::vector<Scratch> workers(at(std::min<Index>(thread_count(context), tasks)));
  if (!by_panels(columns)) {
    parallel_for(
        context, groups,
        [&](Index task, int worker) {
          Scratch& s = workers[at(worker)];
          prepared(s, 2 * group);
          const Index first = task * group, count = std::min(group, columns - first);
          T* result = s.planes.data() + group * plane_;
          gather(x, first, count, s.planes.data());
          for (Index k = 0; k < count; ++k) {
            T* from = s.planes.data() + k * plane_;
            fold(from);
            for (const Piece& piece : pieces_) make_piece(piece, transpose, from, result + k * plane_, s);
            fold(result + k * plane_);
          }
          scatter(result, first, count, 0, rows_, y);
        },
        "separable");
    return;
  }
  const Buffer<T, Cpu> planes(2 * columns * plane_);
  T* result = planes.data() + columns * plane_;
  parallel_for(context, groups, [&](Index g, int) {
    const Index first = g * group, count = std::min(group, columns - first);
    gather(x, first, count, planes.data() + first * plane_);
    for (Index k = 0; k < count; ++k) fold(planes.data() + (first + k) * plane_);
  });
  parallel_for(
      context, tasks,
      [&](Index task, int worker) {
        Scratch& s = workers[at(worker)];
        prepared(s, 0);
        const Index k = task / pieces;
        make_piece(pieces_[at(task % pieces)], transpose, planes.data() + k * plane_, result + k * plane_, s);
      },
      "separable");
  parallel_for(context, columns, [&](Index k, int) { fold(result + k * plane_); });
  const Index chunks = (rows_ + kRowChunk - 1) / kRowChunk;
  parallel_for(context, chunks, [&](Index c, int) {
    scatter(result, 0, columns, c * kRowChunk, std::min(kRowChunk, rows_ - c * kRowChunk), y);
  });
}

template <class T>
double ToeplitzTrain<T>::flops(bool executed) const {
  const auto panel = static_cast<Index>(static_cast<std::size_t>(kLanes) * sizeof(float) / sizeof(T));
  const Index unit = !executed ? 1 : axes_.size() == 2 ? panel : kLanes;
  const KernelWork work = kernel_work(sizeof(T));
  double sum = 0;
  for (const Block& block : blocks_) {
    const auto block_rows = static_cast<Index>(block.row.size());
    double depth = 0;
    for (std::size_t t = 0; t < axes_.size(); ++t) {
      const TrainAxis<T>& a = axes_[t];
      const Tables& f = tables(false, t, block);
      const bool last = t + 1 == axes_.size();
      // Rows of a block product, and places of this axis that share the ends of a band.
      Index rows = f.size, band = f.size;
      if (last) rows = a.left == 1 ? block_rows : tables(false, t - 1, block).size, band = std::min(kLanes, f.size);
      if (last) rows = std::min(rows, kRowChunk);
      if (!last && f.formed.empty()) rows = band = std::min(rows, kRowChunk / 2);
      double pairs = 0;  // sources that a point of this axis meets, ends of the axis included
      for (Index o = std::max(f.first, 1 - f.size); o <= std::min(f.last, f.size - 1); ++o) {
        pairs += static_cast<double>(f.size - (o < 0 ? -o : o));
      }
      double each = pairs / static_cast<double>(f.size);
      if (executed) {
        each = std::min(static_cast<double>(f.size), each + static_cast<double>(band - 1));
        each *= work.block_rows(static_cast<double>(rows)) / static_cast<double>(rows);
      }
      depth += static_cast<double>(a.left * a.right) * each;
    }
    const Index lanes = rounded_up(tables(false, axes_.size() - 1, block).size, unit);
    sum += 2 * depth * static_cast<double>(block_rows) * static_cast<double>(lanes);
  }
  return sum;
}
template <class T>
double ToeplitzTrain<T>::calls() const {
  return static_cast<double>(pieces_.size() * axes_.size());
}
template <class T>
double ToeplitzTrain<T>::passes() const {
  const bool folds = std::any_of(axes_.begin(), axes_.end(), [](const TrainAxis<T>& a) { return a.folded; });
  return 3 + (folds ? 4 : 0) + 5 * static_cast<double>(axes_.size() - 2);
}

template <class T>
std::size_t ToeplitzTrain<T>::bytes(Index columns) const {
  const Index c = std::max<Index>(1, columns), group = group_size(c), plane = plane_ + 16;
  const bool few = by_panels(c);
  const Index workers = std::min(kReportedWorkers, few ? c * static_cast<Index>(pieces_.size()) : (c + group - 1) / group);
  const Index numbers = workers * (2 * (between_ + 16) + (few ? 0 : 2 * group * plane)) + (few ? 2 * c * plane : 0);
  return at(numbers) * sizeof(T);
}
template <class T>
std::size_t ToeplitzTrain<T>::kept_bytes() const {
  std::size_t numbers = 0, places = token_.size() + 2 * pieces_.size();
  for (const TrainAxis<T>& a : axes_) numbers += a.values.size();
  for (const auto& direction : tables_) {
    for (const Tables& f : direction) numbers += f.values.size() + f.formed.size();
  }
  for (const Block& block : blocks_) places += 2 * block.row.size() + 16;
  return numbers * sizeof(T) + places * sizeof(Index);
}

template class ToeplitzTrain<float>;
template class ToeplitzTrain<double>;

}  // namespace espalier::backend
