// ToeplitzFft on the host: loops over columns around the transform of one complex array.
// SPDX-License-Identifier: Apache-2.0
#include "backend/fft.hpp"

#include <espalier/core/error.hpp>

#include "backend/cpu/fft_transform.hpp"
#include "backend/cpu/parallel.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace espalier::backend {

template <>
bool has_fft<Cpu>() {
#if ESPALIER_HAS_FFTW
  return true;
#else
  return false;
#endif
}

Index smooth_length(Index n) {
  for (Index h = std::max<Index>(1, n);; ++h) {
    Index rest = h;
    for (const Index prime : {2, 3, 5, 7}) {
      while (rest % prime == 0) rest /= prime;
    }
    if (rest == 1) return h;
  }
}

double toeplitz_fft_points(const std::vector<Index>& sizes) {
  double points = 1;
  for (const Index n : sizes) points *= n > 1 ? 2.0 * static_cast<double>(smooth_length(n)) : 1.0;
  return points;
}

double toeplitz_fft_flops(const std::vector<Index>& sizes, double columns) {
  const double points = toeplitz_fft_points(sizes);
  return std::ceil(columns / 2) * 2 * 5 * points * std::log2(std::max(2.0, points));
}

namespace {

// Partial sums are kept per slice of the work, never per thread: the bits do not depend on the thread count. Sixteen slices
// feed as many threads; eight where a slice holds whole spectra in double.
constexpr Index kSlices = 16, kSpectrumSlices = 8;
// Spectra are summed in T over this many columns, then in double.
constexpr Index kFlushPairs = 16;
// What FFTW makes of its own once a process (its planner: 230 KB) and for the plans of one size.
[[maybe_unused]] constexpr std::size_t kPlannerBytes = 1u << 19;
// A report cannot know the thread count: its bound on memory counts this many workers.
constexpr Index kReportedWorkers = 64;

// Pairs of columns gathered at once: a cache line of a row, while the panel stays within half an L2 of 1 MiB.
[[maybe_unused]] Index pairs_at_once(Index length, std::size_t element) {
  const auto complex = static_cast<Index>(2 * element);
  return std::clamp<Index>((Index{1} << 19) / (complex * std::max<Index>(1, length)), 2, 64 / complex);
}

}  // namespace

std::size_t toeplitz_fft_bytes(const std::vector<Index>& sizes, Index columns, Index rank, std::size_t element) {
#if ESPALIER_HAS_FFTW
  Index length = 1;
  for (const Index n : sizes) length *= n;
  const Index pairs = (columns + 2) / 2;
  const Index work =
      element == sizeof(float) ? GridTransform<float>::scratch_size(sizes) : GridTransform<double>::scratch_size(sizes);
  const Index at_once = pairs_at_once(length, element);
  const Index tasks = rank > 0 ? std::max(pairs, 2 * kSlices) : (pairs + at_once - 1) / at_once;
  const Index worker = work + (length + 16) * (rank > 0 ? 3 : at_once) + 4096;
  const Index shared = rank > 0 ? length * (rank + 2 * kSlices) : 0;  // A and B feature-major; partial sums for few columns
  return 2 * element * static_cast<std::size_t>(std::min(tasks, kReportedWorkers) * worker + shared) + kPlannerBytes;
#else
  (void)sizes, (void)columns, (void)rank, (void)element;
  return 0;
#endif
}

#if ESPALIER_HAS_FFTW

