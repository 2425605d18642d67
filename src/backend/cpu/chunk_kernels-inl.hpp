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

// Register tiles that n rows make, panels that n elements make.
inline Index tiles(Index n) {
  return (n + kRows - 1) / kRows;
}
template <class T>
Index panels(Index n) {
  return (n + kPanel<T> - 1) / kPanel<T>;
}

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
// before: called before every register tile, here and below.
template <int V, class T, class F>
HWY_INLINE void add_weighted(Index depth, const T* HWY_RESTRICT x, Index x_step, Index columns, const T* HWY_RESTRICT s,
                             const hn::Vec<Wide<T>> (&w)[V], T* HWY_RESTRICT y, const F& before) {
  const Wide<T> d;
  for (Index c = 0; c < columns;) {
    before();
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
template <int V, class T, class F>
HWY_INLINE void outer_panel(Index depth, const T* HWY_RESTRICT a, Index a_step, Index rows, const T* HWY_RESTRICT b,
                            Index b_step, T* HWY_RESTRICT out, Index width, const F& before) {
  const Wide<T> d;
  for (Index i = 0; i < rows;) {
    before();
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

template <int V, class T>
HWY_INLINE void outer_panel(Index depth, const T* HWY_RESTRICT a, Index a_step, Index rows, const T* HWY_RESTRICT b,
                            Index b_step, T* HWY_RESTRICT out, Index width) {
  outer_panel<V>(depth, a, a_step, rows, b, b_step, out, width, [] HWY_ATTR {});
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

// acc[r][v] += sum_{k < depth} a[r * a_row + k] b[k * b_step + v * kLanes ..]: the register tile with a's own rows. Every third
// row has a pointer: those between are a displacement of one or two strides, which addresses hold.
template <class T, int R, int V>
HWY_INLINE void multiply_rows(Index depth, const T* HWY_RESTRICT a, Index a_row, const T* HWY_RESTRICT b, Index b_step,
                              Accumulator<T, R, V>& acc) {
  const Wide<T> d;
  constexpr int kPointers = (R + 2) / 3;
  const T* HWY_RESTRICT at[kPointers];
#pragma GCC unroll 4
  for (int p = 0; p < kPointers; ++p) at[p] = a + 3 * p * a_row;
#pragma GCC unroll 2
  for (Index k = 0; k < depth; ++k) {
    hn::Vec<Wide<T>> bk[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) bk[v] = hn::LoadU(d, b + v * kLanes<T>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const auto s = hn::Set(d, at[r / 3][r % 3 * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc.c[r][v] = hn::MulAdd(s, bk[v], acc.c[r][v]);
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPointers; ++p) ++at[p];
    b += b_step;
  }
}

// y[r * y_step + .] := acc[r][.].
template <class T, int R, int V>
HWY_INLINE void store_rows(const Accumulator<T, R, V>& acc, T* HWY_RESTRICT y, Index y_step) {
  const Wide<T> d;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) hn::StoreU(acc.c[r][v], d, y + r * y_step + v * kLanes<T>);
  }
}

// y[r * y_step + .] += acc[r][.].
template <class T, int R, int V>
HWY_INLINE void add_to_rows(const Accumulator<T, R, V>& acc, T* HWY_RESTRICT y, Index y_step) {
  const Wide<T> d;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* HWY_RESTRICT at = y + r * y_step + v * kLanes<T>;
      hn::StoreU(hn::Add(hn::LoadU(d, at), acc.c[r][v]), d, at);
    }
  }
}

// y[r * y_step + .] += weight_r acc[r][.].
template <class T, int R, int V>
HWY_INLINE void add_to_rows(const Accumulator<T, R, V>& acc, const T* HWY_RESTRICT weight, T* HWY_RESTRICT y, Index y_step) {
  const Wide<T> d;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const auto w = hn::Set(d, weight[r]);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* HWY_RESTRICT at = y + r * y_step + v * kLanes<T>;
      hn::StoreU(hn::MulAdd(w, acc.c[r][v], hn::LoadU(d, at)), d, at);
    }
  }
}

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

// y[k] = factor_k x[k] for V vectors of each row, those of y kPanel apart, and sum = sum_k last_k y[k].
template <int V, class T>
HWY_INLINE void scale_and_sum_rows(Index rows, const T* HWY_RESTRICT factor, const T* HWY_RESTRICT last,
                                   const T* HWY_RESTRICT x, Index x_step, T* HWY_RESTRICT y, T* HWY_RESTRICT sum) {
  const Wide<T> d;
  // Two chains each.
  hn::Vec<Wide<T>> total[2][V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) total[0][v] = total[1][v] = hn::Zero(d);
  const auto row = [&](Index k, hn::Vec<Wide<T>>(&to)[V]) HWY_ATTR {
    const auto f = hn::Set(d, factor[k]), z = hn::Set(d, last[k]);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const auto scaled = hn::Mul(f, hn::LoadU(d, x + k * x_step + v * kLanes<T>));
      hn::Store(scaled, d, y + k * kPanel<T> + v * kLanes<T>);
      to[v] = hn::MulAdd(z, scaled, to[v]);
    }
  };
  Index k = 0;
  for (; k + 2 <= rows; k += 2) row(k, total[0]), row(k + 1, total[1]);
  if (k < rows) row(k, total[0]);
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) hn::Store(hn::Add(total[0][v], total[1][v]), d, sum + v * kLanes<T>);
}

