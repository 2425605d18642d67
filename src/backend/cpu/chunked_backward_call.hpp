// What the gradient kernels of chunked products are told once a call, and where their scratch memory goes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

#include <algorithm>
#include <vector>

#include "backend/chunked.hpp"
#include "backend/cpu/chunked_call.hpp"

namespace espalier::backend {

template <class T>
struct ChunkBackward {
  const ChunkedToeplitz<T>* mask;
  const ChunkedToeplitz<T>* turned;  // the transposed mask: its rows are the sources
  MatrixView<const T, Cpu> a, b, x, y_bar;
  VectorView<const T, Cpu> r_bar;
  MatrixView<T, Cpu> a_bar, b_bar, x_bar;
  bool want_a, want_sources, want_b, want_x, want_parameters;
  bool near, add;  // this sweep does the near tiles; it adds to what the gradients hold
  Index m, c, m_pad, c_pad, step;
  std::vector<NearTile> tiles, turned_tiles;

  Index chunks() const { return (mask->length + mask->chunk - 1) / mask->chunk; }
  Index begin(Index chunk) const { return chunk * mask->chunk; }
  Index rows(Index chunk) const { return std::min(mask->chunk, mask->length - begin(chunk)); }
  Index near_size() const { return static_cast<Index>(mask->near.size()); }
};

// Scratch of one worker, in elements, each part on whole cache lines.
template <class T>
struct ChunkBackwardScratch {
  Index size = 0;
  Index b_plain, x_plain, weighted, factor;                                      // moments
  Index y_lanes, x_lanes, b_lanes, lanes_weighted, turned, a_bar, b_bar, x_bar;  // reads
  Index packed_x, packed_a, packed_y, w, s, t;                                   // near tiles

  ChunkBackwardScratch(const TileGeometry& g, const ChunkBackward<T>& call) {
    const Index chunk = call.mask->chunk, panels = (chunk + g.panel - 1) / g.panel, m = call.m, c = call.c;
    b_plain = take(chunk * call.m_pad + g.rows);
    x_plain = take(chunk * call.c_pad + g.rows);
    weighted = take(chunk * call.m_pad);
    factor = take(chunk);
    y_lanes = take(panels * (c + 1) * g.panel);
    x_lanes = take(panels * (c + 1) * g.panel);
    b_lanes = take(panels * m * g.panel);
    lanes_weighted = take(std::max(c + 1, m) * g.panel);
    turned = take(m * call.c_pad + g.rows);
    a_bar = take(panels * g.padded_rows(m) * g.panel);
    b_bar = take(panels * g.padded_rows(m) * g.panel);
    x_bar = take(panels * g.padded_rows(c) * g.panel);
    packed_x = take(g.padded_rows(chunk) * c);
    packed_y = take(g.padded_rows(chunk) * c);
    packed_a = take(g.padded_rows(chunk) * m);
    w = take(chunk * g.panel);
    s = take(chunk * g.panel);
    t = take(chunk * g.panel);
  }
  Index take(Index n) {
    const Index at = size;
    size += align_elements<T>(n);
    return at;
  }
};

// The two sides of one sweep: sources come to rows, rows come to sources.
template <class T>
struct ChunkBackwardSweep {
  ChunkSweep<T> sources, rows;
};

}  // namespace espalier::backend
