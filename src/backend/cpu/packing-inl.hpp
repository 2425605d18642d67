// Packing for the register tile: transposes and panels. The only place that reads the caller's matrices.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once).
#if defined(ESPALIER_PACKING_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_PACKING_INL
#undef ESPALIER_PACKING_INL
#else
#define ESPALIER_PACKING_INL
#endif

#include <hwy/highway.h>

#include <espalier/core/views.hpp>

#include <algorithm>

#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 4 x 4 floats or 2 x 2 doubles through 128-bit registers: a scalar transpose costs 3 times more, a third of a whole product of
// 197 tokens.
#if HWY_TARGET != HWY_SCALAR
HWY_INLINE void transpose_square(const float* HWY_RESTRICT x, Index x_stride, float* HWY_RESTRICT y, Index y_stride) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<double, 2> pairs;
  const auto a = hn::LoadU(d, x), b = hn::LoadU(d, x + x_stride), c = hn::LoadU(d, x + 2 * x_stride),
             e = hn::LoadU(d, x + 3 * x_stride);
  const auto ab = hn::BitCast(pairs, hn::InterleaveLower(d, a, b)), ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
  const auto ce = hn::BitCast(pairs, hn::InterleaveLower(d, c, e)), ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)), d, y);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce)), d, y + y_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, y + 2 * y_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, y + 3 * y_stride);
}
HWY_INLINE void transpose_square(const double* HWY_RESTRICT x, Index x_stride, double* HWY_RESTRICT y, Index y_stride) {
  const hn::FixedTag<double, 2> d;
  const auto a = hn::LoadU(d, x), b = hn::LoadU(d, x + x_stride);
  hn::StoreU(hn::InterleaveLower(d, a, b), d, y);
  hn::StoreU(hn::InterleaveUpper(d, a, b), d, y + y_stride);
}
#endif

// y[j * y_stride + i] = x[i * x_stride + j], i < rows, j < cols.
template <class T>
HWY_NOINLINE void transpose(const T* HWY_RESTRICT x, Index x_stride, Index rows, Index cols, T* HWY_RESTRICT y,
                            Index y_stride) {
  Index i = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr Index n = static_cast<Index>(16 / sizeof(T));
  for (; i + n <= rows; i += n) {
    Index j = 0;
    for (; j + n <= cols; j += n) transpose_square(x + i * x_stride + j, x_stride, y + j * y_stride + i, y_stride);
    for (; j < cols; ++j) {
      for (Index r = 0; r < n; ++r) y[j * y_stride + i + r] = x[(i + r) * x_stride + j];
    }
  }
#endif
  for (; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) y[j * y_stride + i] = x[i * x_stride + j];
  }
}

template <class T>
HWY_INLINE void multiply_by(T factor, T* HWY_RESTRICT y, Index n) {
  const Wide<T> d;
  const auto f = hn::Set(d, factor);
  Index k = 0;
  for (; k + kLanes<T> <= n; k += kLanes<T>) hn::StoreU(hn::Mul(f, hn::LoadU(d, y + k)), d, y + k);
  for (; k < n; ++k) y[k] *= factor;
}

// Panels for the vector operand: y[p][k][kPanel] with lane l of panel p = factor * x(first + p * kPanel + l, k); lanes past
// `count` rows are zero. Size: whole panels * x.cols * kPanel.
template <class T>
void pack_lanes(MatrixView<const T, Cpu> x, Index first, Index count, T factor, T* y) {
  for (Index i = 0; i < count; i += kPanel<T>, y += x.cols * kPanel<T>) {
    const Index n = std::min(kPanel<T>, count - i);
    if (n < kPanel<T>) std::fill_n(y, x.cols * kPanel<T>, T(0));
    transpose(x.row(first + i), x.row_stride, n, x.cols, y, kPanel<T>);
    if (factor != T(1)) multiply_by(factor, y, x.cols * kPanel<T>);
  }
}

// Panels for the broadcast operand, depth along x's columns: y[p][k][R] with row r of panel p = x(first + p * kRows + r, k),
// R = tile_rows(rows left); rows past `count` are zero. Size: padded_rows(count) * x.cols.
template <class T>
void pack_rows(MatrixView<const T, Cpu> x, Index first, Index count, T* y) {
  for (Index j = 0; j < count; j += kRows) {
    const Index n = std::min<Index>(kRows, count - j), height = tile_rows(n);
    if (n < height) std::fill_n(y, x.cols * height, T(0));
    transpose(x.row(first + j), x.row_stride, n, x.cols, y, height);
    y += height * x.cols;
  }
}

// Panels for the broadcast operand, depth along x's rows: y[p][j][R] with row r of panel p = x(first + j, p * kRows + r),
// j < count. Columns past x.cols are zero. Size: padded_rows(x.cols) * count.
template <class T>
void pack_columns(MatrixView<const T, Cpu> x, Index first, Index count, T factor, T* y) {
  for (Index c = 0; c < x.cols; c += kRows) {
    const Index n = std::min<Index>(kRows, x.cols - c), height = tile_rows(n);
    for (Index j = 0; j < count; ++j, y += height) {
      const T* HWY_RESTRICT from = x.row(first + j) + c;
      for (Index r = 0; r < n; ++r) y[r] = factor * from[r];
      for (Index r = n; r < height; ++r) y[r] = T(0);
    }
  }
}

// Rows padded with zeros to whole vectors: y[i * padded_lanes(x.cols) + k] = factor * x(first + i, k).
template <class T>
void pack_padded(MatrixView<const T, Cpu> x, Index first, Index count, T factor, T* y) {
  const Index width = padded_lanes<T>(x.cols);
  for (Index i = 0; i < count; ++i, y += width) {
    const T* HWY_RESTRICT from = x.row(first + i);
    for (Index k = 0; k < x.cols; ++k) y[k] = factor * from[k];
    std::fill(y + x.cols, y + width, T(0));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // packing