namespace {

template <class T>
struct Pair {
  T re, im;
};

// Columns of a panel lie this many numbers apart: a cache line more than a power of two, or all of them would share the few
// places of the first-level cache that one address has.
Index panel_stride(Index length) {
  return (length + 7) / 8 * 8 + 8;
}

// Rows ahead that are asked for while gathering: rows of token-major data often lie a page apart, where no processor looks
// ahead by itself.
constexpr Index kRows = 8, kAhead = 16;

// panel[k * panel_stride + i] = x(i, first + 2 k) + i x(i, first + 2 k + 1) for k < pairs; a column past the end is 0. Rows are
// read once, whole cache lines of them; each of the few output streams is contiguous.
template <class T>
void gather_pairs(MatrixView<const T, Cpu> x, Index first, Index pairs, T* panel) {
  const Index whole = std::min(pairs, (x.cols - first) / 2), stride = panel_stride(x.rows);
  auto* out = reinterpret_cast<Pair<T>*>(panel);
  Index i = 0;
  for (; i + kRows <= x.rows; i += kRows) {
    for (Index r = 0; i + kAhead + kRows <= x.rows && r < kRows; ++r) __builtin_prefetch(x.row(i + kAhead + r) + first);
    for (Index k = 0; k < whole; ++k) {
      for (Index r = 0; r < kRows; ++r) std::memcpy(out + k * stride + i + r, x.row(i + r) + first + 2 * k, sizeof(Pair<T>));
    }
  }
  for (; i < x.rows; ++i) {
    for (Index k = 0; k < whole; ++k) std::memcpy(out + k * stride + i, x.row(i) + first + 2 * k, sizeof(Pair<T>));
  }
  if (whole < pairs) {
    for (i = 0; i < x.rows; ++i) out[whole * stride + i] = {x(i, first + 2 * whole), T(0)};
  }
}

template <class T>
void scatter_pairs(const T* panel, Index first, Index pairs, MatrixView<T, Cpu> y) {
  const Index whole = std::min(pairs, (y.cols - first) / 2), stride = panel_stride(y.rows);
  const auto* in = reinterpret_cast<const Pair<T>*>(panel);
  for (Index i = 0; i < y.rows; ++i) {
    if (i + kAhead < y.rows) __builtin_prefetch(y.row(i + kAhead) + first, 1);
    for (Index k = 0; k < whole; ++k) std::memcpy(y.row(i) + first + 2 * k, in + k * stride + i, sizeof(Pair<T>));
    if (whole < pairs) y(i, first + 2 * whole) = in[whole * stride + i].re;
  }
}

// out[r * rows + i] = x(i, first + r), r < count.
template <class T>
void transpose_columns(MatrixView<const T, Cpu> x, Index first, Index count, T* out, const Context<Cpu>& context) {
  constexpr Index kBlock = 16;
  const Index blocks = (x.rows + kBlock * kBlock - 1) / (kBlock * kBlock);
  parallel_for(context, blocks, [&](Index block, int) {
    const Index end = std::min(x.rows, (block + 1) * kBlock * kBlock);
    for (Index r0 = 0; r0 < count; r0 += kBlock) {
      const Index r1 = std::min(count, r0 + kBlock);
      for (Index i = block * kBlock * kBlock; i < end; ++i) {
        for (Index r = r0; r < r1; ++r) out[r * x.rows + i] = x(i, first + r);
      }
    }
  });
}

// The columns of a matrix with one more behind it: a given vector, or ones. Pair p holds columns 2 p and 2 p + 1.
template <class T>
struct ExtendedColumns {
  MatrixView<const T, Cpu> matrix;
  Index rows = 0;
  bool extra = false;
  const T* extra_values = nullptr;  // null: ones

  Index cols() const { return matrix.cols + (extra ? 1 : 0); }
  Index pairs() const { return (cols() + 1) / 2; }
  void gather(Index p, T* line) const {
    for (int part = 0; part < 2; ++part) {
      const Index c = 2 * p + part;
      for (Index i = 0; i < rows; ++i) {
        T v = 0;
        if (c < matrix.cols) {
          v = matrix(i, c);
        } else if (c < cols()) {
          v = extra_values != nullptr ? extra_values[i] : T(1);
        }
        line[2 * i + part] = v;
      }
    }
  }
};

// Adds pair p of a result to y's columns and, behind them, to the row sums.
template <class T>
void scatter_extended(const T* line, Index p, bool add, MatrixView<T, Cpu> y, VectorView<T, Cpu> row_sum) {
  for (int part = 0; part < 2; ++part) {
    const Index c = 2 * p + part;
    if (c < y.cols) {
      for (Index i = 0; i < y.rows; ++i) y(i, c) = (add ? y(i, c) : T(0)) + line[2 * i + part];
    } else if (c == y.cols && row_sum) {
      for (Index i = 0; i < row_sum.size; ++i) row_sum[i] = (add ? row_sum[i] : T(0)) + line[2 * i + part];
    }
  }
}

// Memory of one worker, made by that worker on its first task.
template <class T>
struct Worker {
  typename GridTransform<T>::Scratch transform;
  Buffer<T, Cpu> spectrum, panel;

