// Host versions of the primitives by rows: plain loops, memory-bound.
// SPDX-License-Identifier: Apache-2.0
#include "backend/rows.hpp"

#include <algorithm>
#include <vector>

namespace espalier::backend {

namespace {

Index visible_count(const Visible& visible, Index i) {
  return visible.causal ? std::clamp<Index>(i + visible.shift + 1, 0, visible.keys) : visible.keys;
}

// In several sums, for vectors: one sum would wait for each addition (1 % of a training step of 197 tokens).
template <class T>
T dot_product(const T* __restrict x, const T* __restrict y, Index n) {
  constexpr Index kSums = 8;
  T sums[kSums] = {};
  Index k = 0;
  for (; k + kSums <= n; k += kSums) {
    for (Index s = 0; s < kSums; ++s) sums[s] += x[k + s] * y[k + s];
  }
  for (; k < n; ++k) sums[0] += x[k] * y[k];
  for (Index s = 1; s < kSums; ++s) sums[0] += sums[s];
  return sums[0];
}

}  // namespace

template <class T, class B>
Index divide_rows(MatrixView<T, B> y, MatrixView<const T, B> d, double floor, const Context<B>&) {
  Index count = 0;
  for (Index i = 0; i < y.rows; ++i) {
    T* row = y.row(i);
    if (is_floored(d(i, 0), floor)) {
      ++count;
      std::fill_n(row, y.cols, T(0));
      continue;
    }
    const T inverse = T(1) / d(i, 0);
    for (Index c = 0; c < y.cols; ++c) row[c] *= inverse;
  }
  return count;
}

template <class T, class B>
void divide_rows_vjp(const DividedRows<T, B>& in, MatrixView<T, B> y_bar, VectorView<T, B> d_bar, const Context<B>&) {
  for (Index i = 0; i < y_bar.rows; ++i) {
    T inverse = T(1), dot = T(0);
    const bool dead = i >= in.used || (in.normalize && is_floored(in.d(i, 0), in.floor));
    T* __restrict to = y_bar.row(i);
    if (dead) {
      std::fill_n(to, y_bar.cols, T(0));
    } else {
      if (in.normalize) inverse = T(1) / in.d(i, 0);
      const T* __restrict bar = in.out_bar.row(i);
      for (Index c = 0; c < y_bar.cols; ++c) to[c] = bar[c] * inverse;
      if (in.normalize) dot = dot_product(to, in.out.row(i), y_bar.cols);
    }
    d_bar[i] = -dot;
  }
}

template <class T, class B>
void add_visible_sums(double epsilon, const Visible& visible, MatrixView<const T, B> v, MatrixView<T, B> y, MatrixView<T, B> d,
                      const Context<B>&) {
  std::vector<double> sum(static_cast<std::size_t>(v.cols));
  Index done = 0;
  for (Index i = 0; i < y.rows; ++i) {
    for (const Index end = visible_count(visible, i); done < end; ++done) {
      for (Index c = 0; c < v.cols; ++c) sum[static_cast<std::size_t>(c)] += v(done, c);
    }
    for (Index c = 0; c < v.cols; ++c) y(i, c) += static_cast<T>(epsilon * sum[static_cast<std::size_t>(c)]);
    d(i, 0) += static_cast<T>(epsilon * static_cast<double>(done));
  }
}

template <class T, class B>
void add_visible_sums_vjp(double epsilon, const Visible& visible, MatrixView<const T, B> y_bar, MatrixView<T, B> v_bar,
                          const Context<B>&) {
  std::vector<double> sum(static_cast<std::size_t>(v_bar.cols));
  Index i = y_bar.rows;
  for (Index j = visible.keys; j-- > 0;) {
    // Later queries see more keys: key j is seen by the queries from the first with a count above j on.
    while (i > 0 && visible_count(visible, i - 1) > j) {
      --i;
      for (Index c = 0; c < v_bar.cols; ++c) sum[static_cast<std::size_t>(c)] += y_bar(i, c);
    }
    for (Index c = 0; c < v_bar.cols; ++c) v_bar(j, c) += static_cast<T>(epsilon * sum[static_cast<std::size_t>(c)]);
  }
}

#define ESPALIER_INSTANTIATE(T)                                                                                            \
  template Index divide_rows(MatrixView<T, Cpu>, MatrixView<const T, Cpu>, double, const Context<Cpu>&);                   \
  template void divide_rows_vjp(const DividedRows<T, Cpu>&, MatrixView<T, Cpu>, VectorView<T, Cpu>, const Context<Cpu>&);  \
  template void add_visible_sums(double, const Visible&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, MatrixView<T, Cpu>, \
                                 const Context<Cpu>&);                                                                     \
  template void add_visible_sums_vjp(double, const Visible&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
