// What the chunk kernels are told once a call: sizes, where scratch memory goes, the coefficients of every step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

#include "backend/chunked.hpp"
#include "backend/cpu/tile_geometry.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace espalier::backend {

// More threads than this are not used inside one product: scratch memory stays bounded whatever the machine.
inline constexpr Index kMaxWorkers = 16;
// Columns of x at once: a moment of m = 64 features is 64 KiB then.
inline constexpr Index kColumnBlock = 256;
// Elements of a task of the scan: R + r strips of 2 KiB stay in the first cache.
inline constexpr Index kScanBlock = 512;

// How far apart vectors of so many elements lie that one block of the scan reads at once: as close as they can be, but never
// near whole pages, where all would share the same few places of the first cache (a quarter slower with a dozen states).
inline Index spread_step(Index elements, std::size_t element) {
  constexpr Index kPage = 4096, kApart = 256;
  const Index bytes = elements * static_cast<Index>(element), past = (bytes + kApart) % kPage;
  return bytes < kPage - kApart || past >= 2 * kApart ? elements : elements + (2 * kApart - past) / static_cast<Index>(element);
}

// Exact tiles of a chunk of rows: its distance I - J from the chunk of sources, and where the table of near entries has the
// offset of row 0 and source 0 of both.
struct NearTile {
  Index distance, entry;
};
// All of them, sources rising.
template <class T>
std::vector<NearTile> near_tiles(const ChunkedToeplitz<T>& m) {
  std::vector<NearTile> tiles;
  const Index band = 2 * m.gap * m.chunk - 1, lowest = m.has_upper ? 1 - m.gap : 0, highest = m.has_lower ? m.gap - 1 : 0;
  for (Index n = lowest; n <= highest; ++n) tiles.push_back({n, n * m.chunk + m.gap * m.chunk - 1});
  for (std::size_t e = 0; e < m.exact.size(); ++e) {
    tiles.push_back({m.exact[e], band + static_cast<Index>(e) * (2 * m.chunk - 1) + m.chunk - 1});
  }
  std::sort(tiles.begin(), tiles.end(), [](const NearTile& p, const NearTile& q) { return p.distance > q.distance; });
  return tiles;
}

// Widths as the kernels store them. A moment is an m x c matrix, its rows c_pad apart, and behind it (where row sums are
// wanted) the same for a column of ones: m_pad elements. `size` is the whole, in elements; the next one is `step` behind.
struct MomentShape {
  Index m, c, m_pad, c_pad, size, step;

  MomentShape(std::size_t element, const TileGeometry& g, Index rank, Index columns, bool row_sums)
      : m(std::max<Index>(1, rank)),
        c(columns),
        m_pad(rank > 0 ? g.padded_lanes(g.padded_rows(rank)) : 0),
        c_pad(g.padded_lanes(columns)),
        size(m * c_pad + (row_sums ? m_pad : 0)),
        step(spread_step(size, element)) {}
};

// One product over one block of columns.
template <class T>
struct ChunkCall {
  const ChunkedToeplitz<T>* mask;
  MatrixView<const T, Cpu> a, b, x;  // a and b empty: the plain product
  MatrixView<T, Cpu> y;
  VectorView<T, Cpu> row_sum;
  MomentShape shape;
  std::vector<NearTile> tiles;

  bool plain() const { return !a; }
  Index chunks() const { return (mask->length + mask->chunk - 1) / mask->chunk; }
  Index begin(Index chunk) const { return chunk * mask->chunk; }
  Index rows(Index chunk) const { return std::min(mask->chunk, mask->length - begin(chunk)); }
  // Rows of a chunk that need not exist.
  Index rows_or_none(Index chunk) const { return chunk >= 0 && chunk < chunks() ? rows(chunk) : 0; }
};

// One step of the scan: coefficients [r], [r, R], [r, R] and couplings (null: none), see chunk_scan-inl.hpp.
template <class T>
struct ScanStep {
  Index basis, states, step;
  Index reads;                  // as in ChunkSide
  const unsigned char* unread;  // [r]: 1 where `out` is 0
  const T* keep;
  const T* decay;
  const unsigned char* slow;  // null: none; otherwise 1 where the state is compensated
  T* low;                     // what rounding left out of slow states, like the states
  const T* in;
  const T* out;
  const Index* couple_start;
  const Index* couple_state;
  const T* couple_weight;
};

// One side of the mask in one sweep: chunks are visited at times t = 0, 1, ...; chunk(t) rises for the lower side and falls for
// the upper one.
template <class T>
struct ChunkSweep {
  const ChunkSide<T>* side;
  bool upward;
  bool near;  // this sweep does the near tiles as well
  bool add;   // to what y and row_sum hold
  Index chunks;
  std::vector<T> keep, decay;       // [r]: chunk_move
  std::vector<unsigned char> slow;  // [r]; empty: none
  std::vector<unsigned char> unread;
  std::vector<T> couple_weight;  // times exp(-log_decay)
  std::vector<T> source_by_row;  // [C, basis padded]: for the plain product
  Index source_stride = 0;

  Index chunk(Index t) const { return upward ? t : chunks - 1 - t; }
  bool far() const { return side->basis > 0; }

