// What the gradient kernels of chunked products are told once a call, and where their scratch memory goes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

#include <algorithm>
#include <vector>

#include "backend/chunked.hpp"
#include "backend/cpu/chunk_stream.hpp"
#include "backend/cpu/chunk_terms.hpp"
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
  Index m, c, m_pad, c_pad;
  Index size, step;  // as in MomentShape
  std::vector<NearTile> tiles, turned_tiles;
  TermGradients<T>* terms;  // null: no derivatives by terms

  Index chunks() const { return (mask->length + mask->chunk - 1) / mask->chunk; }
  Index begin(Index chunk) const { return chunk * mask->chunk; }
  Index rows(Index chunk) const { return std::min(mask->chunk, mask->length - begin(chunk)); }
  // Rows of a chunk that need not exist.
  Index rows_or_none(Index chunk) const { return chunk >= 0 && chunk < chunks() ? rows(chunk) : 0; }
  Index near_size() const { return static_cast<Index>(mask->near.size()); }
  void set_moment_size() {
    size = (c + 1) * m_pad;
    step = spread_step(size, sizeof(T));
  }
};

// Near tiles that a thread's later rows need too stay in memory up to this size, well within the second cache; the others are
// computed twice, to the same bits.
inline constexpr Index kKeptBytes = 96 << 10;

// Scratch of one worker, in elements, each part on whole cache lines.
template <class T>
struct ChunkBackwardScratch {
  Index size = 0;
  Index plain_m, plain_c, weighted, factor;                           // moments; near tiles: rows of other chunks
  Index x, a, b, y_bar, r_bar, ones, a_bar, b_bar, x_bar;             // rows of the own chunk, where not the caller's
  Index y_lanes, x_lanes, b_lanes, r_other, p, g, q, q_step, turned;  // near tiles; reads
  Index kept, kept_distance = 0, tile;                                // P of near tiles for rows to come, see kept_tile

