// Near tiles of the chunked gradients: a_bar by tiles of rows, b_bar and x_bar by tiles of sources.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see chunked_vjp.cpp.
#if defined(ESPALIER_CHUNK_NEAR_VJP_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_CHUNK_NEAR_VJP_INL
#undef ESPALIER_CHUNK_NEAR_VJP_INL
#else
#define ESPALIER_CHUNK_NEAR_VJP_INL
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

// Tile of near weights for one panel: out[j][.] = mask[.] (sum_k u[j][k] lanes[k][.] + last), last a vector over lanes or one
// number a row j. mask null: no factor. u: panels of `packed` rows, of which the first nj are wanted.
template <int V, class T>
HWY_INLINE void near_weights(Index depth, const T* HWY_RESTRICT u, const T* HWY_RESTRICT lanes, const T* last_lanes,
                             const T* last_rows, Index nj, Index packed, const T* mask, T* HWY_RESTRICT out) {
  const Wide<T> d;
  for (Index j = 0; j < nj; j += kRows) {
    with_tile_rows(packed - j, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_accumulate<T, R, V>(depth, u, 1, R, lanes, kPanel<T>, acc);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        if (j + r < nj) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) {
            auto w = acc.c[r][v];
            if (last_lanes != nullptr) w = hn::Add(w, hn::Load(d, last_lanes + v * kLanes<T>));
            if (last_rows != nullptr) w = hn::Add(w, hn::Set(d, last_rows[j + r]));
            if (mask != nullptr) w = hn::Mul(w, hn::LoadU(d, mask - (j + r) + v * kLanes<T>));
            hn::Store(w, d, out + (j + r) * kPanel<T> + v * kLanes<T>);
          }
        }
      }
      u += depth * R;
    });
  }
}

// Packed lanes of one chunk: value rows, then one more row `last` (or ones): [panel][cols + 1][kPanel].
template <class T>
void pack_lanes_with_last(MatrixView<const T, Cpu> value, Index cols, VectorView<const T, Cpu> last, bool last_is_one,
                          Index first, Index n, T* HWY_RESTRICT y) {
  for (Index i = 0; i < n; i += kPanel<T>, y += (cols + 1) * kPanel<T>) {
    const Index rows = std::min(kPanel<T>, n - i);
    std::fill_n(y, (cols + 1) * kPanel<T>, T(0));
    if (value) transpose(value.row(first + i), value.row_stride, rows, cols, y, kPanel<T>);
    T* end = y + cols * kPanel<T>;
    for (Index l = 0; l < rows; ++l) end[l] = last_is_one ? T(1) : last ? last[first + i + l] : T(0);
  }
}

// a_bar of one chunk from near sources.
template <class T>
void near_rows(const ChunkBackward<T>& call, const ChunkBackwardScratch<T>& at, Index chunk, T* scratch) {
  const ChunkedToeplitz<T>& mask = *call.mask;
  const Index i0 = call.begin(chunk), ni = call.rows(chunk);
  for (const NearTile& tile : call.tiles) {
    const Index source = chunk - tile.distance;
    if (source < 0 || source >= call.chunks()) continue;
    const Index j0 = call.begin(source), nj = call.rows(source);
    const PlainRows<T> b = plain_rows(call.b, j0, nj, call.m_pad, scratch + at.b_plain);
    if (call.y_bar) pack_rows(call.x, j0, nj, scratch + at.packed_x);
    for (Index p = 0, i = 0; i < ni; ++p, i += kPanel<T>) {
      Index from, to;
      visible_sources(mask, i0 + i, kPanel<T>, j0, nj, from, to);
      if (from >= to) continue;
      const T* near = mask.near.data() + tile.entry + i;
      const T* lanes = scratch + at.y_lanes + p * (call.c + 1) * kPanel<T>;
      with_panel_vectors<T>(ni - i, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        near_weights<V>(call.y_bar ? call.c : 0, scratch + at.packed_x + from * call.c, lanes, lanes + call.c * kPanel<T>,
                        static_cast<const T*>(nullptr), to - from, nj - from, near - from, scratch + at.w);
        add_strided<V>(to - from, b.row(from), b.step, call.m, scratch + at.w, kPanel<T>,
                       scratch + at.a_bar + p * padded_rows(call.m) * kPanel<T>);
      });
    }
  }
}

