// Near tiles of the chunked gradients: each lies in lanes of its own chunk, so that no task writes to another's.
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

// One chunk's rows in the caller's matrices (or copies), and where its gradients are added up.
template <class T>
struct ChunkRows {
  PlainRows<T> x, b, y_bar;
  const T* r_bar;  // [chunk], zeros behind the last row; null: none
  T *a_bar, *b_bar, *x_bar;
  Index a_step, b_step, x_step;
};

// finish(acc, i, l) for tiles acc[r][v] = sum_k u_{i + r}[k] lanes[k][l + ..], rows [from, to), lanes of one panel.
template <int V, class T, class F>
HWY_INLINE void near_products(Index from, Index to, PlainRows<T> u, Index depth, const T* HWY_RESTRICT lanes, const F& finish) {
  for (Index i = from; i < to;) {
    i += with_even_rows(to - i, [&](auto height) HWY_ATTR {
      constexpr int R = height;
      Accumulator<T, R, V> acc;
      clear(acc);
      multiply_rows<T, R, V>(depth, u.row(i), u.step, lanes, kPanel<T>, acc);
      finish(acc, i);
    });
  }
}

// a_bar of one chunk from near sources. own: the tile of the chunk itself as well, which comes first and is stored; others are
// added. P of sources from `kept` on is there already where it is kept at all.
template <class T>
void near_rows(const ChunkBackward<T>& call, const ChunkBackwardScratch<T>& at, Index chunk, bool own, Index kept,
               const ChunkRows<T>& to, T* scratch) {
  const Wide<T> d;
  const ChunkedToeplitz<T>& mask = *call.mask;
  const Index i0 = call.begin(chunk), ni = call.rows(chunk), step = mask.chunk;
  bool packed = false;
  for (std::size_t k = own ? 0 : 1; k < call.tiles.size(); ++k) {
    const NearTile& tile = call.tiles[k];
    const Index source = chunk - tile.distance;
    if (source < 0 || source >= call.chunks()) continue;
    if (tile.distance > 0 && tile.distance <= at.kept_distance && source >= kept) {
      const Index nj = call.rows(source);
      const PlainRows<T> b = plain_rows(call.b, call.begin(source), nj, call.m_pad, scratch + at.plain_m);
      add_row_products(nj, PlainRows<T>{scratch + at.kept_tile(tile.distance, source), step}, ni, scratch + at.ones,
                       static_cast<const T*>(nullptr), b.data, b.step, call.m_pad, to.a_bar, to.a_step, [] HWY_ATTR {});
      continue;
    }
    if (!packed && call.y_bar) pack_lanes(call.y_bar, i0, ni, T(1), scratch + at.y_lanes);
    packed = true;
    const Index j0 = call.begin(source), nj = call.rows(source);
    const PlainRows<T> b = plain_rows(call.b, j0, nj, call.m_pad, scratch + at.plain_m);
    const PlainRows<T> x = call.y_bar ? whole_rows(call.x, j0, nj, call.c_pad, scratch + at.plain_c) : PlainRows<T>{};
    for (Index i = 0; i < ni; i += kPanel<T>) {
      Index from, end;
      visible_sources(mask, i0 + i, kPanel<T>, j0, nj, from, end);
      if (from >= end) continue;
      // By lanes i: M_ij (x_j . y_bar_i + r_bar_i), rows j.
      const T* near = mask.near.data() + tile.entry + i;
      T* p = scratch + at.p + i;
      with_panel_vectors<T>(ni - i, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        const T* lanes = scratch + at.y_lanes + i * call.c;
        near_products<V>(from, end, x, call.y_bar ? call.c : 0, lanes, [&](const auto& acc, Index j) HWY_ATTR {
          constexpr int R = std::decay_t<decltype(acc)>::kTileRows;
#pragma GCC unroll 12
          for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
              auto w = acc.c[r][v];
              if (to.r_bar != nullptr) w = hn::Add(w, hn::LoadU(d, to.r_bar + i + v * kLanes<T>));
              hn::Store(hn::Mul(w, hn::LoadU(d, near - (j + r) + v * kLanes<T>)), d, p + (j + r) * step + v * kLanes<T>);
            }
          }
        });
      });
      add_outer_products(tile.distance != 0, end - from, p + from * step, step, std::min(kPanel<T>, ni - i),
                         {b.row(from), b.step}, call.m_pad, to.a_bar + i * to.a_step, to.a_step);
    }
  }
}

// near_bar[j - i] += q[i][j] for i < ni, j < nj: sums along diagonals; q has rows `step` apart and a vector of zeros on either
// side.
template <class T>
void add_diagonals(const T* HWY_RESTRICT q, Index step, Index ni, Index nj, T* HWY_RESTRICT near_bar) {
  const Wide<T> d;
  for (Index o = 1 - ni; o < nj; o += kLanes<T>) {
    const Index first = std::max<Index>(0, 1 - kLanes<T> - o), last = std::min(ni, nj - o);
    auto even = hn::Zero(d), odd = hn::Zero(d);
    const T* HWY_RESTRICT from = q + o + first * (step + 1);
    Index i = first;
    for (; i + 2 <= last; i += 2, from += 2 * (step + 1)) {
      even = hn::Add(even, hn::LoadU(d, from));
      odd = hn::Add(odd, hn::LoadU(d, from + step + 1));
    }
    if (i < last) even = hn::Add(even, hn::LoadU(d, from));
    const auto sum = hn::Add(even, odd);
    if (o + kLanes<T> <= nj) {
      hn::StoreU(hn::Add(hn::LoadU(d, near_bar + o), sum), d, near_bar + o);
    } else {
      HWY_ALIGN T rest[static_cast<std::size_t>(kLanes<T>)];
      hn::Store(sum, d, rest);
      for (Index l = 0; o + l < nj; ++l) near_bar[o + l] += rest[l];
    }
  }
}

