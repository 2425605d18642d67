// The register tile under all products by tile, and a mask's entries as kernels see them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/entries.hpp>

#include "backend/cuda/device.hpp"

#include <cstdint>

namespace espalier::backend {

// ---- register tile ---------------------------------------------------------------------------------------------------

// 128 threads share a tile of kLanes x kSources numbers, kSide x kSide of them each: in float 128 x 64 and 8 x 8, so that 64
// multiply-adds follow from four 16-byte loads. Thread (lane, source) holds kVector rows at lane * kVector and kVector more
// half a tile further down, columns alike: the eight threads that load at the same time then touch 128 bytes in a row.
template <class T>
struct Tile {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kSide = 2 * kVector;
  static constexpr int kAcross = 16, kDown = 8, kThreads = kAcross * kDown;
  static constexpr int kLanes = kAcross * kSide, kSources = kDown * kSide;
  // Depth of one step through shared memory. Rows there are one vector longer than a tile, which spreads the transposing
  // stores over the banks.
  static constexpr int kDepth = 64;
  static constexpr int kLanePitch = kLanes + kVector, kSourcePitch = kSources + kVector;
};

__device__ __forceinline__ void load_vector(const float* from, float* to) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void load_vector(const double* from, double* to) {
  const double2 v = *reinterpret_cast<const double2*>(from);
  to[0] = v.x, to[1] = v.y;
}
__device__ __forceinline__ void store_vector(const float* from, float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
}
__device__ __forceinline__ void store_vector(const double* from, double* to) {
  *reinterpret_cast<double2*>(to) = make_double2(from[0], from[1]);
}

// A thread's place in the tile. A warp covers 8 lanes x 4 sources of threads.
template <class T>
struct Place {
  int lane, source;
  __device__ Place() {
    const int t = static_cast<int>(threadIdx.x), warp = t / 32, in_warp = t % 32;
    lane = (warp % 2 * 8 + in_warp % 8) * Tile<T>::kVector;
    source = (warp / 2 * 4 + in_warp / 8) * Tile<T>::kVector;
  }
  // Tile row (column) of the thread's number r.
  __device__ int row(int r) const { return lane + (r / Tile<T>::kVector) * (Tile<T>::kLanes / 2) + r % Tile<T>::kVector; }
  __device__ int col(int r) const { return source + (r / Tile<T>::kVector) * (Tile<T>::kSources / 2) + r % Tile<T>::kVector; }
};

// acc[r][s] += sum_k p[k][row(r)] q[k][col(s)], k < depth.
template <class T>
__device__ __forceinline__ void multiply_accumulate(const Place<T>& at, const T* p, int p_pitch, const T* q, int q_pitch,
                                                    int depth, T (&acc)[Tile<T>::kSide][Tile<T>::kSide]) {
  using G = Tile<T>;
  p += at.lane;
  q += at.source;
#pragma unroll 4
  for (int k = 0; k < depth; ++k) {
    T left[G::kSide], right[G::kSide];
    load_vector(p, left);
    load_vector(p + G::kLanes / 2, left + G::kVector);
    load_vector(q, right);
    load_vector(q + G::kSources / 2, right + G::kVector);
    p += p_pitch;
    q += q_pitch;
#pragma unroll
    for (int r = 0; r < G::kSide; ++r) {
#pragma unroll
      for (int s = 0; s < G::kSide; ++s) acc[r][s] += left[r] * right[s];
    }
  }
}
template <class T>
__device__ __forceinline__ void clear(T (&acc)[Tile<T>::kSide][Tile<T>::kSide]) {
#pragma unroll
  for (int r = 0; r < Tile<T>::kSide; ++r) {
#pragma unroll
    for (int s = 0; s < Tile<T>::kSide; ++s) acc[r][s] = T(0);
  }
}

// Copies to shared memory: neighbouring threads read neighbouring columns; eight loads a thread are under way before the first
// is needed, since a load takes some 600 cycles and a step's arithmetic 8,192.

// to[k][i] = m(row0 + i, col0 + k) for i < count, k < depth, and 0 for count <= i < Size: rows become columns.
template <int Size, class T>
__device__ __forceinline__ void stage_turned(const DeviceMatrix<const T>& m, Index row0, int count, Index col0, int depth,
                                             T* to, int pitch) {
  constexpr int kDepth = Tile<T>::kDepth, kRowsAtOnce = Tile<T>::kThreads / kDepth;
  const int k = static_cast<int>(threadIdx.x) % kDepth, first = static_cast<int>(threadIdx.x) / kDepth;
  if (k >= depth) return;
  Index from = (row0 + first) * m.row_stride + col0 + k;
  const Index step = kRowsAtOnce * m.row_stride;
#pragma unroll 8
  for (int i = first; i < Size; i += kRowsAtOnce) {
    to[k * pitch + i] = i < count ? m.data[from] : T(0);
    from += step;
  }
}
// to[j][c] = m(row0 + j, col0 + c) for j < count and c < width, 0 in the rest of the tile of sources.
template <class T>
__device__ __forceinline__ void stage_straight(const DeviceMatrix<const T>& m, Index row0, int count, Index col0, int width,
                                               T* to, int pitch) {
  constexpr int kSources = Tile<T>::kSources, kRowsAtOnce = Tile<T>::kThreads / kSources;
  const int c = static_cast<int>(threadIdx.x) % kSources, first = static_cast<int>(threadIdx.x) / kSources;
  Index from = (row0 + first) * m.row_stride + col0 + c;
  const Index step = kRowsAtOnce * m.row_stride;
#pragma unroll 8
  for (int j = first; j < kSources; j += kRowsAtOnce) {
    to[j * pitch + c] = j < count && c < width ? m.data[from] : T(0);
    from += step;
  }
}

// ---- entries ---------------------------------------------------------------------------------------------------------

// The entries of M, or of Mᵀ (turned), rows called lanes and columns sources.
template <class T>
struct DeviceEntries {
  EntryKind kind;
  bool causal, turned;
  Index lanes, sources;
  Index border_lanes, border_sources;
  Index causal_shift;
  T scale, border[3];  // lane, source, corner
  const T* values;
  Index values_stride;
  const T* table;
  const std::int32_t *lane_key, *source_key;