// P = M S, G = M W, and the gradient of near entries S W by offset, for one panel of sources and n rows.
template <int V, class T>
HWY_INLINE void combine_near(Index n, const T* mask, T* HWY_RESTRICT w, T* HWY_RESTRICT s, T* near_bar, Index lanes) {
  const Wide<T> d;
  for (Index i = 0; i < n; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const Index at = i * kPanel<T> + v * kLanes<T>;
      const auto m = hn::LoadU(d, mask - i + v * kLanes<T>), wi = hn::Load(d, w + at), si = hn::Load(d, s + at);
      if (near_bar != nullptr) {
        T* to = near_bar - i + v * kLanes<T>;
        if ((v + 1) * kLanes<T> <= lanes) {
          hn::StoreU(hn::MulAdd(si, wi, hn::LoadU(d, to)), d, to);
        } else {
          for (Index l = v * kLanes<T>; l < lanes; ++l) near_bar[l - i] += s[i * kPanel<T> + l] * w[i * kPanel<T> + l];
        }
      }
      hn::Store(hn::Mul(m, wi), d, w + at);
      hn::Store(hn::Mul(m, si), d, s + at);
    }
  }
}

// b_bar and x_bar of one chunk from near rows; near_bar: by offset j - i of the transposed mask, or null.
template <class T>
void near_sources(const ChunkBackward<T>& call, const ChunkBackwardScratch<T>& at, Index chunk, T* near_bar, T* scratch) {
  const ChunkedToeplitz<T>& mask = *call.turned;
  const Index j0 = call.begin(chunk), nj = call.rows(chunk);
  for (const NearTile& tile : call.turned_tiles) {
    const Index other = chunk - tile.distance;
    if (other < 0 || other >= call.chunks()) continue;
    const Index i0 = call.begin(other), ni = call.rows(other);
    const PlainRows<T> a = plain_rows(call.a, i0, ni, call.m_pad, scratch + at.b_plain);
    PlainRows<T> y_bar{};
    pack_rows(call.a, i0, ni, scratch + at.packed_a);
    if (call.y_bar) {
      y_bar = plain_rows(call.y_bar, i0, ni, call.c_pad, scratch + at.x_plain);
      pack_rows(call.y_bar, i0, ni, scratch + at.packed_y);
    }
    for (Index p = 0, j = 0; j < nj; ++p, j += kPanel<T>) {
      Index from, to;
      visible_sources(mask, j0 + j, kPanel<T>, i0, ni, from, to);
      if (from >= to) continue;
      const Index offset = tile.entry + j - from;
      const T* near = mask.near.data() + offset;
      with_panel_vectors<T>(nj - j, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        T* w = scratch + at.w;
        T* s = scratch + at.s;
        near_weights<V>(call.y_bar ? call.c : 0, scratch + at.packed_y + from * call.c,
                        scratch + at.x_lanes + p * (call.c + 1) * kPanel<T>, static_cast<const T*>(nullptr),
                        call.r_bar ? call.r_bar.data + i0 + from : nullptr, to - from, ni - from,
                        static_cast<const T*>(nullptr), w);
        near_weights<V>(call.m, scratch + at.packed_a + from * call.m, scratch + at.b_lanes + p * call.m * kPanel<T>,
                        static_cast<const T*>(nullptr), static_cast<const T*>(nullptr), to - from, ni - from,
                        static_cast<const T*>(nullptr), s);
        combine_near<V>(to - from, near, w, s, near_bar == nullptr ? nullptr : near_bar + offset, std::min(kPanel<T>, nj - j));
        if (call.want_b) {
          add_strided<V>(to - from, a.row(from), a.step, call.m, w, kPanel<T>,
                         scratch + at.b_bar + p * padded_rows(call.m) * kPanel<T>);
        }
        if (call.want_x) {
          add_strided<V>(to - from, y_bar.row(from), y_bar.step, call.c, s, kPanel<T>,
                         scratch + at.x_bar + p * padded_rows(call.c) * kPanel<T>);
        }
      });
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // chunk near vjp
