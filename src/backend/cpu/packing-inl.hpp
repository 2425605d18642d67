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

// What elements go through on their way into a panel: whole vectors of D, or one element. A pass of its own, with a copy, takes
// 7 to 10 % of a whole linear attention of 197 tokens.
struct AsIs {
  template <class D, class V>
  HWY_INLINE V operator()(D, V v) const {
    return v;
  }
  template <class T>
  HWY_INLINE T operator()(T x) const {
    return x;
  }
};
// max(x, 0) + epsilon; NaN passes through.
template <class T>
struct ReluPlus {
  T epsilon;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V v) const {
    return hn::Add(hn::IfThenZeroElse(hn::Lt(v, hn::Zero(d)), v), hn::Set(d, epsilon));
  }
  HWY_INLINE T operator()(T x) const { return (x < T(0) ? T(0) : x) + epsilon; }
};

// Squares are transposed in registers: 128-bit blocks first, then the blocks of wider vectors. A scalar transpose costs 3 to 8
// times more, a third of a whole product of 197 tokens.
#if HWY_TARGET != HWY_SCALAR
// v[0 .. 3] (floats) or v[0 .. 1] (doubles): each 128-bit block of them as a square of its own.
template <class V>
HWY_INLINE void transpose_in_blocks(hn::FixedTag<float, 4>, V* v) {
  const hn::DFromV<V> d;
  const hn::Repartition<double, hn::DFromV<V>> pairs;
  const auto ab = hn::BitCast(pairs, hn::InterleaveLower(d, v[0], v[1]));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, v[0], v[1]));
  const auto ce = hn::BitCast(pairs, hn::InterleaveLower(d, v[2], v[3]));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, v[2], v[3]));
  v[0] = hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce));
  v[1] = hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce));
  v[2] = hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high));
  v[3] = hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high));
}
template <class V>
HWY_INLINE void transpose_in_blocks(hn::FixedTag<double, 2>, V* v) {
  const hn::DFromV<V> d;
  const auto low = hn::InterleaveLower(d, v[0], v[1]);
  v[1] = hn::InterleaveUpper(d, v[0], v[1]);
  v[0] = low;
}

// v[0 .. N - 1], N the lanes of a vector, as one square.
template <class D, class V>
HWY_INLINE void transpose_square(D d, V* v) {
  using T = hn::TFromD<D>;
  constexpr int kBlock = static_cast<int>(16 / sizeof(T)), kVectors = static_cast<int>(hn::MaxLanes(D()));
#pragma GCC unroll 8
  for (int r = 0; r < kVectors; r += kBlock) transpose_in_blocks(hn::FixedTag<T, 16 / sizeof(T)>(), v + r);
  if constexpr (kVectors == 2 * kBlock) {
#pragma GCC unroll 4
    for (int c = 0; c < kBlock; ++c) {
      const V low = v[c], high = v[c + kBlock];
      v[c] = hn::ConcatLowerLower(d, high, low);
      v[c + kBlock] = hn::ConcatUpperUpper(d, high, low);
    }
  }
  if constexpr (kVectors == 4 * kBlock) {
#pragma GCC unroll 4
    for (int c = 0; c < kBlock; ++c) {
      V *a = v + c, *b = a + kBlock, *e = b + kBlock, *f = e + kBlock;
      const V t0 = hn::ConcatLowerLower(d, *e, *a), t1 = hn::ConcatLowerLower(d, *f, *b);
      const V t2 = hn::ConcatUpperUpper(d, *e, *a), t3 = hn::ConcatUpperUpper(d, *f, *b);
      *a = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(t1), t0);
      *b = hn::OddEvenBlocks(t1, hn::SwapAdjacentBlocks(t0));
      *e = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(t3), t2);
      *f = hn::OddEvenBlocks(t3, hn::SwapAdjacentBlocks(t2));
    }
  }
}

// y[j * y_stride + i] = map(x[i * x_stride + j]) for a square of one vector's lanes, and asks for the square of x below it. A
// call of its own: inlined, its 32 addresses would be kept on the stack.
template <class D, class T, class Map>
HWY_NOINLINE void move_square(D d, const T* HWY_RESTRICT x, Index x_stride, T* HWY_RESTRICT y, Index y_stride, Map map) {
  constexpr int kVectors = static_cast<int>(hn::MaxLanes(D()));
  hn::Vec<D> v[kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kVectors; ++r, x += x_stride) v[r] = map(d, hn::LoadU(d, x));
#pragma GCC unroll 16
  for (int r = 0; r < kVectors; ++r, x += x_stride) __builtin_prefetch(x);
  transpose_square(d, v);
#pragma GCC unroll 16
  for (int r = 0; r < kVectors; ++r, y += y_stride) hn::StoreU(v[r], d, y);
}

