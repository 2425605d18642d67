// What the FFT products share: columns gathered in pairs, work memory of a thread, the transform behind ToeplitzFft.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/views.hpp>

#include "backend/cpu/fft_transform.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/fft.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace espalier::backend {

// Pairs of columns gathered at once: a cache line of a row, while the panel stays within half an L2 of 1 MiB.
inline Index pairs_at_once(Index length, std::size_t element) {
  const auto complex = static_cast<Index>(2 * element);
  return std::clamp<Index>((Index{1} << 19) / (complex * std::max<Index>(1, length)), 2, 64 / complex);
}

template <class T>
struct Pair {
  T re, im;
};

// Columns of a panel lie this many numbers apart: a cache line more than a power of two, or all of them would share the few
// places of the first-level cache that one address has.
inline Index panel_stride(Index length) {
  return (length + 7) / 8 * 8 + 8;
}

// Rows ahead that are asked for while gathering: rows of token-major data often lie a page apart, where no processor looks
// ahead by itself.
inline constexpr Index kGatherRows = 8, kAhead = 16;

// panel[k * panel_stride + i] = x(i, first + 2 k) + i x(i, first + 2 k + 1) for k < pairs; a column past the end is 0. Rows are
// read once, whole cache lines of them; each of the few output streams is contiguous.
template <class T>
void gather_pairs(MatrixView<const T, Cpu> x, Index first, Index pairs, T* panel) {
  const Index whole = std::min(pairs, (x.cols - first) / 2), stride = panel_stride(x.rows);
  auto* out = reinterpret_cast<Pair<T>*>(panel);
  Index i = 0;
  for (; i + kGatherRows <= x.rows; i += kGatherRows) {
    for (Index r = 0; i + kAhead + kGatherRows <= x.rows && r < kGatherRows; ++r)
      __builtin_prefetch(x.row(i + kAhead + r) + first);
    for (Index k = 0; k < whole; ++k) {
      for (Index r = 0; r < kGatherRows; ++r)
        std::memcpy(out + k * stride + i + r, x.row(i + r) + first + 2 * k, sizeof(Pair<T>));
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

// The two columns of a pair brought to one largest number by powers of two, and back: both come with the rounding of the larger
// one. A column that is not finite is left out of the transform, so that it spoils its own result alone; one of zeros stays
// zeros.
template <class T>
class PairBalance {
 public:
  // Scales the pair in `line`, n numbers.
  PairBalance(const FftKernels<T>& kernels, Index n, T* line) : kernels_(&kernels) {
    T size[2];
    kernels.largest(line, n, size);
    int exponent[2] = {0, 0};
    for (const int part : {0, 1}) {
      known_[part] = size[part] == T(0) || !std::isfinite(size[part]);
      if (!known_[part]) {
        exponent[part] = std::ilogb(size[part]);
      } else if (size[part] != T(0)) {
        known_value_[part] = std::numeric_limits<T>::quiet_NaN();
        for (Index j = 0; j < n; ++j) line[2 * j + part] = T(0);
      }
    }
    // Within a factor of 8 it is not worth a pass over the numbers.
    const int smaller = exponent[0] < exponent[1] ? 0 : 1, apart = exponent[1 - smaller] - exponent[smaller];
    if (known_[0] || known_[1] || apart <= 2) return;
    constexpr int kMost = std::numeric_limits<T>::max_exponent - 8;  // its inverse is a normal number, too
    up_[smaller] = std::ldexp(T(1), std::min(apart, kMost));
    if (apart > kMost) up_[1 - smaller] = std::ldexp(T(1), kMost - apart);
    kernels.scale_parts(up_[0], up_[1], n, line);
  }
  // A result for the scaled pair becomes that of the pair itself.
  void restore(Index n, T* line) const {
    if (up_[0] != T(1) || up_[1] != T(1)) kernels_->scale_parts(T(1) / up_[0], T(1) / up_[1], n, line);
    for (const int part : {0, 1}) {
      for (Index j = 0; known_[part] && j < n; ++j) line[2 * j + part] = known_value_[part];
    }
  }

 private:
  const FftKernels<T>* kernels_;
  T up_[2] = {T(1), T(1)};
  bool known_[2] = {false, false};  // without a transform
  T known_value_[2] = {T(0), T(0)};
};

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

template <class T, class B>
struct ToeplitzFft<T, B>::State {
  State(const std::vector<Index>& sizes, bool measure) : transform(sizes, measure) {}
  GridTransform<T> transform;
};

}  // namespace espalier::backend
