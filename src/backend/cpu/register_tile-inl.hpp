// The register tile under every dense kernel: C[R x V vectors] = sum_k A[k][R] B[k][V vectors], all in registers.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see tiles.cpp.
#if defined(ESPALIER_REGISTER_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_REGISTER_TILE_INL
#undef ESPALIER_REGISTER_TILE_INL
#else
#define ESPALIER_REGISTER_TILE_INL
#endif

#include <hwy/highway.h>

#include <espalier/core/backend.hpp>

#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Wide = hn::ScalableTag<T>;

// Lanes of a vector, and the width of a panel (two vectors): the number of rows i that a tile carries side by side.
template <class T>
constexpr Index kLanes = static_cast<Index>(hn::MaxLanes(Wide<T>()));
template <class T>
constexpr Index kPanel = 2 * kLanes<T>;

// Rows of C held in registers. AVX-512 has 32 vector registers: 12 x 2 accumulators + 2 of B + broadcasts from memory; with
// 16 registers 6 x 2. Remainders run with 2/3 and 1/3 of the rows.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

// The tile of add_row_tiles, where rows are few and columns lie along lanes: up to 6 rows of 4 vectors of columns. Nothing is
// packed, padded or turned for it; with 16 registers it would be too narrow to pay.
#if HWY_TARGET <= HWY_AVX3
constexpr int kColumnVectors = 4;
#else
constexpr int kColumnVectors = 0;
#endif
constexpr int kColumnRows = 6;

// Rows of the narrowest tile that holds n rows (1 <= n), at most kRows: the height of a packed panel of n rows.
constexpr int tile_rows(Index n) {
  return n > 2 * kRows / 3 ? kRows : n > kRows / 3 ? 2 * kRows / 3 : kRows / 3;
}
// n rounded up to a multiple of the smallest tile: rows that packed panels of n rows take in all.
constexpr Index padded_rows(Index n) {
  return (n + kRows / 3 - 1) / (kRows / 3) * (kRows / 3);
}
template <class T>
constexpr Index padded_lanes(Index n) {
  return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <int N>
using Constant = std::integral_constant<int, N>;

// f(Constant<R>()) with R = tile_rows(n).
template <class F>
HWY_INLINE void with_tile_rows(Index n, const F& f) {
  if (n > 2 * kRows / 3) {
    f(Constant<kRows>());
  } else if (n > kRows / 3) {
    f(Constant<2 * kRows / 3>());
  } else {
    f(Constant<kRows / 3>());
  }
}

// f(Constant<R>()) for the next tile of n >= 1 rows that are not packed in panels; returns R. The last 16 rows of 64 go as 8
// and 8 rather than as 12 and 4: the few sums of a tile of 4 keep the multiply-adds waiting (2 to 4 % of a whole product).
template <class F>
HWY_INLINE Index with_even_rows(Index n, const F& f) {
  if (n == 4 * (kRows / 3)) {
    f(Constant<2 * kRows / 3>());
    return 2 * kRows / 3;
  }
  with_tile_rows(n, f);
  return tile_rows(n);
}

// f(Constant<V>()): one vector where the lanes left fit in it, else the two of a panel. Saves up to 7 % at 197 rows.
template <class T, class F>
HWY_INLINE void with_panel_vectors(Index lanes, const F& f) {
  if (lanes <= kLanes<T>) {
    f(Constant<1>());
  } else {
    f(Constant<2>());
  }
}

template <class T, int R, int V = 2>
struct Accumulator {
  static constexpr int kTileRows = R;
  hn::Vec<Wide<T>> c[R][V];
};

template <class T, int R, int V>
HWY_INLINE void clear(Accumulator<T, R, V>& acc) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc.c[r][v] = hn::Zero(Wide<T>());
  }
}

// acc[r][v] += sum_{k < depth} a[r * a_row + k * a_step] * b[k * b_step + v * kLanes ..]. Strides that are constants at the
// call become displacements; nothing but k, a and b moves in the loop.
template <class T, int R, int V>
HWY_INLINE void multiply_accumulate(Index depth, const T* HWY_RESTRICT a, Index a_row, Index a_step, const T* HWY_RESTRICT b,
                                    Index b_step, Accumulator<T, R, V>& acc) {
  const Wide<T> d;
#pragma GCC unroll 2
  for (Index k = 0; k < depth; ++k) {
    hn::Vec<Wide<T>> bk[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) bk[v] = hn::LoadU(d, b + v * kLanes<T>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const auto s = hn::Set(d, a[r * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc.c[r][v] = hn::MulAdd(s, bk[v], acc.c[r][v]);
    }
    a += a_step;
    b += b_step;
  }
}

// The broadcast operand of add_columns: panels as pack_columns makes them (step 0), or the caller's own rows, `step` apart.
template <class T>
struct Columns {
  const T* data;
  Index step = 0;
};

// y[r][.] += acc[r][.], rows of y kPanel apart, aligned.
template <class T, int R, int V>
HWY_INLINE void add_tile(const Accumulator<T, R, V>& acc, T* HWY_RESTRICT y) {
  const Wide<T> d;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = y + r * kPanel<T> + v * kLanes<T>;
      hn::Store(hn::Add(hn::Load(d, to), acc.c[r][v]), d, to);
    }
  }
}