  void prepare(const GridTransform<T>& t, Index panel_size) {
    if (spectrum.size() > 0) return;
    transform = t.scratch();
    spectrum = Buffer<T, Cpu>(2 * t.spectrum_size());
    // Numbers between the halves take part in products: they must be harmless.
    std::fill_n(spectrum.data(), spectrum.size(), T(0));
    panel = Buffer<T, Cpu>(panel_size);
  }
};

template <class T>
std::vector<Worker<T>> make_workers(const Context<Cpu>& context, Index tasks) {
  return std::vector<Worker<T>>(static_cast<std::size_t>(std::min<Index>(thread_count(context), std::max<Index>(1, tasks))));
}

// Sum of conj(Z) U over columns, in T for a while and then in double.
template <class T>
class SpectrumSum {
 public:
  explicit SpectrumSum(const GridTransform<T>& t) : transform_(t), part_(2 * t.spectrum_size()), sum_(2 * t.spectrum_size()) {
    std::fill_n(part_.data(), part_.size(), T(0));
    std::fill_n(sum_.data(), sum_.size(), 0.0);
  }
  void add(const T* z, const T* u) {
    transform_.kernels().correlate(z, u, transform_.spectrum_size(), part_.data());
    if (++count_ % kFlushPairs == 0) flush();
  }
  const double* finish() {
    flush();
    return sum_.data();
  }

 private:
  void flush() {
    for (Index k = 0; k < sum_.size(); ++k) sum_.data()[k] += static_cast<double>(part_.data()[k]);
    std::fill_n(part_.data(), part_.size(), T(0));
  }
  const GridTransform<T>& transform_;
  Buffer<T, Cpu> part_;
  Buffer<double, Cpu> sum_;
  Index count_ = 0;
};

// table += the correlation whose spectrum is the sum of the slices' spectra, in their order.
template <class T>
void add_sums(const GridTransform<T>& transform, std::vector<std::unique_ptr<SpectrumSum<T>>>& slices, T* table) {
  const Index size = 2 * transform.spectrum_size();
  Buffer<double, Cpu> sum(size);
  std::fill_n(sum.data(), size, 0.0);
  for (auto& slice : slices) {
    const double* part = slice->finish();
    for (Index k = 0; k < size; ++k) sum.data()[k] += part[k];
  }
  transform.add_table(sum.data(), table);
}

// Slices that hold `bytes` each within half of the scratch memory.
Index slices_within(const Context<Cpu>& context, Index work, std::size_t bytes) {
  const auto fits = static_cast<Index>(context.scratch_bytes / 2 / std::max<std::size_t>(1, bytes));
  return std::clamp<Index>(std::min(work, fits), 1, kSpectrumSlices);
}

}  // namespace

template <class T, class B>
struct ToeplitzFft<T, B>::State {
  State(const std::vector<Index>& sizes, bool measure) : transform(sizes, measure) {}
  GridTransform<T> transform;
};

template <class T, class B>
ToeplitzFft<T, B>::ToeplitzFft(std::vector<Index> sizes, bool measure) : state_(std::make_unique<State>(sizes, measure)) {}
template <class T, class B>
ToeplitzFft<T, B>::~ToeplitzFft() = default;

template <class T, class B>
Buffer<T, B> ToeplitzFft<T, B>::spectrum(const double* table) const {
  Buffer<T, B> s(2 * state_->transform.spectrum_size());
  state_->transform.table_spectrum(table, s.data());
  return s;
}

