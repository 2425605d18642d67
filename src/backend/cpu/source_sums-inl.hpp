// Sums over rows i of tiles laid out [panel of i][j][i]: the products of the backward kernels that belong to the sources j.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once).
#if defined(ESPALIER_SOURCE_SUMS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_SOURCE_SUMS_INL
#undef ESPALIER_SOURCE_SUMS_INL
#else
#define ESPALIER_SOURCE_SUMS_INL
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "backend/cpu/entry_plan.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// R rows j by V vectors of features: out[j][.] += sum_{i < ni} g[panel][j][i] a[i][.]; panels are nj * kPanel apart.
template <class T, int R, int V>
HWY_INLINE void add_source_tile(Index ni, Index nj, const T* HWY_RESTRICT g, const T* HWY_RESTRICT a, Index width, Index rows,
                                T* HWY_RESTRICT out) {
  const Wide<T> d;
  Accumulator<T, R, V> acc;
  clear(acc);
  for (Index i = 0; i < ni; i += kPanel<T>) {
    multiply_accumulate<T, R, V>(std::min(kPanel<T>, ni - i), g, kPanel<T>, 1, a + i * width, width, acc);
    g += nj * kPanel<T>;
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    if (r < rows) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        T* to = out + r * width + v * kLanes<T>;
        hn::Store(hn::Add(hn::Load(d, to), acc.c[r][v]), d, to);
      }
    }
  }
}

// out[j][k] += sum_i g[panel of i][j][i] a[i][k], j < nj, k < width (whole vectors). Rows up to the next whole tile are read.
template <class T>
void add_sources(Index ni, Index nj, const T* HWY_RESTRICT g, const T* HWY_RESTRICT a, Index width, T* HWY_RESTRICT out) {
  constexpr Index stride = kTileSources;
  for (Index k = 0; k < width; k += kPanel<T>) {
    for (Index j = 0; j < nj; j += kRows) {
      with_tile_rows(nj - j, [&](auto height) HWY_ATTR {
        constexpr int R = height;
        const T* from = g + j * kPanel<T>;
        if (k + kPanel<T> <= width) {
          add_source_tile<T, R, 2>(ni, stride, from, a + k, width, nj - j, out + j * width + k);
        } else {
          add_source_tile<T, R, 1>(ni, stride, from, a + k, width, nj - j, out + j * width + k);
        }
      });
    }
  }
}

template <class T>
void zero(T* HWY_RESTRICT y, Index n) {
  for (Index k = 0; k < n; ++k) y[k] = T(0);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // source sums