  // A table alone: nothing to decide for each entry but causality.
  bool plain() const { return kind == EntryKind::offset_table && border_lanes == 0 && border_sources == 0 && scale == T(1); }

  // Whether causality keeps the pair. Of M: j - i <= shift.
  __device__ bool kept(Index lane, Index source) const {
    return !causal || (turned ? lane - source : source - lane) <= causal_shift;
  }
  // Whether it drops every pair of lanes lane0 .. lane1 and sources source0 .. source1 (last ones included).
  __device__ bool drops(Index lane0, Index lane1, Index source0, Index source1) const {
    return causal && (turned ? lane0 - source1 : source0 - lane1) > causal_shift;
  }
  __device__ int key_of_lane(Index lane) const { return key(lane_key, lane - border_lanes, lanes - border_lanes, turned); }
  __device__ int key_of_source(Index source) const {
    return key(source_key, source - border_sources, sources - border_sources, turned);
  }
  // Places outside have the key of the nearest one inside: their entries are loaded and meet operands that are 0.
  __device__ static int key(const std::int32_t* keys, Index at, Index count, bool negative) {
    if (keys == nullptr || count <= 0) return 0;
    const int k = keys[at < 0 ? 0 : at < count ? at : count - 1];
    return negative ? -k : k;
  }
  // The entry of lane and source within the matrix, causality not looked at.
  __device__ T entry(Index lane, Index source, int lane_k, int source_k) const {
    const bool in_lanes = lane < border_lanes, in_sources = source < border_sources;
    if (in_lanes || in_sources) return border[in_lanes ? (in_sources ? 2 : 0) : 1];
    if (kind == EntryKind::ones) return scale;
    if (kind == EntryKind::offset_table) return scale * table[lane_k - source_k];
    if (lane >= lanes || source >= sources) return T(0);
    const Index i = lane - border_lanes, j = source - border_sources;
    return scale * (turned ? values[j * values_stride + i] : values[i * values_stride + j]);
  }
};

// Errors: ValueError for kinds that have no CUDA kernel.
template <class T>
DeviceEntries<T> device_entries(const Entries<T, Cuda>& m, bool transpose) {
  if (m.kind == EntryKind::none) throw ValueError("this mask has no entries by tile");
  if (m.kind != EntryKind::ones && m.kind != EntryKind::dense && m.kind != EntryKind::offset_table) {
    throw ValueError("CUDA tile products know the entries ones, dense and offset_table; this mask has others");
  }
  DeviceEntries<T> e{};
  e.kind = m.kind;
  e.causal = m.causal;
  e.turned = transpose;
  e.lanes = transpose ? m.cols : m.rows;
  e.sources = transpose ? m.rows : m.cols;
  e.border_lanes = transpose ? m.border_cols : m.border_rows;
  e.border_sources = transpose ? m.border_rows : m.border_cols;
  e.causal_shift = m.causal_shift;
  e.scale = m.scale;
  e.border[0] = m.border[transpose ? 1 : 0];
  e.border[1] = m.border[transpose ? 0 : 1];
  e.border[2] = m.border[2];
  e.values = m.values;
  e.values_stride = m.values_stride;
  e.table = m.table;
  // Position in the table: row_key - col_key. Turned, both signs change.
  e.lane_key = transpose ? m.col_key : m.row_key;
  e.source_key = transpose ? m.row_key : m.col_key;
  return e;
}

// sink += gradient of sum_ij M_ij G_ij with respect to the entries of M, where G_ij = (a_i . b_j) (y_bar_i . x_j + r_bar_i), or
// without scores G_ij = y_bar_i . x_j. Part of tile_low_rank_vjp and tile_multiply_entries_gradient.
template <class T>
void tile_entries_gradient(const Entries<T, Cuda>& m, const DeviceMatrix<const T>& a, const DeviceMatrix<const T>& b,
                           const DeviceMatrix<const T>& x, const DeviceMatrix<const T>& y_bar, const T* r_bar, bool scores,
                           const EntriesGradient<T, Cuda>& sink, const Context<Cuda>& context);

}  // namespace espalier::backend