template <class T, class B>
void ToeplitzFft<T, B>::multiply(const T* spectrum, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                                 const Context<B>& context) const {
  const GridTransform<T>& t = state_->transform;
  const Index length = t.points(), all = (x.cols + 1) / 2, at_once = pairs_at_once(length, sizeof(T)),
              stride = panel_stride(length);
  const Index tasks = (all + at_once - 1) / at_once;
  auto workers = make_workers<T>(context, tasks);
  parallel_for(
      context, tasks,
      [&](Index task, int worker) {
        Worker<T>& w = workers[static_cast<std::size_t>(worker)];
        w.prepare(t, 2 * stride * at_once);
        const Index first = task * at_once, pairs = std::min(at_once, all - first);
        gather_pairs<T>(x, 2 * first, pairs, w.panel.data());
        for (Index k = 0; k < pairs; ++k) {
          T* line = w.panel.data() + 2 * k * stride;
          t.forward(line, nullptr, w.spectrum.data(), w.transform);
          t.kernels().multiply(w.spectrum.data(), spectrum, t.spectrum_size(), transpose, w.spectrum.data());
          t.inverse(w.spectrum.data(), line, w.transform);
        }
        scatter_pairs<T>(w.panel.data(), 2 * first, pairs, y);
      },
      "fft");
}

template <class T, class B>
void ToeplitzFft<T, B>::multiply_low_rank(const T* spectrum, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                                          bool transpose, const Context<B>& context) const {
  const GridTransform<T>& t = state_->transform;
  const Index length = t.points(), m = in.a.cols;
  const ExtendedColumns<T> columns{in.x, length, static_cast<bool>(out.row_sum)};
  const Index pairs = columns.pairs();
  if (pairs == 0) return;
  if (m == 0) {
    fill(out.y, T(0), context);
    if (out.row_sum) fill(MatrixView<T, B>(out.row_sum.data, 1, out.row_sum.size), T(0), context);
    return;
  }
  // A and B feature-major, as many features at once as fit a quarter of the scratch memory.
  const auto per_feature = static_cast<Index>(2 * sizeof(T)) * length;
  const Index block = std::clamp<Index>(static_cast<Index>(context.scratch_bytes / 4) / per_feature, 1, m);
  // Few columns: the features are split too, into a fixed number of slices that are summed in order.
  const Index slices = pairs >= kSlices ? 1 : std::min(block, (kSlices + pairs - 1) / pairs);
  Buffer<T, B> a(block * length), b(block * length), parts(slices > 1 ? 2 * length * pairs * slices : 0);
  auto workers = make_workers<T>(context, pairs * slices);
  for (Index r0 = 0; r0 < m; r0 += block) {
    const Index features = std::min(block, m - r0);
    transpose_columns<T>(in.a, r0, features, a.data(), context);
    transpose_columns<T>(in.b, r0, features, b.data(), context);
    parallel_for(
        context, pairs * slices,
        [&](Index task, int worker) {
          Worker<T>& w = workers[static_cast<std::size_t>(worker)];
          w.prepare(t, 6 * length);
          const Index p = task / slices, s = task % slices;
          T* x = w.panel.data();
          T* z = x + 2 * length;
          T* sum = slices > 1 ? parts.data() + 2 * length * task : z + 2 * length;
          columns.gather(p, x);
          std::fill_n(sum, 2 * length, T(0));
          for (Index r = features * s / slices; r < features * (s + 1) / slices; ++r) {
            t.forward(x, b.data() + r * length, w.spectrum.data(), w.transform);
            t.kernels().multiply(w.spectrum.data(), spectrum, t.spectrum_size(), transpose, w.spectrum.data());
            t.inverse(w.spectrum.data(), z, w.transform);
            t.kernels().add_scaled(z, a.data() + r * length, length, sum);
          }
          if (slices == 1) scatter_extended<T>(sum, p, r0 > 0, out.y, out.row_sum);
        },
        "fft");
    if (slices == 1) continue;
    parallel_for(context, pairs, [&](Index p, int) {
      for (Index s = 0; s < slices; ++s) {
        scatter_extended<T>(parts.data() + 2 * length * (p * slices + s), p, r0 > 0 || s > 0, out.y, out.row_sum);
      }
    });
  }
}

