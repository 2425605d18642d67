// Gradients by the parameters of far entries: states against the moments that they would meet.
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

#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// out[q * count + p] = sum over elements [from, to) of state_q moment_p for Q states and P moments, all of them in registers.
template <int Q, int P, class T>
HWY_INLINE void dot_tile(Index step, Index from, Index to, const T* HWY_RESTRICT state, const T* HWY_RESTRICT moments,
                         Index count, T* HWY_RESTRICT out) {
  const Wide<T> d;
  hn::Vec<Wide<T>> sum[Q][P];
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 5
    for (int p = 0; p < P; ++p) sum[q][p] = hn::Zero(d);
  }
  for (Index u = from; u < to; u += kLanes<T>) {
    hn::Vec<Wide<T>> m[P];
#pragma GCC unroll 5
    for (int p = 0; p < P; ++p) m[p] = hn::LoadU(d, moments + p * step + u);
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      const auto s = hn::LoadU(d, state + q * step + u);
#pragma GCC unroll 5
      for (int p = 0; p < P; ++p) sum[q][p] = hn::MulAdd(s, m[p], sum[q][p]);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 5
    for (int p = 0; p < P; ++p) out[q * count + p] = hn::GetLane(hn::SumOfLanes(d, sum[q][p]));
  }
}

// f(Constant<N>(), k) for all of n, kMost at a time, then the rest.
template <int kMost, class F>
HWY_INLINE void in_parts(Index n, const F& f) {
  Index k = 0;
  for (; k + kMost <= n; k += kMost) f(Constant<kMost>(), k);
  switch (n - k) {
    case 1:
      return f(Constant<1>(), k);
    case 2:
      return f(Constant<2>(), k);
    case 3:
      return f(Constant<3>(), k);
    case 4:
      return f(Constant<4>(), k);
    default:
      return;
  }
}

// out[q * basis + p] = sum over elements [from, to), whole vectors, of state_q moment_p.
template <class T>
void state_dots(Index basis, Index states, Index step, Index from, Index to, const T* moments, const T* state, T* out) {
  constexpr int kStates = kRows == 12 ? 4 : 2;
  in_parts<5>(basis, [&](auto columns, Index p) HWY_ATTR {
    constexpr int P = columns;
    in_parts<kStates>(states, [&](auto height, Index q) HWY_ATTR {
      constexpr int Q = height <= kStates ? static_cast<int>(height) : 1;
      dot_tile<Q, P>(step, from, to, state + q * step, moments + p * step, basis, out + q * basis + p);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // chunk derivatives