// b_bar and x_bar of one chunk from near rows, and a_bar from its own; near_bar: by offset j - i of the transposed mask, or
// null. The own tile is stored, others are added. With S = A Bᵀ and W of one tile, each made once: P = M ∘ W, G = M ∘ S, and
// S ∘ W for near_bar.
template <class T>
void near_sources(const ChunkBackward<T>& call, const ChunkBackwardScratch<T>& at, Index chunk, const ChunkRows<T>& to,
                  T* near_bar, T* scratch) {
  const Wide<T> d;
  const ChunkedToeplitz<T>& mask = *call.turned;
  const Index j0 = call.begin(chunk), nj = call.rows(chunk), step = mask.chunk, q_step = at.q_step;
  pack_lanes(call.b, j0, nj, T(1), scratch + at.b_lanes);
  if (call.y_bar) pack_lanes(call.x, j0, nj, T(1), scratch + at.x_lanes);
  T* g = scratch + at.g;
  T* q = scratch + at.q + kLanes<T>;
  for (const NearTile& tile : call.turned_tiles) {
    const Index other = chunk - tile.distance;
    if (other < 0 || other >= call.chunks()) continue;
    const bool keep = tile.distance < 0 && -tile.distance <= at.kept_distance;
    T* p = scratch + (keep ? at.kept_tile(-tile.distance, chunk) : at.p);
    const Index i0 = call.begin(other), ni = call.rows(other);
    const PlainRows<T> a = whole_rows(call.a, i0, ni, call.m_pad, scratch + at.plain_m);
    const PlainRows<T> y_bar = call.y_bar ? whole_rows(call.y_bar, i0, ni, call.c_pad, scratch + at.plain_c) : PlainRows<T>{};
    const T* r_bar = tile.distance == 0 ? to.r_bar : scratch + at.r_other;
    if (tile.distance != 0 && call.r_bar) copy_vector(call.r_bar, i0, ni, step, scratch + at.r_other);
    const bool own_rows = tile.distance == 0 && call.want_a;
    const bool parts = !(call.mask->has_lower && call.mask->has_upper) && tile.distance == 0;
    if (parts && own_rows) std::fill_n(p, padded_rows(ni) * step, T(0));
    if (near_bar != nullptr) std::fill_n(scratch + at.q, padded_rows(ni) * q_step, T(0));
    for (Index j = 0; j < nj; j += kPanel<T>) {
      Index from, end;
      visible_sources(mask, j0 + j, kPanel<T>, i0, ni, from, end);
      if (from >= end) continue;
      const T* near = mask.near.data() + tile.entry + j;
      with_panel_vectors<T>(nj - j, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        const auto scores = [&](const auto& acc, Index i) HWY_ATTR {
          constexpr int R = std::decay_t<decltype(acc)>::kTileRows;
#pragma GCC unroll 12
          for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) hn::Store(acc.c[r][v], d, g + (i + r) * step + j + v * kLanes<T>);
          }
        };
        const auto combine = [&](const auto& acc, Index i) HWY_ATTR {
          constexpr int R = std::decay_t<decltype(acc)>::kTileRows;
#pragma GCC unroll 12
          for (int r = 0; r < R; ++r) {
            const Index row = i + r;
            const auto last = call.r_bar ? hn::Set(d, r_bar[row]) : hn::Zero(d);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
              const Index l = j + v * kLanes<T>;
              const auto m = hn::LoadU(d, near - row + v * kLanes<T>), w = hn::Add(acc.c[r][v], last);
              const auto s = hn::Load(d, g + row * step + l);
              hn::Store(hn::Mul(m, w), d, p + row * step + l);
              hn::Store(hn::Mul(m, s), d, g + row * step + l);
              if (near_bar != nullptr) hn::StoreU(hn::Mul(s, w), d, q + row * q_step + l);
            }
          }
        };
        near_products<V>(from, end, a, call.m, scratch + at.b_lanes + j * call.m, scores);
        near_products<V>(from, end, y_bar, call.y_bar ? call.c : 0, scratch + at.x_lanes + j * call.c, combine);
      });
      const Index columns = std::min(kPanel<T>, nj - j);
      if (call.want_b) {
        add_outer_products(tile.distance != 0, end - from, p + from * step + j, step, columns, {a.row(from), a.step},
                           call.m_pad, to.b_bar + j * to.b_step, to.b_step);
      }
      if (call.want_x) {
        add_outer_products(tile.distance != 0, end - from, g + from * step + j, step, columns, {y_bar.row(from), y_bar.step},
                           call.c_pad, to.x_bar + j * to.x_step, to.x_step);
      }
    }
    if (near_bar != nullptr) add_diagonals(q, q_step, ni, nj, near_bar + tile.entry);
    if (own_rows) {
      add_row_products<T>(nj, {p, step}, ni, nullptr, nullptr, to.b.data, to.b.step, call.m_pad, to.a_bar, to.a_step,
                          [] HWY_ATTR {});
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // chunk near vjp