template <class T, class B>
void ToeplitzFft<T, B>::add_table_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, T* table_bar,
                                           const Context<B>& context) const {
  const GridTransform<T>& t = state_->transform;
  const Index length = t.points(), pairs = (x.cols + 1) / 2;
  if (pairs == 0) return;
  const Index stride = panel_stride(length), at_once = pairs_at_once(length, sizeof(T)),
              panels = (pairs + at_once - 1) / at_once;
  const std::size_t slice_bytes = static_cast<std::size_t>(2 * t.spectrum_size()) * (sizeof(T) + sizeof(double));
  const Index slices = slices_within(context, panels, slice_bytes);
  std::vector<std::unique_ptr<SpectrumSum<T>>> sums(static_cast<std::size_t>(slices));
  auto workers = make_workers<T>(context, slices);
  std::vector<Buffer<T, B>> second(workers.size());
  parallel_for(
      context, slices,
      [&](Index s, int worker) {
        Worker<T>& w = workers[static_cast<std::size_t>(worker)];
        Buffer<T, B>& u = second[static_cast<std::size_t>(worker)];
        w.prepare(t, 4 * stride * at_once);
        if (u.size() == 0) {
          u = Buffer<T, B>(2 * t.spectrum_size());
          std::fill_n(u.data(), u.size(), T(0));
        }
        auto& sum = sums[static_cast<std::size_t>(s)] = std::make_unique<SpectrumSum<T>>(t);
        T* y_panel = w.panel.data() + 2 * stride * at_once;
        for (Index panel = panels * s / slices; panel < panels * (s + 1) / slices; ++panel) {
          const Index first = panel * at_once, count = std::min(at_once, pairs - first);
          gather_pairs<T>(x, 2 * first, count, w.panel.data());
          gather_pairs<T>(y_bar, 2 * first, count, y_panel);
          for (Index k = 0; k < count; ++k) {
            t.forward(w.panel.data() + 2 * k * stride, nullptr, w.spectrum.data(), w.transform);
            t.forward(y_panel + 2 * k * stride, nullptr, u.data(), w.transform);
            sum->add(w.spectrum.data(), u.data());
          }
        }
      },
      "fft gradient");
  add_sums(t, sums, table_bar);
}

namespace {

// One slice of features of the backward pass. For every feature r and pair of columns k, with z = b_r x_k, u = a_r y_bar_k:
//   v = M z     a_bar_r += <v, y_bar_k>                     (over the pair)
//   w = Mᵀ u    b_bar_r += <w, x_k>,  x_bar_k += b_r w      table spectrum += conj(Z) U
// so each of Z and U is transformed once and serves every gradient.
template <class T>
class BackwardSlice {
 public:
  struct Wanted {
    bool a, b, x, table;
  };
  BackwardSlice(const GridTransform<T>& t, const T* spectrum, Wanted wanted, Index pairs)
      : t_(t), mask_(spectrum), wanted_(wanted), pairs_(pairs), x_bar_(wanted.x ? 2 * t.points() * pairs : 0) {
    if (wanted.x) std::fill_n(x_bar_.data(), x_bar_.size(), T(0));
    if (wanted.table) table_ = std::make_unique<SpectrumSum<T>>(t);
  }

  // Features first .. last - 1 of the feature-major a and b; x, y: pairs of columns. a, b are overwritten by their gradients.
  void run(Index first, Index last, T* a, T* b, const T* x, const T* y) {
    const Index length = t_.points();
    z_.prepare(t_, 6 * length);
    u_.prepare(t_, 0);
    T* a_sum = z_.panel.data() + 2 * length;
    T* b_sum = a_sum + 2 * length;
    for (Index r = first; r < last; ++r) {
      std::fill_n(a_sum, 4 * length, T(0));
      for (Index p = 0; p < pairs_; ++p) {
        one_pair(a + r * length, b + r * length, x + 2 * length * p, y + 2 * length * p, p, a_sum, b_sum);
      }
      for (Index i = 0; wanted_.a && i < length; ++i) a[r * length + i] = a_sum[2 * i] + a_sum[2 * i + 1];
      for (Index i = 0; wanted_.b && i < length; ++i) b[r * length + i] = b_sum[2 * i] + b_sum[2 * i + 1];
    }
  }

