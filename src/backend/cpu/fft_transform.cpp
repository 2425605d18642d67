// GridTransform on FFTW; the only file that includes it. FFTW's planner is not safe for threads: one lock in this file.
// SPDX-License-Identifier: Apache-2.0
#if ESPALIER_HAS_FFTW
#include "backend/cpu/fft_transform.hpp"

#include <espalier/core/error.hpp>

#include "backend/fft.hpp"

#include <fftw3.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <mutex>
#include <numbers>
#include <string>
#include <utility>

namespace espalier::backend {

namespace {

std::mutex& planner_lock() {
  static std::mutex lock;
  return lock;
}

// One precision of FFTW.
template <class T>
struct Fftw;
template <>
struct Fftw<float> {
  using Plan = fftwf_plan;
  using Complex = fftwf_complex;
  static constexpr auto plan_many = fftwf_plan_many_dft;
  static constexpr auto execute = fftwf_execute_dft;
  static constexpr auto destroy = fftwf_destroy_plan;
};
template <>
struct Fftw<double> {
  using Plan = fftw_plan;
  using Complex = fftw_complex;
  static constexpr auto plan_many = fftw_plan_many_dft;
  static constexpr auto execute = fftw_execute_dft;
  static constexpr auto destroy = fftw_destroy_plan;
};

// Owns one in-place plan; executing it is safe from several threads.
template <class T>
class Plan {
 public:
  Plan() = default;
  explicit Plan(typename Fftw<T>::Plan plan) : plan_(plan) {
    if (plan_ == nullptr) throw BackendError("FFTW could not make a plan (it gives no reason)");
  }
  Plan(Plan&& other) noexcept : plan_(std::exchange(other.plan_, nullptr)) {}
  Plan& operator=(Plan&& other) noexcept {
    std::swap(plan_, other.plan_);
    return *this;
  }
  ~Plan() {
    if (plan_ == nullptr) return;
    const std::lock_guard lock(planner_lock());
    Fftw<T>::destroy(plan_);
  }
  void operator()(T* z) const {
    auto* c = reinterpret_cast<typename Fftw<T>::Complex*>(z);
    Fftw<T>::execute(plan_, c, c);
  }

