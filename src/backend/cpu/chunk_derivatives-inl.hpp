// Gradients by the parameters of far entries: moments of rows against states of sources.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see chunked_vjp.cpp.
#if defined(ESPALIER_CHUNK_DERIVATIVES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_CHUNK_DERIVATIVES_INL
#undef ESPALIER_CHUNK_DERIVATIVES_INL
#else
#define ESPALIER_CHUNK_DERIVATIVES_INL
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "backend/cpu/chunk_kernels-inl.hpp"
#include "backend/cpu/chunked_backward_call.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// out[k] += sum over elements [from, to) of sum_q S_q sum_p derivative_k[q, p] moments_p.
template <int R, class T>
HWY_INLINE void derivative_dot_of(Index states, Index count, const T* HWY_RESTRICT coefficients, Index step, Index from,
                                  Index to, const T* HWY_RESTRICT moments, const T* HWY_RESTRICT state, double* out) {
  constexpr int V = 2 * R + 4 <= (kRows == 12 ? 32 : 16) ? 2 : 1;
  const Wide<T> d;
  const auto part = [&](const T* z, Index u, auto vectors) HWY_ATTR {
    constexpr int W = vectors;
    hn::Vec<Wide<T>> p[R][W], sum[W];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < W; ++v) p[i][v] = hn::LoadU(d, moments + i * step + u + v * kLanes<T>);
    }
#pragma GCC unroll 2
    for (int v = 0; v < W; ++v) sum[v] = hn::Zero(d);
    for (Index q = 0; q < states; ++q, z += R) {
      hn::Vec<Wide<T>> t[W];
#pragma GCC unroll 2
      for (int v = 0; v < W; ++v) t[v] = hn::Zero(d);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const auto w = hn::Set(d, z[i]);
#pragma GCC unroll 2
        for (int v = 0; v < W; ++v) t[v] = hn::MulAdd(w, p[i][v], t[v]);
      }
#pragma GCC unroll 2
      for (int v = 0; v < W; ++v) sum[v] = hn::MulAdd(t[v], hn::LoadU(d, state + q * step + u + v * kLanes<T>), sum[v]);
    }
    for (int v = 1; v < W; ++v) sum[0] = hn::Add(sum[0], sum[v]);
    return sum[0];
  };
  for (Index k = 0; k < count; ++k) {
    const T* z = coefficients + k * states * R;
    auto total = hn::Zero(d);
    Index u = from;
    for (; u + V * kLanes<T> <= to; u += V * kLanes<T>) total = hn::Add(total, part(z, u, Constant<V>()));
    for (; u < to; u += kLanes<T>) total = hn::Add(total, part(z, u, Constant<1>()));
    out[k] += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, total)));
  }
}

template <class T>
void derivative_dot(Index basis, Index states, Index count, const T* coefficients, Index step, Index from, Index to,
                    const T* moments, const T* state, double* out) {
  switch (basis) {
#define ESPALIER_DOT(R) \
  case R:               \
    return derivative_dot_of<R>(states, count, coefficients, step, from, to, moments, state, out);
    ESPALIER_DOT(1)
    ESPALIER_DOT(2)
    ESPALIER_DOT(3)
    ESPALIER_DOT(4)
    ESPALIER_DOT(5)
    ESPALIER_DOT(6)
    ESPALIER_DOT(7)
    ESPALIER_DOT(8)
#undef ESPALIER_DOT
    default:
      break;
  }
  const Wide<T> d;
  for (Index k = 0; k < count; ++k) {
    auto sum = hn::Zero(d);
    for (Index u = from; u < to; u += kLanes<T>) {
      for (Index q = 0; q < states; ++q) {
        const T* z = coefficients + (k * states + q) * basis;
        auto t = hn::Zero(d);
        for (Index p = 0; p < basis; ++p) t = hn::MulAdd(hn::Set(d, z[p]), hn::LoadU(d, moments + p * step + u), t);
        sum = hn::MulAdd(t, hn::LoadU(d, state + q * step + u), sum);
      }
    }
    out[k] += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // chunk derivatives