  const T* x_bar(Index pair) const { return x_bar_.data() + 2 * t_.points() * pair; }
  std::unique_ptr<SpectrumSum<T>>& table() { return table_; }
  void release_work() { z_ = {}, u_ = {}; }

 private:
  void one_pair(const T* a, const T* b, const T* x, const T* y, Index p, T* a_sum, T* b_sum) {
    const auto& k = t_.kernels();
    const Index length = t_.points(), size = t_.spectrum_size();
    T* line = z_.panel.data();
    if (wanted_.a || wanted_.table) t_.forward(x, b, z_.spectrum.data(), z_.transform);
    if (wanted_.b || wanted_.x || wanted_.table) t_.forward(y, a, u_.spectrum.data(), z_.transform);
    if (wanted_.table) table_->add(z_.spectrum.data(), u_.spectrum.data());
    if (wanted_.a) {
      k.multiply(z_.spectrum.data(), mask_, size, false, z_.spectrum.data());
      t_.inverse(z_.spectrum.data(), line, z_.transform);
      k.add_componentwise(line, y, length, a_sum);
    }
    if (!wanted_.b && !wanted_.x) return;
    k.multiply(u_.spectrum.data(), mask_, size, true, u_.spectrum.data());
    t_.inverse(u_.spectrum.data(), line, z_.transform);
    if (wanted_.b) k.add_componentwise(line, x, length, b_sum);
    if (wanted_.x) k.add_scaled(line, b, length, x_bar_.data() + 2 * length * p);
  }

  const GridTransform<T>& t_;
  const T* mask_;
  Wanted wanted_;
  Index pairs_;
  Buffer<T, Cpu> x_bar_;
  std::unique_ptr<SpectrumSum<T>> table_;
  Worker<T> z_, u_;
};

template <class T>
void write_columns(const T* feature_major, Index first, Index count, MatrixView<T, Cpu> out, const Context<Cpu>& context) {
  constexpr Index kBlock = 256;
  parallel_for(context, (out.rows + kBlock - 1) / kBlock, [&](Index block, int) {
    for (Index i = block * kBlock; i < std::min(out.rows, (block + 1) * kBlock); ++i) {
      for (Index r = 0; r < count; ++r) out(i, first + r) = feature_major[r * out.rows + i];
    }
  });
}

}  // namespace

