// The step from chunk to chunk: states decay, take a chunk's moments in, and are read out again, all in registers.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see chunked.cpp.
#if defined(ESPALIER_CHUNK_SCAN_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_CHUNK_SCAN_INL
#undef ESPALIER_CHUNK_SCAN_INL
#else
#define ESPALIER_CHUNK_SCAN_INL
#endif

#include <hwy/highway.h>

#include "backend/cpu/chunked_call.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// For r states S and R moments P, elementwise over [from, to):
//   S_q := keep_q S_q + decay_q S_q + sum of its couplings w S_q' + sum_p in_qp P_p        P_p := sum_q out_qp S_q
// q' > q: what the state held before this step, since states are taken in order. Moments are `step` apart, states too. General:
// with couplings, or where only the first scan.reads of P are wanted.
template <int R, int V, bool General, class T>
HWY_INLINE void scan_elements(const ScanStep<T>& scan, Index u, T* HWY_RESTRICT moments, T* HWY_RESTRICT state) {
  const Wide<T> d;
  // Copies: vectors stored may alias anything, and what `scan` says would be read again after each.
  const T* HWY_RESTRICT in = scan.in;
  const T* HWY_RESTRICT out = scan.out;
  const T *HWY_RESTRICT keeps = scan.keep, *HWY_RESTRICT decays = scan.decay;
  const unsigned char *HWY_RESTRICT slows = scan.slow, *HWY_RESTRICT unread = scan.unread;
  T* HWY_RESTRICT lows = scan.low;
  const Index* HWY_RESTRICT starts = General ? scan.couple_start : nullptr;
  const Index step = scan.step, states = scan.states;
  hn::Vec<Wide<T>> p[R][V], y[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      p[i][v] = hn::LoadU(d, moments + i * step + u + v * kLanes<T>);
      y[i][v] = hn::Zero(d);
    }
  }
  T* at = state + u;
  for (Index q = 0; q < states; ++q, in += R, out += R, at += step) {
    hn::Vec<Wide<T>> s[V], old[V];
    const auto e = hn::Set(d, decays[q]), keep = hn::Set(d, keeps[q]);
    const bool slow = slows != nullptr && slows[q] != 0;
    T* HWY_RESTRICT low = slow ? lows + q * step + u : nullptr;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      old[v] = hn::LoadU(d, at + v * kLanes<T>);
      // Of a slow state only the change is summed here.
      s[v] = hn::MulAdd(e, old[v], slow ? hn::LoadU(d, low + v * kLanes<T>) : hn::Mul(keep, old[v]));
    }
    if (starts != nullptr) {
      for (Index k = starts[q]; k < starts[q + 1]; ++k) {
        const T* other = state + u + scan.couple_state[k] * step;
        const auto w = hn::Set(d, scan.couple_weight[k]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) s[v] = hn::MulAdd(w, hn::LoadU(d, other + v * kLanes<T>), s[v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const auto w = hn::Set(d, in[i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) s[v] = hn::MulAdd(w, p[i][v], s[v]);
    }
    if (slow) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const auto sum = hn::Add(old[v], s[v]);
        hn::StoreU(hn::Sub(s[v], hn::Sub(sum, old[v])), d, low + v * kLanes<T>);
        s[v] = sum;
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) hn::StoreU(s[v], d, at + v * kLanes<T>);
    if (General && unread[q] != 0) continue;
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const auto z = hn::Set(d, out[i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) y[i][v] = hn::MulAdd(z, s[v], y[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    if (General && i >= scan.reads) break;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) hn::StoreU(y[i][v], d, moments + i * step + u + v * kLanes<T>);
  }
}

// The same for any number of moments: one pass over the states for each moment in, one for each out.
template <class T>
void scan_any(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state) {
  const Wide<T> d;
  const Index step = scan.step, basis = scan.basis;
  for (Index u = from; u < to; u += kLanes<T>) {
    for (Index q = 0; q < scan.states; ++q) {
      T* at = state + q * step + u;
      const auto old = hn::LoadU(d, at), keep = hn::Set(d, scan.keep[q]);
      T* low = scan.slow != nullptr && scan.slow[q] != 0 ? scan.low + q * step + u : nullptr;
      auto s = hn::MulAdd(hn::Set(d, scan.decay[q]), old, low != nullptr ? hn::LoadU(d, low) : hn::Mul(keep, old));
      for (Index k = scan.couple_start ? scan.couple_start[q] : 0; scan.couple_start && k < scan.couple_start[q + 1]; ++k) {
        s = hn::MulAdd(hn::Set(d, scan.couple_weight[k]), hn::LoadU(d, state + scan.couple_state[k] * step + u), s);
      }
      for (Index p = 0; p < basis; ++p) {
        s = hn::MulAdd(hn::Set(d, scan.in[q * basis + p]), hn::LoadU(d, moments + p * step + u), s);
      }
      if (low != nullptr) {
        const auto sum = hn::Add(old, s);
        hn::StoreU(hn::Sub(s, hn::Sub(sum, old)), d, low);
        s = sum;
      }
      hn::StoreU(s, d, at);
    }
    for (Index p = 0; p < scan.reads; ++p) {
      auto y = hn::Zero(d);
      for (Index q = 0; q < scan.states; ++q) {
        y = hn::MulAdd(hn::Set(d, scan.out[q * basis + p]), hn::LoadU(d, state + q * step + u), y);
      }
      hn::StoreU(y, d, moments + p * step + u);
    }
  }
}

// Two vectors at a time where the registers allow it: half the broadcasts.
template <int R, bool General, class T>
HWY_INLINE void scan_range(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state) {
  constexpr int V = 4 * R + 3 <= (kRows == 12 ? 32 : 16) ? 2 : 1;
  Index u = from;
  for (; u + V * kLanes<T> <= to; u += V * kLanes<T>) scan_elements<R, V, General>(scan, u, moments, state);
  for (; u < to; u += kLanes<T>) scan_elements<R, 1, General>(scan, u, moments, state);
}

// from, to: whole vectors.
template <class T>
void scan_chunk(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state) {
  const bool general = scan.couple_start != nullptr || scan.reads < scan.basis;
  switch (scan.basis) {
#define ESPALIER_SCAN(R) \
  case R:                \
    return general ? scan_range<R, true>(scan, from, to, moments, state) : scan_range<R, false>(scan, from, to, moments, state);
    ESPALIER_SCAN(1)
    ESPALIER_SCAN(2)
    ESPALIER_SCAN(3)
    ESPALIER_SCAN(4)
    ESPALIER_SCAN(5)
    ESPALIER_SCAN(6)
    ESPALIER_SCAN(7)
    ESPALIER_SCAN(8)
#undef ESPALIER_SCAN
    default:
      return scan_any(scan, from, to, moments, state);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // chunk scan