  ChunkBackwardScratch(const TileGeometry& g_, const ChunkBackward<T>& call) {
    const Index chunk = call.mask->chunk, m = call.m, c = call.c, vector = g_.panel / 2;
    plain_m = take(chunk * call.m_pad + g_.rows);
    plain_c = take(chunk * call.c_pad + g_.rows);
    weighted = take(chunk * g_.panel);
    factor = take(chunk);
    x = take(chunk * call.c_pad);
    a = take(call.terms != nullptr ? chunk * call.m_pad : 0);
    b = take(chunk * call.m_pad);
    y_bar = take(chunk * call.c_pad);
    r_bar = take(chunk);
    ones = take(chunk);
    a_bar = take(chunk * call.m_pad);
    b_bar = take(chunk * call.m_pad);
    x_bar = take(chunk * call.c_pad);
    y_lanes = take(chunk * c);
    x_lanes = take(chunk * c);
    b_lanes = take(chunk * m);
    r_other = take(chunk);
    p = take(chunk * chunk);
    g = take(chunk * chunk);
    q_step = chunk + 2 * vector;
    q = take(chunk * q_step);
    turned = take(m * call.c_pad + g_.rows);
    tile = chunk * chunk;
    const auto tiles = [](Index distance) { return distance * (distance + 3) / 2; };
    while (call.near && call.want_a && call.want_sources && call.mask->has_lower && kept_distance + 1 < call.mask->gap &&
           tiles(kept_distance + 1) * tile * static_cast<Index>(sizeof(T)) <= kKeptBytes) {
      ++kept_distance;
    }
    kept = take(tiles(kept_distance) * tile);
  }
  // The tile of rows `distance` chunks above its sources, 1 .. kept_distance. Of as many sources as are needed again and one
  // more: that of a chunk is made before its rows take those that came before.
  Index kept_tile(Index distance, Index source) const {
    return kept + ((distance - 1) * (distance + 2) / 2 + source % (distance + 1)) * tile;
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

// How one sweep's memory is laid out: streams, moments of rows for derivatives, what each chunk of a wave adds to near entries.
template <class T>
struct BackwardPlan {
  Index workers, blocks;
  WaveLength waves;
  Index derivatives = 0;       // of the far entries; windows: R = 1 and a derivative each
  bool both = false;           // states of rows meet moments of sources too
  Index derivative_basis = 0;  // of moments of rows that no stream brings
  ChunkStream<T> sources, rows;
  Index per_worker, derivative_ring, near, size;  // offsets; scratch is at 0

  BackwardPlan(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, int threads) {
    const ChunkSide<T>& side = *sweep.sources.side;
    if (call.want_parameters && side.basis > 0) {
      derivatives = static_cast<Index>(side.windows.empty() ? side.derivative_out.size() : side.windows.size());
    }
    both = derivatives > 0 && !sweep.rows.side->derivative_out.empty();
    if (derivatives > 0 && !both) derivative_basis = side.basis;
    const Index source_basis = derivatives > 0 || call.want_a ? side.basis : 0;
    const Index row_basis = call.want_sources ? sweep.rows.side->basis : 0;
    const Index n = call.chunks(), per_chunk = (source_basis + row_basis + derivative_basis) * call.step;
    workers = std::min<Index>({n, threads, kMaxWorkers});
    waves = wave_length(per_chunk, n, workers, sizeof(T));
    // Each chunk of a wave gathers near entries of its own: 8 MiB of them, or one chunk a worker.
    const Index gathered = (Index{8} << 20) / static_cast<Index>(sizeof(T)) / std::max<Index>(1, call.near_size());
    if (call.near && call.want_parameters) waves.wave = std::clamp<Index>(gathered / workers, 1, waves.wave);
    blocks = (call.size + kScanBlock - 1) / kScanBlock;
    sources = ChunkStream<T>(sweep.sources, source_basis, call.step, call.mask->gap, waves);
    rows = ChunkStream<T>(sweep.rows, row_basis, call.step, call.mask->gap, waves);
    per_worker = ChunkBackwardScratch<T>(tile_geometry(sizeof(T)), call).size;
    derivative_ring = align_elements<T>(workers * per_worker) + sources.elements() + rows.elements();
    near = derivative_ring + align_elements<T>(waves.kept * waves.wave * derivative_basis * call.step);
    size = near + align_elements<T>(call.near && call.want_parameters ? workers * waves.wave * call.near_size() : 0);
  }
  // Moments of rows of the chunk of time t that no stream brings.
  Index derivative_moments(Index t, Index step) const {
    return derivative_ring + t % (waves.kept * waves.wave) * derivative_basis * step;
  }
  // What the k-th chunk of a worker's wave gathers.
  Index near_entries(int worker, Index k, Index near_size) const { return near + (worker * waves.wave + k) * near_size; }
  // Whether the stream's moments of time t of n are wanted: by chunks to come, or by states of the other stream.
  bool wanted(const ChunkStream<T>& stream, Index t, Index n) const {
    return stream.exists() && (t + stream.lag() < n || (both && t >= stream.lag()));
  }
  void place(T* base) {
    T* at = base + align_elements<T>(workers * per_worker);
    sources.place(at);
    rows.place(at + sources.elements());
  }
};

// The kernels, for any instruction set (chunked_vjp.cpp). Moments of one chunk, [basis][c + 1][m_pad], of its sources or of its
// rows; weights: [basis, C].
template <class T>
void run_source_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,
                        T* moments);
template <class T>
void run_row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,
                     T* moments);
// out[q * basis + p] = sum over elements [from, to) of state_q moment_p.
template <class T>
void run_state_dots(Index basis, Index states, Index step, Index from, Index to, const T* moments, const T* state, T* out);
// What one chunk reads of states of sources and of rows (null: nothing far), and its near tiles. begin: this worker has made
// the near tiles of all chunks from this one on.
template <class T>
void run_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index begin, Index chunk,
               const T* source_reads, const T* row_reads, T* near_bar, T* scratch);

}  // namespace espalier::backend