  ChunkSweep(const ChunkedToeplitz<T>& m, const ChunkSide<T>& s, bool up, Index count, const TileGeometry& g)
      : side(&s), upward(up), near(false), add(false), chunks(count) {
    bool any_slow = false;
    for (const double rate : s.log_decay) {
      const auto [kept, factor] = chunk_move(rate);
      keep.push_back(static_cast<T>(kept));
      decay.push_back(static_cast<T>(factor));
      slow.push_back(rate < kSlowLogDecay);
      any_slow = any_slow || rate < kSlowLogDecay;
    }
    if (!any_slow) slow.clear();
    for (Index q = 0; q < s.states; ++q) {
      bool zero = true;
      for (Index p = 0; p < s.basis; ++p) zero = zero && s.out[static_cast<std::size_t>(p * s.states + q)] == 0;
      unread.push_back(zero);
    }
    // The members of a pair turn into one another.
    for (std::size_t q = 0; q < s.angle.size(); ++q) {
      if (s.angle[q] == 0) continue;
      unread[q] = unread[q + 1] = unread[q] & unread[q + 1];
      ++q;
    }
    for (std::size_t q = 0; q + 1 < s.couple_start.size(); ++q) {
      for (Index k = s.couple_start[q]; k < s.couple_start[q + 1]; ++k) {
        couple_weight.push_back(static_cast<T>(s.couple_weight[static_cast<std::size_t>(k)] * std::exp(-s.log_decay[q])));
      }
    }
    source_stride = g.padded_rows(s.basis);
    source_by_row.assign(static_cast<std::size_t>(m.chunk * source_stride), T(0));
    for (Index p = 0; p < s.basis; ++p) {
      for (Index b = 0; b < m.chunk; ++b) {
        source_by_row[static_cast<std::size_t>(b * source_stride + p)] = s.source[static_cast<std::size_t>(p * m.chunk + b)];
      }
    }
  }

  // States in memory: the sums, and behind them what rounding left out where some are slow.
  Index state_elements(Index step) const { return side->states * step * (slow.empty() ? 1 : 2); }

  ScanStep<T> scan_step(Index step, const T* in, const T* out, T* state) const {
    ScanStep<T> scan{};
    scan.basis = side->basis;
    scan.states = side->states;
    scan.step = step;
    scan.reads = side->reads;
    scan.unread = unread.data();
    scan.keep = keep.data();
    scan.decay = decay.data();
    scan.slow = slow.empty() ? nullptr : slow.data();
    scan.low = slow.empty() ? nullptr : state + side->states * step;
    scan.in = in;
    scan.out = out;
    if (!side->couple_start.empty()) {
      scan.couple_start = side->couple_start.data();
      scan.couple_state = side->couple_state.data();
      scan.couple_weight = couple_weight.data();
    }
    return scan;
  }

  // in and out at time t, both [r, R]. States of pairs are kept in a frame that turns with them, S~ = Rot(-t angle) S: then
  // they only decay, and the rotation, exact in double at any t, goes into these small matrices.
  void coefficients(Index t, T* in, T* out) const { coefficients(t, in, out, side->out); }
  // With another matrix in the place of side->out.
  void coefficients(Index t, T* in, T* out, const std::vector<double>& side_out) const {
    const Index basis = side->basis, states = side->states;
    const auto in_at = [&](Index q, Index p) { return side->in[static_cast<std::size_t>(q * basis + p)]; };
    const auto out_at = [&](Index p, Index q) { return side_out[static_cast<std::size_t>(p * states + q)]; };
    for (Index q = 0; q < states; ++q) {
      const double angle = side->angle[static_cast<std::size_t>(q)];
      if (angle == 0) {
        for (Index p = 0; p < basis; ++p) {
          in[q * basis + p] = static_cast<T>(in_at(q, p));
          out[q * basis + p] = static_cast<T>(out_at(p, q));
        }
        continue;
      }
      // angle t to twice double's digits: its rounding would be an error of the phase that grows with t.
      const double time = static_cast<double>(t), turn = angle * time, rest = std::fma(angle, time, -turn);
      const double cosine = std::cos(turn) - rest * std::sin(turn), sine = std::sin(turn) + rest * std::cos(turn);
      for (Index p = 0; p < basis; ++p) {
        const double x = in_at(q, p), y = in_at(q + 1, p), u = out_at(p, q), v = out_at(p, q + 1);
        in[q * basis + p] = static_cast<T>(cosine * x + sine * y);
        in[(q + 1) * basis + p] = static_cast<T>(cosine * y - sine * x);
        out[q * basis + p] = static_cast<T>(u * cosine + v * sine);
        out[(q + 1) * basis + p] = static_cast<T>(v * cosine - u * sine);
      }
      ++q;
    }
  }
};

// Scratch of one worker, in elements, each part on whole cache lines.
template <class T>
struct ChunkScratch {
  Index size = 0;
  Index a_lanes, b, x, x_weighted, scores, sums, y;

  ChunkScratch(const TileGeometry& g, const MomentShape& s, Index chunk, bool plain) {
    const Index rank = plain ? 0 : s.m, panels = (chunk + g.panel - 1) / g.panel;
    a_lanes = take(panels * rank * g.panel);
    b = take(g.padded_rows(chunk) * s.m_pad + g.rows);
    x = take(chunk * s.c_pad + g.rows);
    x_weighted = take(plain ? 0 : chunk * g.panel);
    scores = take(plain ? 0 : chunk * g.panel);
    sums = take(panels * g.panel);
    y = take(panels * g.panel * g.padded_rows(s.c));
  }
  Index take(Index n) {
    const Index at = size;
    size += align_elements<T>(n);
    return at;
  }
};

}  // namespace espalier::backend