template <class T, class B>
void ToeplitzFft<T, B>::multiply_low_rank_vjp(const T* spectrum, const LowRankInputs<T, B>& in,
                                              const LowRankCotangents<T, B>& cotangents,
                                              const LowRankGradients<T, B>& gradients, T* table_bar,
                                              const Context<B>& context) const {
  const GridTransform<T>& t = state_->transform;
  const Index length = t.points(), m = in.a.cols;
  // Row sums are one more column: of ones in X, with cotangent row_sum_bar.
  const bool with_y = static_cast<bool>(cotangents.y), with_r = static_cast<bool>(cotangents.row_sum);
  const MatrixView<const T, B> none(nullptr, length, 0);
  const ExtendedColumns<T> x{with_y ? in.x : none, length, with_r};
  const ExtendedColumns<T> y{with_y ? cotangents.y : none, length, with_r, cotangents.row_sum.data};
  const Index pairs = x.pairs();
  const typename BackwardSlice<T>::Wanted wanted{static_cast<bool>(gradients.a), static_cast<bool>(gradients.b),
                                                 gradients.x && with_y, table_bar != nullptr};
  if (m == 0 || pairs == 0 || !wanted.x) {
    if (gradients.x) fill(gradients.x, T(0), context);
  }
  if (m == 0 || pairs == 0) {
    if (gradients.a) fill(gradients.a, T(0), context);
    if (gradients.b) fill(gradients.b, T(0), context);
    return;
  }
  Buffer<T, B> x_pairs(2 * length * pairs), y_pairs(2 * length * pairs);
  parallel_for(context, pairs, [&](Index p, int) {
    x.gather(p, x_pairs.data() + 2 * length * p);
    y.gather(p, y_pairs.data() + 2 * length * p);
  });
  const auto per_feature = static_cast<Index>(2 * sizeof(T)) * length;
  const Index block = std::clamp<Index>(static_cast<Index>(context.scratch_bytes / 4) / per_feature, 1, m);
  const std::size_t slice_bytes = static_cast<std::size_t>(2 * t.spectrum_size()) * (4 * sizeof(T) + sizeof(double)) +
                                  static_cast<std::size_t>(2 * length * (pairs + 3)) * sizeof(T);
  const Index count = slices_within(context, block, slice_bytes);
  std::vector<BackwardSlice<T>> slices;
  for (Index s = 0; s < count; ++s) slices.emplace_back(t, spectrum, wanted, pairs);
  Buffer<T, B> a(block * length), b(block * length);
  for (Index r0 = 0; r0 < m; r0 += block) {
    const Index features = std::min(block, m - r0);
    transpose_columns<T>(in.a, r0, features, a.data(), context);
    transpose_columns<T>(in.b, r0, features, b.data(), context);
    parallel_for(
        context, count,
        [&](Index s, int) {
          slices[static_cast<std::size_t>(s)].run(features * s / count, features * (s + 1) / count, a.data(), b.data(),
                                                  x_pairs.data(), y_pairs.data());
          slices[static_cast<std::size_t>(s)].release_work();
        },
        "fft backward");
    if (wanted.a) write_columns<T>(a.data(), r0, features, gradients.a, context);
    if (wanted.b) write_columns<T>(b.data(), r0, features, gradients.b, context);
  }
  if (wanted.x) {
    parallel_for(context, pairs, [&](Index p, int) {
      for (std::size_t s = 0; s < slices.size(); ++s) scatter_extended<T>(slices[s].x_bar(p), p, s > 0, gradients.x, {});
    });
  }
  if (!wanted.table) return;
  std::vector<std::unique_ptr<SpectrumSum<T>>> sums;
  sums.reserve(slices.size());
  for (auto& slice : slices) sums.push_back(std::move(slice.table()));
  add_sums(t, sums, table_bar);
}

#else  // no FFTW in this build

template <class T, class B>
struct ToeplitzFft<T, B>::State {};
template <class T, class B>
ToeplitzFft<T, B>::ToeplitzFft(std::vector<Index>, bool) {
  throw BackendError("this build has no FFT (configured with ESPALIER_WITH_FFTW=OFF)");
}
template <class T, class B>
ToeplitzFft<T, B>::~ToeplitzFft() = default;
template <class T, class B>
Buffer<T, B> ToeplitzFft<T, B>::spectrum(const double*) const {
  return {};
}
template <class T, class B>
void ToeplitzFft<T, B>::multiply(const T*, MatrixView<const T, B>, MatrixView<T, B>, bool, const Context<B>&) const {}
template <class T, class B>
void ToeplitzFft<T, B>::multiply_low_rank(const T*, const LowRankInputs<T, B>&, const LowRankOutputs<T, B>&, bool,
                                          const Context<B>&) const {}
template <class T, class B>
void ToeplitzFft<T, B>::multiply_low_rank_vjp(const T*, const LowRankInputs<T, B>&, const LowRankCotangents<T, B>&,
                                              const LowRankGradients<T, B>&, T*, const Context<B>&) const {}
template <class T, class B>
void ToeplitzFft<T, B>::add_table_gradient(MatrixView<const T, B>, MatrixView<const T, B>, T*, const Context<B>&) const {}

#endif

template class ToeplitzFft<float, Cpu>;
template class ToeplitzFft<double, Cpu>;

}  // namespace espalier::backend
