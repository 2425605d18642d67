// Backend primitive: products with a d-level Toeplitz matrix, and the gradient of its table, by FFT.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/views.hpp>

#include "backend/elementwise.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

namespace espalier::backend {

// Whether this build has an FFT on backend B for grids of these sizes; without one a ToeplitzFft cannot be made. On Cpu all or
// none; on Cuda those with at most three axes longer than 1 (cuFFT's own limit).
template <class B>
bool has_fft(const std::vector<Index>& sizes);

// The smallest h >= n whose prime factors are 2, 3, 5 and 7, beyond 16 a multiple of 4; a line of n is padded to 2 h points.
// Why: FFTW takes 187 ns for 192 points and 550 for 189 (float, Zen 5). Of lengths that 4 does not divide only those up to 16
// and 25 have a step of their own.
inline Index smooth_length(Index n) {
  if (n == 25) return n;
  const Index step = n > 16 ? 4 : 1;
  for (Index h = (std::max<Index>(1, n) + step - 1) / step * step;; h += step) {
    Index rest = h;
    for (const Index prime : {2, 3, 5, 7}) {
      while (rest % prime == 0) rest /= prime;
    }
    if (rest == 1) return h;
  }
}

// Plans of the circulant embedding for M_ij = t[i - j] on a grid n_1 x ... x n_d (core facts: masks/grid.hpp), L = prod n_t,
// P = prod 2 h_t, h_t = smooth_length(n_t), axes with n_t = 1 left out. Immutable; used by any number of threads at once.
//
// Two real columns travel as one complex column: M is real, so its spectrum acts on both at once and Mᵀ is the conjugate
// spectrum. Cost: 10 P log2 P flops a pair of columns, on the host less by the lines of padding. Memory: at most `bytes(...)` a
// call. The result's error is normwise: about eps sqrt(log2 P) of || |M| |x| || for each column x of a plain product, not row
// by row; on the host a pair is brought to one largest number first, on a device both columns have the error of the larger one.
// Gradients: of all columns together. Errors: BackendError where the library below fails or there is none.
template <class T, class B>
class ToeplitzFft {
 public:
  // measure: plans are timed (FFTW_MEASURE) instead of guessed.
  ToeplitzFft(std::vector<Index> sizes, bool measure);
  ~ToeplitzFft();
  ToeplitzFft(const ToeplitzFft&) = delete;
  ToeplitzFft& operator=(const ToeplitzFft&) = delete;

  // The spectrum of a table (2 n_1 - 1) x ... x (2 n_d - 1) in host memory, computed in double, in this plan's own order. On a
  // device it is there once the context's stream has come so far; until then the table must stay.
  Buffer<T, B> spectrum(const double* table, const Context<B>& context) const;

  // y = M x, or Mᵀ x.
  void multiply(const T* spectrum, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                const Context<B>& context) const;
  // Y = (M ∘ A Bᵀ) X and its row sums (transpose: with Mᵀ). Columns b_jr x_jk are made while loading, contracted while storing.
  void multiply_low_rank(const T* spectrum, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                         const Context<B>& context) const;
  // All gradients of the masked product from four transforms a pair of columns (forward: two). gradients.parameters is not
  // used; the table's gradient is added to table_bar where that is not null.
  void multiply_low_rank_vjp(const T* spectrum, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                             const LowRankGradients<T, B>& gradients, T* table_bar, const Context<B>& context) const;
  // table_bar[o] += sum_{i - j = o} sum_c y_bar_ic x_jc, gathered in the frequency domain: one inverse transform at the end.
  void add_table_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, T* table_bar,
                          const Context<B>& context) const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

// Without making a plan: P, flops of a product of `columns` columns (two transforms a pair), and a bound on a call's memory.
inline double toeplitz_fft_points(const std::vector<Index>& sizes) {
  double points = 1;
  for (const Index n : sizes) points *= n > 1 ? 2.0 * static_cast<double>(smooth_length(n)) : 1.0;
  return points;
}
inline double toeplitz_fft_flops(const std::vector<Index>& sizes, double columns) {
  const double points = toeplitz_fft_points(sizes);
  return std::ceil(columns / 2) * 2 * 5 * points * std::log2(std::max(2.0, points));
}
// The same without lines that are all padding, forward, or that nobody reads, backward: axis t has prod_{s < t} n_s
// prod_{s > t} 2 h_s lines. With n_t = h_t three quarters of the above on two axes, 7/12 on three. What the host does.
inline double toeplitz_fft_pruned_flops(const std::vector<Index>& sizes, double columns) {
  double flops = 0, lines = 1;
  for (const Index n : sizes) lines *= static_cast<double>(n);
  for (std::size_t t = sizes.size(); t-- > 0;) {
    lines /= static_cast<double>(sizes[t]);
    const double line = sizes[t] > 1 ? 2.0 * static_cast<double>(smooth_length(sizes[t])) : 1.0;
    flops += 5 * lines * line * std::log2(line);
    lines *= line;
  }
  return std::ceil(columns / 2) * 2 * std::max(flops, 5.0);
}
template <class B>
std::size_t toeplitz_fft_bytes(const std::vector<Index>& sizes, Index columns, Index rank, std::size_t element);

}  // namespace espalier::backend
