// Gradients of the FFT products on the host: correlations summed as spectra, and the five products of the backward pass.
// SPDX-License-Identifier: Apache-2.0
#if ESPALIER_HAS_FFTW
#include "backend/cpu/fft_columns.hpp"

#include <atomic>

namespace espalier::backend {

namespace {

// Spectra are kept per slice of the work, never per thread: the bits do not depend on the thread count. Eight, as a slice holds
// whole spectra in double.
constexpr Index kSpectrumSlices = 8;
// Spectra are summed in T over this many columns, then in double.
constexpr Index kFlushPairs = 16;

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
          check_cancelled(context);
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
  // done() is called after each.
  template <class F>
  void run(Index first, Index last, T* a, T* b, const T* x, const T* y, const F& done) {
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
      done();
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
  std::atomic<Index> done{0};
  for (Index r0 = 0; r0 < m; r0 += block) {
    const Index features = std::min(block, m - r0);
    transpose_columns<T>(in.a, r0, features, a.data(), context);
    transpose_columns<T>(in.b, r0, features, b.data(), context);
    parallel_for(context, count, [&](Index s, int worker) {
      BackwardSlice<T>& slice = slices[static_cast<std::size_t>(s)];
      slice.run(features * s / count, features * (s + 1) / count, a.data(), b.data(), x_pairs.data(), y_pairs.data(), [&] {
        const Index now = ++done;
        check_cancelled(context);
        // Worker 0 is the calling thread.
        if (worker == 0 && context.progress != nullptr && context.progress->callback) {
          context.progress->callback("fft backward", static_cast<double>(now) / static_cast<double>(m));
        }
      });
      slice.release_work();
    });
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

#define ESPALIER_INSTANTIATE(T)                                                                                               \
  template void ToeplitzFft<T, Cpu>::add_table_gradient(MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, T*,               \
                                                        const Context<Cpu>&) const;                                           \
  template void ToeplitzFft<T, Cpu>::multiply_low_rank_vjp(const T*, const LowRankInputs<T, Cpu>&,                            \
                                                           const LowRankCotangents<T, Cpu>&, const LowRankGradients<T, Cpu>&, \
                                                           T*, const Context<Cpu>&) const;
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif
