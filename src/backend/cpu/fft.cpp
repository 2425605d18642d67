// ToeplitzFft on the host: loops over columns around the transform of one complex array.
// SPDX-License-Identifier: Apache-2.0
#include "backend/fft.hpp"

#include <espalier/core/error.hpp>

#if ESPALIER_HAS_FFTW
#include "backend/cpu/fft_columns.hpp"
#include "backend/cpu/progress_part.hpp"
#endif

#include <algorithm>
#include <cmath>

namespace espalier::backend {

template <>
bool has_fft<Cpu>(const std::vector<Index>&) {
#if ESPALIER_HAS_FFTW
  return true;
#else
  return false;
#endif
}

namespace {

// Partial sums are kept per slice of the work, never per thread: the bits do not depend on the thread count. Sixteen slices
// feed as many threads.
[[maybe_unused]] constexpr Index kSlices = 16;
// What FFTW makes of its own once a process (its planner: 230 KB) and for the plans of one size.
[[maybe_unused]] constexpr std::size_t kPlannerBytes = 1u << 19;
// A report cannot know the thread count: its bound on memory counts this many workers.
[[maybe_unused]] constexpr Index kReportedWorkers = 64;

}  // namespace

template <>
std::size_t toeplitz_fft_bytes<Cpu>(const std::vector<Index>& sizes, Index columns, Index rank, std::size_t element) {
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
  // The first product makes plans (factors of every axis in T and double) and the table's spectrum, by way of the whole
  // circulant in double; the spectrum stays.
  Index factors = 0;
  for (const Index n : sizes) factors += 2 * smooth_length(n);
  const std::size_t spectrum = 2 * element * static_cast<std::size_t>(work);  // a worker's arrays hold one and more
  const std::size_t circulant = 2 * sizeof(double) * static_cast<std::size_t>(toeplitz_fft_points(sizes));
  const std::size_t planning = 4 * sizeof(double) * static_cast<std::size_t>(factors) + kPlannerBytes;
  return 2 * element * static_cast<std::size_t>(std::min(tasks, kReportedWorkers) * worker + shared) + spectrum + circulant +
         planning;
#else
  (void)sizes, (void)columns, (void)rank, (void)element;
  return 0;
#endif
}

#if ESPALIER_HAS_FFTW

template <class T, class B>
ToeplitzFft<T, B>::ToeplitzFft(std::vector<Index> sizes, bool measure) : state_(std::make_unique<State>(sizes, measure)) {}
template <class T, class B>
ToeplitzFft<T, B>::~ToeplitzFft() = default;

template <class T, class B>
Buffer<T, B> ToeplitzFft<T, B>::spectrum(const double* table, const Context<B>&) const {
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
          const PairBalance<T> balance(t.kernels(), length, line);
          t.forward(line, nullptr, w.spectrum.data(), w.transform);
          t.kernels().multiply(w.spectrum.data(), spectrum, t.spectrum_size(), transpose, w.spectrum.data());
          t.inverse(w.spectrum.data(), line, w.transform);
          balance.restore(length, line);
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
    const double all = static_cast<double>(m);
    const ProgressPart part(context, static_cast<double>(r0) / all, static_cast<double>(r0 + features) / all);
    parallel_for(
        part.context(), pairs * slices,
        [&](Index task, int worker) {
          Worker<T>& w = workers[static_cast<std::size_t>(worker)];
          w.prepare(t, 4 * length);
          const Index p = task / slices, s = task % slices;
          T* x = w.panel.data();
          T* sum = slices > 1 ? parts.data() + 2 * length * task : x + 2 * length;
          columns.gather(p, x);
          const PairBalance<T> balance(t.kernels(), length, x);
          std::fill_n(sum, 2 * length, T(0));
          for (Index r = features * s / slices; r < features * (s + 1) / slices; ++r) {
            check_cancelled(context);
            t.forward(x, b.data() + r * length, w.spectrum.data(), w.transform);
            t.kernels().multiply(w.spectrum.data(), spectrum, t.spectrum_size(), transpose, w.spectrum.data());
            t.inverse(w.spectrum.data(), sum, w.transform, a.data() + r * length);
          }
          balance.restore(length, sum);
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
Buffer<T, B> ToeplitzFft<T, B>::spectrum(const double*, const Context<B>&) const {
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