 private:
  typename Fftw<T>::Plan plan_ = nullptr;
};

// Lines that one call of FFTW transforms. Its call costs about 50 ns, a line of 64 about 100 ns; from 512 on a loop over
// single lines is faster than FFTW's own batch (its reorderings spoil the cache).
constexpr Index kBatchRows = 8;
constexpr Index kLongLine = 512;

// Where halves of a line begin: whole cache lines, so that every plan sees the alignment it was made for.
template <class T>
Index half_stride(Index h) {
  const Index unit = static_cast<Index>(64 / (2 * sizeof(T)));
  return (h + unit - 1) / unit * unit;
}

// Halves larger than the first-level cache are split in four by our own vector loops: FFTW takes 0.7 ns a number for 4096 and
// 1.1 ns for 16384 (float, one thread of a Zen 5).
template <class T>
Index part_count(Index h) {
  const Index unit = static_cast<Index>(64 / (2 * sizeof(T)));
  return h * static_cast<Index>(2 * sizeof(T)) >= 65536 && h % (4 * unit) == 0 ? 4 : 1;
}

std::vector<Index> without_ones(const std::vector<Index>& sizes) {
  std::vector<Index> kept;
  std::copy_if(sizes.begin(), sizes.end(), std::back_inserter(kept), [](Index n) { return n > 1; });
  if (kept.empty()) kept.push_back(1);
  return kept;
}

int to_int(Index n) {
  if (n > (Index{1} << 30)) throw BackendError("FFTW takes lengths up to 2^30, got " + std::to_string(n));
  return static_cast<int>(n);
}

}  // namespace

template <class T>
struct GridTransform<T>::Axis {
  Index n, h, stride;
  Index rows;   // lines forward, rows of n numbers
  Index batch;  // rows a block
  Index parts;  // 1, or 4: halves are split once more
  std::vector<T> part_twiddle;
  std::vector<T> twiddle;   // e^{-pi i j / h}, j < n
  Plan<T> one[2], many[2];  // [forward, backward]; one: a half or its part; many: 2 batch half-lines
};

template <class T>
struct GridTransform<T>::Plans {
  Plan<double> forward, backward;
};

template <class T>
GridTransform<T>::GridTransform(const std::vector<Index>& sizes, bool measure) : kernels_(fft_kernels<T>()) {
  const std::vector<Index> n = without_ones(sizes);
  std::vector<int> padded;
  for (const Index size : n) {
    Axis axis{};
    axis.n = size;
    axis.h = smooth_length(size);
    axis.stride = half_stride<T>(axis.h);
    points_ *= size;
    full_size_ *= 2 * axis.h;
    padded.push_back(to_int(2 * axis.h));
    for (Index j = 0; j < size; ++j) {
      const double angle = std::numbers::pi * static_cast<double>(j) / static_cast<double>(axis.h);
      axis.twiddle.push_back(static_cast<T>(std::cos(angle)));
      axis.twiddle.push_back(static_cast<T>(-std::sin(angle)));
    }
    axis.parts = part_count<T>(axis.h);
    for (Index q = 1; q < axis.parts; ++q) {
      for (Index j = 0; j < axis.h / axis.parts; ++j) {
        const double angle = 2 * std::numbers::pi * static_cast<double>(j * q) / static_cast<double>(axis.h);
        axis.part_twiddle.push_back(static_cast<T>(std::cos(angle)));
        axis.part_twiddle.push_back(static_cast<T>(-std::sin(angle)));
      }
    }
    axes_.push_back(std::move(axis));
  }
  // Axis s is transformed after all later ones: their 2 h lines, n of the earlier ones.
  Index before = points_, after = 1;
  for (std::size_t s = axes_.size(); s-- > 0;) {
    before /= axes_[s].n;
    axes_[s].rows = before * after;
    after *= 2 * axes_[s].h;
    axes_[s].batch = axes_[s].h < kLongLine && axes_[s].rows >= kBatchRows ? kBatchRows : 1;
  }
  spectrum_size_ = axes_[0].rows * 2 * axes_[0].stride;

  Buffer<double, Cpu> full(2);
  const std::lock_guard lock(planner_lock());
  const unsigned effort = measure ? FFTW_MEASURE : FFTW_ESTIMATE;
  for (Axis& axis : axes_) {
    Buffer<T, Cpu> lines(2 * 2 * axis.stride * axis.batch);
    auto* z = reinterpret_cast<typename Fftw<T>::Complex*>(lines.data());
    const int length = to_int(axis.h / axis.parts), distance = to_int(axis.stride);
    for (const int direction : {0, 1}) {
      const int sign = direction == 0 ? FFTW_FORWARD : FFTW_BACKWARD;
      const auto plan = [&](int lines_at_once) {
        return Plan<T>(
            Fftw<T>::plan_many(1, &length, lines_at_once, z, nullptr, 1, distance, z, nullptr, 1, distance, sign, effort));
      };
      axis.one[direction] = plan(1);
      if (axis.batch > 1) axis.many[direction] = plan(static_cast<int>(2 * axis.batch));
    }
  }
  plans_ = std::make_unique<Plans>();
  // ESTIMATE touches no array: the pointer only says "in place, aligned".
  auto* z = reinterpret_cast<fftw_complex*>(full.data());
  const int rank = static_cast<int>(padded.size());
  plans_->forward = Plan<double>(fftw_plan_dft(rank, padded.data(), z, z, FFTW_FORWARD, FFTW_ESTIMATE));
  plans_->backward = Plan<double>(fftw_plan_dft(rank, padded.data(), z, z, FFTW_BACKWARD, FFTW_ESTIMATE));
}
template <class T>
GridTransform<T>::~GridTransform() = default;

template <class T>
typename GridTransform<T>::Scratch GridTransform<T>::scratch() const {
  Scratch s;
  Index block = 0;
  for (std::size_t t = 1; t < axes_.size(); ++t) {
    block = std::max(block, axes_[t].batch * 2 * axes_[t].stride);
    s.stages.emplace_back(2 * axes_[t - 1].rows * axes_[t - 1].n);
  }
  s.block = Buffer<T, Cpu>(2 * block);
  // Rows past the end of a block are transformed with it; they must not be trap values of fresh memory.
  std::fill_n(s.block.data(), 2 * block, T(0));
  return s;
}

template <class T>
Index GridTransform<T>::scratch_size(const std::vector<Index>& sizes) {
  Index rows = 1, total = 0, block = 0;
  for (const Index n : without_ones(sizes)) rows *= n;
  const std::vector<Index> n = without_ones(sizes);
  for (std::size_t s = n.size(); s-- > 1;) {
    const Index h = smooth_length(n[s]);
    rows = rows / n[s] * 2 * h;
    total += rows;
    block = std::max(block, kBatchRows * 2 * half_stride<T>(h));
  }
  const Index h = smooth_length(n[0]);
  return total + block + rows / n[0] * 2 * half_stride<T>(h);
}

template <class T>
void GridTransform<T>::transform_lines(const Axis& axis, Index rows, bool backward, T* lines) const {
  const Index line = 2 * axis.stride;
  Index r = 0;
  if (axis.batch > 1) {
    for (; r + axis.batch <= rows; r += axis.batch) axis.many[backward](lines + 2 * r * line);
  }
  const Index part = axis.h / axis.parts;
  for (; r < rows; ++r) {
    for (T* half : {lines + 2 * r * line, lines + 2 * (r * line + axis.stride)}) {
      if (axis.parts > 1 && !backward) kernels_.split(half, part, axis.part_twiddle.data());
      for (Index q = 0; q < axis.parts; ++q) axis.one[backward](half + 2 * q * part);
      if (axis.parts > 1 && backward) kernels_.join(half, part, axis.part_twiddle.data());
    }
  }
}

namespace {

// to[k * to_stride + r] = from[r * from_stride + k] for complex numbers, r < rows (a few), k < count.
template <class T>
void transpose_out(const T* from, Index from_stride, Index rows, Index count, T* to, Index to_stride) {
  for (Index k = 0; k < count; ++k) {
    T* __restrict out = to + 2 * k * to_stride;
    const T* __restrict in = from + 2 * k;
    for (Index r = 0; r < rows; ++r) {
      out[2 * r] = in[2 * r * from_stride];
      out[2 * r + 1] = in[2 * r * from_stride + 1];
    }
  }
}
template <class T>
void transpose_in(const T* from, Index from_stride, Index rows, Index count, T* to, Index to_stride) {
  for (Index k = 0; k < count; ++k) {
    const T* __restrict in = from + 2 * k * from_stride;
    T* __restrict out = to + 2 * k;
    for (Index r = 0; r < rows; ++r) {
      out[2 * r * to_stride] = in[2 * r];
      out[2 * r * to_stride + 1] = in[2 * r + 1];
    }
  }
}

}  // namespace

template <class T>
void GridTransform<T>::forward(const T* x, const T* scale, T* spectrum, Scratch& scratch) const {
  for (std::size_t s = axes_.size(); s-- > 0;) {
    const Axis& axis = axes_[s];
    const bool first = s + 1 == axes_.size();
    const T* from = first ? x : scratch.stages[s].data();
    const T* factor = first ? scale : nullptr;
    const Index line = 2 * axis.stride;
    for (Index r0 = 0; r0 < axis.rows; r0 += axis.batch) {
      const Index rows = std::min(axis.batch, axis.rows - r0);
      T* lines = s == 0 ? spectrum + 2 * r0 * line : scratch.block.data();
      for (Index r = 0; r < rows; ++r) {
        const Index at = (r0 + r) * axis.n;
        kernels_.load(from + 2 * at, factor != nullptr ? factor + at : nullptr, axis.n, axis.h, axis.stride,
                      axis.twiddle.data(), lines + 2 * r * line);
      }
      transform_lines(axis, rows, false, lines);
      if (s == 0) continue;
      T* to = scratch.stages[s - 1].data();
      for (const Index half : {Index{0}, Index{1}}) {
        transpose_out(lines + 2 * half * axis.stride, line, rows, axis.h, to + 2 * (half * axis.h * axis.rows + r0), axis.rows);
      }
    }
  }
}

template <class T>
void GridTransform<T>::inverse(T* spectrum, T* x, Scratch& scratch, const T* scale) const {
  for (std::size_t s = 0; s < axes_.size(); ++s) {
    const Axis& axis = axes_[s];
    const bool last = s + 1 == axes_.size();
    T* to = last ? x : scratch.stages[s].data();
    const Index line = 2 * axis.stride;
    for (Index r0 = 0; r0 < axis.rows; r0 += axis.batch) {
      const Index rows = std::min(axis.batch, axis.rows - r0);
      T* lines = s == 0 ? spectrum + 2 * r0 * line : scratch.block.data();
      for (const Index half : {Index{0}, Index{1}}) {
        if (s == 0) break;
        const T* from = scratch.stages[s - 1].data();
        transpose_in(from + 2 * (half * axis.h * axis.rows + r0), axis.rows, rows, axis.h, lines + 2 * half * axis.stride,
                     line);
      }
      transform_lines(axis, rows, true, lines);
      for (Index r = 0; r < rows; ++r) {
        const Index out = (r0 + r) * axis.n;
        if (last && scale != nullptr) {
          kernels_.add_stored(lines + 2 * r * line, axis.n, axis.stride, axis.twiddle.data(), scale + out, to + 2 * out);
        } else {
          kernels_.store(lines + 2 * r * line, axis.n, axis.stride, axis.twiddle.data(), to + 2 * out);
        }
      }
    }
  }
}

template <class T>
template <class F>
void GridTransform<T>::for_each_offset(const F& visit) const {
  const std::size_t d = axes_.size();
  std::vector<Index> at(d, 0);  // o_t + n_t - 1
  for (Index position = 0;; ++position) {
    Index full = 0;
    for (std::size_t t = 0; t < d; ++t) {
      const Index p = 2 * axes_[t].h, o = at[t] - (axes_[t].n - 1);
      full = full * p + (o < 0 ? o + p : o);
    }
    visit(position, full);
    std::size_t t = d;
    while (t-- > 0 && ++at[t] == 2 * axes_[t].n - 1) at[t] = 0;
    if (t == static_cast<std::size_t>(-1)) break;
  }
}

template <class T>
template <class F>
void GridTransform<T>::for_each_frequency(const F& visit) const {
  const std::size_t d = axes_.size();
  std::vector<Index> stride(d, 1);  // of the full row-major spectrum
  for (std::size_t t = d; t-- > 1;) stride[t - 1] = stride[t] * 2 * axes_[t].h;
  // Rows of the spectrum are ordered [k_1] ... [k_{d-1}], the last fastest.
  const auto frequency = [&](std::size_t t, Index place) {
    const Index h = axes_[t].h, parts = axes_[t].parts, half = place / h, at = place % h, part = h / parts;
    return 2 * (parts * (at % part) + at / part) + half;
  };
  for (Index row = 0; row < axes_[0].rows; ++row) {
    Index rest = row, full = 0;
    for (std::size_t t = d; t-- > 1;) {
      full += frequency(t, rest % (2 * axes_[t].h)) * stride[t];
      rest /= 2 * axes_[t].h;
    }
    for (Index place = 0; place < 2 * axes_[0].h; ++place) {
      const Index half = place / axes_[0].h;
      const Index position = row * 2 * axes_[0].stride + half * axes_[0].stride + place - half * axes_[0].h;
      visit(position, full + frequency(0, place) * stride[0]);
    }
  }
}

template <class T>
void GridTransform<T>::table_spectrum(const double* table, T* spectrum) const {
  Buffer<double, Cpu> full(2 * full_size_);
  std::fill_n(full.data(), 2 * full_size_, 0.0);
  for_each_offset([&](Index position, Index at) { full.data()[2 * at] = table[position]; });
  plans_->forward(full.data());
  std::fill_n(spectrum, 2 * spectrum_size_, T(0));
  const double scale = 1.0 / static_cast<double>(full_size_);
  for_each_frequency([&](Index position, Index at) {
    spectrum[2 * position] = static_cast<T>(scale * full.data()[2 * at]);
    spectrum[2 * position + 1] = static_cast<T>(scale * full.data()[2 * at + 1]);
  });
}

template <class T>
void GridTransform<T>::add_table(const double* spectrum, T* table) const {
  Buffer<double, Cpu> full(2 * full_size_);
  for_each_frequency([&](Index position, Index at) {
    full.data()[2 * at] = spectrum[2 * position];
    full.data()[2 * at + 1] = spectrum[2 * position + 1];
  });
  plans_->backward(full.data());
  const double scale = 1.0 / static_cast<double>(full_size_);
  for_each_offset([&](Index position, Index at) { table[position] += static_cast<T>(scale * full.data()[2 * at]); });
}

template class GridTransform<float>;
template class GridTransform<double>;

}  // namespace espalier::backend
#endif