// Rows i .. of a transpose by squares of D, as many rows as whole squares take; the first row not done.
template <class D, class T, class Map>
HWY_INLINE Index move_rows(D d, const T* HWY_RESTRICT x, Index x_stride, Index i, Index rows, Index cols, T* HWY_RESTRICT y,
                           Index y_stride, Map map) {
  constexpr Index n = static_cast<Index>(hn::MaxLanes(D()));
  for (; i + n <= rows; i += n) {
    Index j = 0;
    for (; j + n <= cols; j += n) move_square(d, x + i * x_stride + j, x_stride, y + j * y_stride + i, y_stride, map);
    for (; j < cols; ++j) {
      for (Index r = 0; r < n; ++r) y[j * y_stride + i + r] = map(x[(i + r) * x_stride + j]);
    }
  }
  return i;
}
#endif

// y[j * y_stride + i] = map(x[i * x_stride + j]), i < rows, j < cols.
template <class T, class Map = AsIs>
HWY_NOINLINE void transpose(const T* HWY_RESTRICT x, Index x_stride, Index rows, Index cols, T* HWY_RESTRICT y, Index y_stride,
                            Map map = {}) {
  Index i = 0;
#if HWY_TARGET != HWY_SCALAR
  if (cols >= kLanes<T>) i = move_rows(Wide<T>(), x, x_stride, i, rows, cols, y, y_stride, map);
  i = move_rows(hn::FixedTag<T, 16 / sizeof(T)>(), x, x_stride, i, rows, cols, y, y_stride, map);
#endif
  for (; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) y[j * y_stride + i] = map(x[i * x_stride + j]);
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

// Panels for the vector operand: y[p][k][kPanel] with lane l of panel p = factor * map(x(first + p * kPanel + l, k)); lanes
// past `count` rows are zero. Size: whole panels * x.cols * kPanel.
template <class T, class Map = AsIs>
void pack_lanes(MatrixView<const T, Cpu> x, Index first, Index count, T factor, T* y, Map map = {}) {
  for (Index i = 0; i < count; i += kPanel<T>, y += x.cols * kPanel<T>) {
    const Index n = std::min(kPanel<T>, count - i);
    if (n < kPanel<T>) std::fill_n(y, x.cols * kPanel<T>, T(0));
    transpose(x.row(first + i), x.row_stride, n, x.cols, y, kPanel<T>, map);
    if (factor != T(1)) multiply_by(factor, y, x.cols * kPanel<T>);
  }
}

#if HWY_TARGET != HWY_SCALAR
// One panel of pack_rows for R rows that exist, by squares of a vector's lanes, R at most these: y[k][R] =
// map(x[r * x_stride + k]). Each square's rows are stored whole, the surplus is overwritten by the next row; near the end of
// the panel, where nothing comes after, through a copy.
template <int R, class T, class Map>
HWY_NOINLINE void pack_panel(const T* HWY_RESTRICT x, Index x_stride, Index cols, T* HWY_RESTRICT y, Map map) {
  const Wide<T> d;
  constexpr int n = static_cast<int>(kLanes<T>);
  Index k = 0;
  for (; k + n <= cols; k += n, y += n * R) {
    hn::Vec<Wide<T>> v[n];
    const T* from = x + k;
#pragma GCC unroll 16
    for (int r = 0; r < n; ++r, from += x_stride) v[r] = r < R ? map(d, hn::LoadU(d, from)) : hn::Zero(d);
    from = x + k + R * x_stride;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, from += x_stride) __builtin_prefetch(from);
    transpose_square(d, v);
    if ((cols - k - n) * R >= n - R) {
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) hn::StoreU(v[r], d, y + r * R);
    } else {
      HWY_ALIGN T rows[n * n];
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) hn::Store(v[r], d, rows + r * n);
      for (int r = 0; r < n; ++r) std::copy_n(rows + r * n, R, y + r * R);
    }
  }
  for (; k < cols; ++k, y += R) {
    for (int r = 0; r < R; ++r) y[r] = map(x[r * x_stride + k]);
  }
}
#endif

// Panels for the broadcast operand, depth along x's columns: y[p][k][R] with row r of panel p =
// map(x(first + p * kRows + r, k)), R = tile_rows(rows left); rows past `count` are zero. Size: padded_rows(count) * x.cols.
template <class T, class Map = AsIs>
void pack_rows(MatrixView<const T, Cpu> x, Index first, Index count, T* y, Map map = {}) {
  for (Index j = 0; j < count; j += kRows) {
    const Index n = std::min<Index>(kRows, count - j), height = tile_rows(n);
#if HWY_TARGET != HWY_SCALAR
    if constexpr (kRows <= kLanes<T>) {
      if (n == kRows) {
        pack_panel<kRows>(x.row(first + j), x.row_stride, x.cols, y, map);
        y += height * x.cols;
        continue;
      }
    }
#endif
    if (n < height) std::fill_n(y, x.cols * height, T(0));
    transpose(x.row(first + j), x.row_stride, n, x.cols, y, height, map);
    y += height * x.cols;
  }
}