// y[c][.] += sum_{j < depth} x_jc s[j][.] for `columns` rows c and the first V vectors of one panel of lanes; s[j] at s + j *
// s_step, y[c] at y + c * kPanel with room for padded_rows(columns) rows, aligned. Own rows: `columns` a multiple of kRows / 3.
template <int V, class T>
HWY_INLINE void add_columns(Index depth, Columns<T> x, Index columns, const T* HWY_RESTRICT s, Index s_step,
                            T* HWY_RESTRICT y) {
  const T* HWY_RESTRICT from = x.data;
  if (x.step == 0) {
    for (Index c = 0; c < columns; c += kRows) {
      with_tile_rows(columns - c, [&](auto height) HWY_ATTR {
        constexpr int R = height;
        Accumulator<T, R, V> acc;
        clear(acc);
        multiply_accumulate<T, R, V>(depth, from, 1, R, s, s_step, acc);
        add_tile(acc, y + c * kPanel<T>);
        from += depth * R;
      });
    }
    return;
  }
  for (Index c = 0; c < columns;) {
    c += with_even_rows(columns - c, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, from + c, 1, x.step, s, s_step, acc);
      add_tile(acc, y + c * kPanel<T>);
    });
  }
}

// A matrix by its first element and the distance of its rows.
template <class T>
struct Rows {
  T* data;
  Index step;
};

// y[i][.] = (add ? y[i][.] : +0) + sum_{j < depth} s[j][i] x[j][.], then times factor[i] unless that is null, for `rows` rows
// i, at most those of one panel, and `columns` columns, a multiple of kColumnVectors vectors. Rows are cut evenly, and exactly:
// 32 into 6, 6, 5, 5, 5, 5.
template <class T>
HWY_INLINE void add_row_tiles(Index depth, Rows<const T> s, Index rows, Rows<const T> x, Index columns, bool add,
                              const T* factor, Rows<T> y) {
  constexpr int V = kColumnVectors > 0 ? kColumnVectors : 1;
  const Wide<T> d;
  const auto tile = [&](Index i, Index c, auto height) HWY_ATTR {
    constexpr int R = height;
    // Loops of its own: where 4 vectors are allowed for in those of multiply_accumulate, GCC makes other kernels slower.
    hn::Vec<Wide<T>> acc[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = hn::Zero(d);
    }
    const T* HWY_RESTRICT sj = s.data + i;
    const T* HWY_RESTRICT xj = x.data + c;
#pragma GCC unroll 2
    for (Index j = 0; j < depth; ++j, sj += s.step, xj += x.step) {
      hn::Vec<Wide<T>> row[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) row[v] = hn::LoadU(d, xj + v * kLanes<T>);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const auto f = hn::Set(d, sj[r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = hn::MulAdd(f, row[v], acc[r][v]);
      }
    }
    T* HWY_RESTRICT to = y.data + i * y.step + c;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r, to += y.step) {
      const auto f = hn::Set(d, factor == nullptr ? T(1) : factor[i + r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        T* at = to + v * kLanes<T>;
        hn::StoreU(hn::Mul(hn::Add(add ? hn::LoadU(d, at) : hn::Zero(d), acc[r][v]), f), d, at);
      }
    }
  };
  for (Index c = 0; c < columns; c += V * kLanes<T>) {
    for (Index i = 0, tiles = (rows + kColumnRows - 1) / kColumnRows; tiles > 0; --tiles) {
      const Index n = (rows - i + tiles - 1) / tiles;
      switch (n) {
        case 1:
          tile(i, c, Constant<1>());
          break;
        case 2:
          tile(i, c, Constant<2>());
          break;
        case 3:
          tile(i, c, Constant<3>());
          break;
        case 4:
          tile(i, c, Constant<4>());
          break;
        case 5:
          tile(i, c, Constant<5>());
          break;
        default:
          tile(i, c, Constant<kColumnRows>());
      }
      i += n;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // register tile