// y[r * y_step + .] (+)= sum_{k < depth} a[k * a_step + r] b[k][.], r < rows; width: whole vectors; add: to what y holds. Rows
// of y up to the next whole register tile are touched.
template <class T>
void add_outer_products(bool add, Index depth, const T* HWY_RESTRICT a, Index a_step, Index rows, PlainRows<T> b, Index width,
                        T* HWY_RESTRICT y, Index y_step) {
  over_panels<T>(width, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    for (Index i = 0; i < rows;) {
      i += with_even_rows(rows - i, [&](auto height) HWY_ATTR {
        constexpr int R = height;
        Accumulator<T, R, V> acc;
        clear(acc);
        multiply_accumulate<T, R, V>(depth, a + i, 1, a_step, b.data + column, b.step, acc);
        if (add) {
          add_to_rows(acc, y + i * y_step + column, y_step);
        } else {
          store_rows(acc, y + i * y_step + column, y_step);
        }
      });
    }
  });
}

// finish(acc, i, column) for tiles acc[r][.] = sum_{k < depth} a_{i + r}[k] b[k * b_step + column + .] + last_{i + r} b[depth *
// b_step + column + .], i + r < rows; width: whole vectors. last null: no such term. Rows of a up to the next whole register
// tile are touched.
template <class T, class B, class F>
HWY_INLINE void row_products(Index depth, PlainRows<T> a, Index rows, const T* last, const T* HWY_RESTRICT b, Index b_step,
                             Index width, const B& before, const F& finish) {
  over_panels<T>(width, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    for (Index i = 0; i < rows;) {
      before();
      i += with_even_rows(rows - i, [&](auto height) HWY_ATTR {
        constexpr int R = height;
        Accumulator<T, R, V> acc;
        clear(acc);
        multiply_rows<T, R, V>(depth, a.row(i), a.step, b + column, b_step, acc);
        if (last != nullptr) multiply_accumulate<T, R, V>(1, last + i, 1, 0, b + depth * b_step + column, 0, acc);
        finish(acc, i, column);
      });
    }
  });
}

// y[r * y_step + .] += weight_r times these sums; weight null: the sums themselves in the place of what y holds. Rows of y up
// to the next whole register tile are touched.
template <class T, class B>
void add_row_products(Index depth, PlainRows<T> a, Index rows, const T* weight, const T* last, const T* HWY_RESTRICT b,
                      Index b_step, Index width, T* HWY_RESTRICT y, Index y_step, const B& before) {
  row_products(depth, a, rows, last, b, b_step, width, before, [&](const auto& acc, Index i, Index column) HWY_ATTR {
    if (weight != nullptr) {
      add_to_rows(acc, weight + i, y + i * y_step + column, y_step);
    } else {
      store_rows(acc, y + i * y_step + column, y_step);
    }
  });
}

// sums[kind][.] += sum_r kinds[kind * stride + r] (acc[r][.] . met_r[.]) by lanes, for the four kinds of weight.
template <class T, int R, int V>
HWY_INLINE void add_met(const Accumulator<T, R, V>& acc, const T* HWY_RESTRICT met, Index met_step, const T* HWY_RESTRICT kinds,
                        Index stride, T* HWY_RESTRICT sums) {
  constexpr int K = 4;
  const Wide<T> d;
  hn::Vec<Wide<T>> sum[K];
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) sum[k] = hn::Load(d, sums + k * kLanes<T>);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const T* with = met + r * met_step;
    auto t = hn::Mul(acc.c[r][0], hn::LoadU(d, with));
    if constexpr (V == 2) t = hn::MulAdd(acc.c[r][1], hn::LoadU(d, with + kLanes<T>), t);
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) sum[k] = hn::MulAdd(hn::Set(d, kinds[k * stride + r]), t, sum[k]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) hn::Store(sum[k], d, sums + k * kLanes<T>);
}

// As add_row_products, and for every kind of weight the sums over rows of (what y_r gets, without its weight) . met_r, to be
// summed over lanes. kinds: [4, stride]. Rows of met behind the last one are zeros.
template <class T, class B>
void add_met_row_products(Index depth, PlainRows<T> a, Index rows, const T* HWY_RESTRICT weight, const T* HWY_RESTRICT last,
                          const T* HWY_RESTRICT b, Index b_step, Index width, T* HWY_RESTRICT y, Index y_step, PlainRows<T> met,
                          const T* HWY_RESTRICT kinds, Index stride, T* HWY_RESTRICT sums, const B& before) {
  row_products(depth, a, rows, last, b, b_step, width, before, [&](const auto& acc, Index i, Index column) HWY_ATTR {
    add_to_rows(acc, weight + i, y + i * y_step + column, y_step);
    add_met(acc, met.row(i) + column, met.step, kinds + i, stride, sums);
  });
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

// The same where whole register tiles of rows are touched: copied too where n rows are not whole, with rows of zeros behind.
template <class T>
PlainRows<T> whole_rows(MatrixView<const T, Cpu> x, Index first, Index n, Index width, T* HWY_RESTRICT memory) {
  if (padded_rows(n) == n) return plain_rows(x, first, n, width, memory);
  copy_padded(x, first, n, width, memory);
  std::fill_n(memory + n * width, (padded_rows(n) - n) * width, T(0));
  return {memory, width};
}

// n elements from `first`, zeros behind them up to `size`.
template <class T>
void copy_vector(VectorView<const T, Cpu> x, Index first, Index n, Index size, T* HWY_RESTRICT y) {
  std::copy_n(x.data + first, n, y);
  std::fill_n(y + n, size - n, T(0));
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