// y[r] = factor * x[r], r < R.
template <int R, class T>
HWY_INLINE void copy_scaled(const T* HWY_RESTRICT x, T factor, T* HWY_RESTRICT y) {
#if HWY_TARGET != HWY_SCALAR
  constexpr int kPart = R * sizeof(T) % 16 == 0 ? static_cast<int>(16 / sizeof(T)) : static_cast<int>(8 / sizeof(T));
  const hn::CappedTag<T, kPart> d;
  const auto f = hn::Set(d, factor);
#pragma GCC unroll 6
  for (int r = 0; r < R; r += kPart) hn::StoreU(hn::Mul(f, hn::LoadU(d, x + r)), d, y + r);
#else
  for (int r = 0; r < R; ++r) y[r] = factor * x[r];
#endif
}

// Panels for the broadcast operand, depth along x's rows: y[p][j][R] with row r of panel p = x(first + j, p * kRows + r),
// j < count. Columns past x.cols are zero. Size: padded_rows(x.cols) * count. Reads whole rows one after the other: panel by
// panel, data that is not in the cache yet would come three times slower.
template <class T>
void pack_columns(MatrixView<const T, Cpu> x, Index first, Index count, T factor, T* y) {
  const Index whole = x.cols / kRows * kRows, n = x.cols - whole, height = n > 0 ? tile_rows(n) : 0;
  for (Index j = 0; j < count; ++j) {
    const T* HWY_RESTRICT from = x.row(first + j);
    T* HWY_RESTRICT to = y + j * kRows;
    for (Index c = 0; c < whole; c += kRows, to += count * kRows) copy_scaled<kRows>(from + c, factor, to);
    if (n == 0) continue;
    from += whole;
    to = y + count * whole + j * height;
    for (Index r = 0; r < n; ++r) to[r] = factor * from[r];
    for (Index r = n; r < height; ++r) to[r] = T(0);
  }
}

// Asks for rows that will be read, or written, a little later: a hint, which GCC leaves out where it does not inline the call
// (to it a function of prefetches has no effect). Made sure of everywhere, it made products between chunks 6 to 10 % slower.
template <bool kWrite, class T>
void prefetch_rows(MatrixView<T, Cpu> x, Index first, Index count) {
  constexpr Index line = static_cast<Index>(64 / sizeof(T));
  for (Index i = first; i < first + count; ++i) {
    for (Index k = 0; k < x.cols; k += line) __builtin_prefetch(x.row(i) + k, kWrite ? 1 : 0);
  }
}

// `rows` rows of x from `first`, asked for evenly over `parts` pieces of other work, each after a call of ask(). All at once
// they would fill the queue of cache misses and hold up what that work reads: up to a fifth of a whole product.
template <bool kWrite, class T>
class RowsToCome {
 public:
  RowsToCome(MatrixView<T, Cpu> x, Index first, Index rows, Index parts)
      : x_(x), next_(first), last_(x ? first + rows : first), rows_(rows), parts_(std::max<Index>(1, parts)) {}
  HWY_INLINE void ask() {
    for (due_ += rows_; due_ >= parts_; due_ -= parts_) {
      if (next_ < last_) prefetch_rows<kWrite>(x_, next_++, 1);
    }
  }

 private:
  MatrixView<T, Cpu> x_;
  Index next_, last_, rows_, parts_, due_ = 0;
};

// Rows padded with zeros to whole vectors: y[i * padded_lanes(x.cols) + k] = factor * x(first + i, k).
template <class T>
void pack_padded(MatrixView<const T, Cpu> x, Index first, Index count, T factor, T* y) {
  const Wide<T> d;
  const auto f = hn::Set(d, factor);
  const Index width = padded_lanes<T>(x.cols);
  for (Index i = 0; i < count; ++i, y += width) {
    const T* HWY_RESTRICT from = x.row(first + i);
    Index k = 0;
    for (; k + kLanes<T> <= x.cols; k += kLanes<T>) hn::StoreU(hn::Mul(f, hn::LoadU(d, from + k)), d, y + k);
    for (; k < x.cols; ++k) y[k] = factor * from[k];
    std::fill(y + x.cols, y + width, T(0));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // packing
