// Inner kernels that the chunked products and their gradients share.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see chunked.cpp.
#if defined(ESPALIER_CHUNK_KERNELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_CHUNK_KERNELS_INL
#undef ESPALIER_CHUNK_KERNELS_INL
#else
#define ESPALIER_CHUNK_KERNELS_INL
#endif

#include <hwy/highway.h>

#include <espalier/core/views.hpp>

#include <algorithm>

#include "backend/chunked.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// y[c][.] += sum_{k < depth} x[k * x_step + c] s[k * s_step + .] for `columns` rows c of y (kPanel apart) and V vectors of
// lanes. Columns up to the next whole register tile of x are read.
template <int V, class T>
HWY_INLINE void add_strided(Index depth, const T* HWY_RESTRICT x, Index x_step, Index columns, const T* HWY_RESTRICT s,
                            Index s_step, T* HWY_RESTRICT y) {
  for (Index c = 0; c < columns;) {
    c += with_even_rows(columns - c, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, x + c, 1, x_step, s, s_step, acc);
      add_tile(acc, y + c * kPanel<T>);
    });
  }
}

// The same with every lane's sum times its own weight w: y[c][.] += w[.] sum_k x[k][c] s[k][.], rows of s kPanel apart.
template <int V, class T>
HWY_INLINE void add_weighted(Index depth, const T* HWY_RESTRICT x, Index x_step, Index columns, const T* HWY_RESTRICT s,
                             const hn::Vec<Wide<T>> (&w)[V], T* HWY_RESTRICT y) {
  const Wide<T> d;
  for (Index c = 0; c < columns;) {
    c += with_even_rows(columns - c, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, x + c, 1, x_step, s, kPanel<T>, acc);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          T* to = y + (c + r) * kPanel<T> + v * kLanes<T>;
          hn::Store(hn::MulAdd(w[v], acc.c[r][v], hn::Load(d, to)), d, to);
        }
      }
    });
  }
}

// out[r * width + .] = sum_{k < depth} a[k * a_step + r] b[k * b_step + .], r < rows, V vectors wide.
template <int V, class T>
HWY_INLINE void outer_panel(Index depth, const T* HWY_RESTRICT a, Index a_step, Index rows, const T* HWY_RESTRICT b,
                            Index b_step, T* HWY_RESTRICT out, Index width) {
  const Wide<T> d;
  for (Index i = 0; i < rows;) {
    i += with_even_rows(rows - i, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, a + i, 1, a_step, b, b_step, acc);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        if (i + r < rows) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) hn::Store(acc.c[r][v], d, out + (i + r) * width + v * kLanes<T>);
        }
      }
    });
  }
}

// f(column, Constant<V>()) for the panels of a row of `width` elements (whole vectors): two vectors, one where that is all.
template <class T, class F>
HWY_INLINE void over_panels(Index width, const F& f) {
  Index column = 0;
  for (; column + kPanel<T> <= width; column += kPanel<T>) f(column, Constant<2>());
  if (column < width) f(column, Constant<1>());
}

// out[r * width + .] = sum_{k < depth} a[k * a_step + r] b[k * width + .], r < rows; width: whole vectors.
template <class T>
void outer_products(Index depth, const T* HWY_RESTRICT a, Index a_step, Index rows, const T* HWY_RESTRICT b, Index width,
                    T* HWY_RESTRICT out) {
  over_panels<T>(width, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    outer_panel<V>(depth, a, a_step, rows, b + column, width, out + column, width);
  });
}

// Rows `step` apart, whole vectors and whole register tiles of whose columns may be read.
template <class T>
struct PlainRows {
  const T* data;
  Index step;
  const T* row(Index i) const { return data + i * step; }
};

// y[k] = factor_k x[k], rows of `width` elements (whole vectors), those of y close together.
template <class T>
HWY_INLINE void scale_rows(Index rows, Index width, const T* HWY_RESTRICT factor, PlainRows<T> x, T* HWY_RESTRICT y) {
  const Wide<T> d;
  for (Index k = 0; k < rows; ++k) {
    const auto f = hn::Set(d, factor[k]);
    for (Index l = 0; l < width; l += kLanes<T>) {
      hn::Store(hn::Mul(f, hn::LoadU(d, x.row(k) + l)), d, y + k * width + l);
    }
  }
}

// out[r * width + .] = sum_{k < depth} factor_k a[k][r] x[k][.], r < rows; width: whole vectors. `memory`: depth * kPanel. The
// scaled rows of one panel at a time: those of all panels would push the operands out of the first-level cache.
template <class T>
void scaled_outer_products(Index depth, const T* HWY_RESTRICT factor, PlainRows<T> a, Index rows, PlainRows<T> x, Index width,
                           T* HWY_RESTRICT memory, T* HWY_RESTRICT out) {
  over_panels<T>(width, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    scale_rows(depth, V * kLanes<T>, factor, PlainRows<T>{x.data + column, x.step}, memory);
    outer_panel<V>(depth, a.data, a.step, rows, memory, V * kLanes<T>, out + column, width);
  });
}

// y[l] = sum_k factor_k x[k][l].
template <class T>
HWY_INLINE void weighted_sum(Index rows, Index width, const T* HWY_RESTRICT factor, PlainRows<T> x, T* HWY_RESTRICT y) {
  const Wide<T> d;
  for (Index l = 0; l < width; l += kLanes<T>) {
    auto even = hn::Zero(d), odd = hn::Zero(d);
    Index k = 0;
    for (; k + 2 <= rows; k += 2) {
      even = hn::MulAdd(hn::Set(d, factor[k]), hn::LoadU(d, x.row(k) + l), even);
      odd = hn::MulAdd(hn::Set(d, factor[k + 1]), hn::LoadU(d, x.row(k + 1) + l), odd);
    }
    if (k < rows) even = hn::MulAdd(hn::Set(d, factor[k]), hn::LoadU(d, x.row(k) + l), even);
    hn::Store(hn::Add(even, odd), d, y + l);
  }
}

// n rows of x from `first`, each padded with zeros to `width`.
template <class T>
void copy_padded(MatrixView<const T, Cpu> x, Index first, Index n, Index width, T* HWY_RESTRICT y) {
  for (Index i = 0; i < n; ++i, y += width) {
    std::copy_n(x.row(first + i), x.cols, y);
    std::fill(y + x.cols, y + width, T(0));
  }
}

// n rows of x from `first`: the caller's own where they are exactly `width` wide and close together (at strides near a page all
// would share the same few places of the first-level cache), else a padded copy in `memory`.
template <class T>
PlainRows<T> plain_rows(MatrixView<const T, Cpu> x, Index first, Index n, Index width, T* HWY_RESTRICT memory) {
  if (x.cols == width && x.row_stride * static_cast<Index>(sizeof(T)) <= 1024) return {x.row(first), x.row_stride};
  copy_padded(x, first, n, width, memory);
  return {memory, width};
}

// The sources [from, to) of a near chunk that a panel of rows can see, by structure; `from` a multiple of kRows.
template <class T>
void visible_sources(const ChunkedToeplitz<T>& m, Index i0, Index ni, Index j0, Index nj, Index& from, Index& to) {
  from = m.has_lower ? 0 : std::clamp<Index>(i0 - j0, 0, nj) / kRows * kRows;
  to = m.has_upper ? nj : std::clamp<Index>(i0 + ni - j0, 0, nj);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // chunk kernels
