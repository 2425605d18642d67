// CUDA: the gradient of a mask's entries by tile, gathered by offset without atomics.
// SPDX-License-Identifier: Apache-2.0
//
// G_ij = (a_i . b_j) (y_bar_i . x_j + r_bar_i) of one tile lies in shared memory; offset_table needs its sums over equal
// row_key[i] - col_key[j]. Keys rise by one along runs (the lines of a grid's last axis), so within a pair of runs equal
// differences are diagonals. For one run of columns and all rows every diagonal has a position of its own (a grid's keys are a
// mixed-radix number whose digits hold every difference of coordinates), so threads add to the table without meeting; runs of
// columns follow each other with a barrier between. Every block adds into a table of its own; the tables are added in order.
#include "backend/cuda/tile.cuh"
#include "backend/elementwise.hpp"
#include "backend/tiles.hpp"

#include <algorithm>

namespace espalier::backend {

namespace {

template <class T>
struct GradientCall {
  DeviceEntries<T> m;
  bool scores;
  DeviceMatrix<const T> a, b, y_bar, x;
  const T* r_bar;
  // Sums of block p: at parts + p * part_size, the table's, then three of the border.
  T* parts;
  Index part_size, table_size;
  bool want_table, want_border;
  T* values;  // dense: gradient of the entries, row stride m.values_stride
  Index tiles_across, tiles;
};

// acc += (rows of p) . (rows of q) over all features, through the two staging areas.
template <class T>
__device__ __forceinline__ void add_products(const Place<T>& at, const DeviceMatrix<const T>& p, Index row0, int rows,
                                             const DeviceMatrix<const T>& q, Index col0, int cols, T* p_area, T* q_area,
                                             T (&acc)[Tile<T>::kSide][Tile<T>::kSide]) {
  using G = Tile<T>;
  for (Index feature0 = 0; feature0 < p.cols; feature0 += G::kDepth) {
    const int depth = static_cast<int>(min(static_cast<Index>(G::kDepth), p.cols - feature0));
    __syncthreads();  // readers of the areas are done
    stage_turned<G::kLanes>(p, row0, rows, feature0, depth, p_area, G::kLanePitch);
    stage_turned<G::kSources>(q, col0, cols, feature0, depth, q_area, G::kSourcePitch);
    __syncthreads();
    multiply_accumulate<T>(at, p_area, G::kLanePitch, q_area, G::kSourcePitch, depth, acc);
  }
}

// Where runs start, one bit a row or column of the tile.
template <int Size>
struct RunStarts {
  unsigned word[Size / 32];
  // The first start after `at`, or `end`.
  __device__ int next(int at, int end) const {
    for (int w = (at + 1) / 32; w < Size / 32 && w * 32 < end; ++w) {
      const unsigned rest = w == (at + 1) / 32 ? word[w] & (0xffffffffu << ((at + 1) % 32)) : word[w];
      if (rest != 0) return min(w * 32 + __ffs(static_cast<int>(rest)) - 1, end);
    }
    return end;
  }
};
// Threads 0 .. Size - 1, whole warps of them, look at one key each; first .. last - 1 are inside the mask.
template <int Size>
__device__ void find_runs(const int* key, int first, int last, RunStarts<Size>& runs) {
  const int t = static_cast<int>(threadIdx.x);
  if (t >= Size) return;
  const bool start = t >= first && t < last && (t == first || key[t] != key[t - 1] + 1);
  const unsigned bits = __ballot_sync(0xffffffffu, start);
  if (t % 32 == 0) runs.word[t / 32] = bits;
}

template <class T>
struct TileSums {
  const T* g;  // [column][row], kLanePitch apart
  const int *row_key, *col_key;
  int row_first, row_last, col_first, col_last;
  const RunStarts<Tile<T>::kLanes>* row_runs;
  const RunStarts<Tile<T>::kSources>* col_runs;
};

// table[row_key - col_key] += the tile's sums by diagonal. All threads of the block.
template <class T>
__device__ void add_by_offset(const TileSums<T>& in, T* table) {
  using G = Tile<T>;
  const int t = static_cast<int>(threadIdx.x);
  const auto add_diagonal = [&](int i, int j, int length) {
    T sum = 0;
    for (int d = 0; d < length; ++d) sum += in.g[(j + d) * G::kLanePitch + i + d];
    table[in.row_key[i] - in.col_key[j]] += sum;
  };
  for (int ja = in.col_first; ja < in.col_last;) {
    const int jb = in.col_runs->next(ja, in.col_last);
    // Diagonals that begin in the run's first column,
    for (int i = in.row_first + t; i < in.row_last; i += G::kThreads) {
      add_diagonal(i, ja, min(in.row_runs->next(i, in.row_last) - i, jb - ja));
    }
    // and those that begin in the first row of a run of rows.
    for (int ia = in.row_first; ia < in.row_last;) {
      const int ib = in.row_runs->next(ia, in.row_last);
      for (int j = ja + 1 + t; j < jb; j += G::kThreads) add_diagonal(ia, j, min(ib - ia, jb - j));
      ia = ib;
    }
    __syncthreads();
    ja = jb;
  }
}

template <class T>
__global__ void __launch_bounds__(Tile<T>::kThreads, 2) entries_gradient_kernel(GradientCall<T> call) {
  using G = Tile<T>;
  ESPALIER_GPU_DYNAMIC_SHARED(T, memory);
  ESPALIER_GPU_SHARED(int, row_key, [G::kLanes]);
  ESPALIER_GPU_SHARED(int, col_key, [G::kSources]);
  ESPALIER_GPU_SHARED(RunStarts<G::kLanes>, row_runs, [1]);
  ESPALIER_GPU_SHARED(RunStarts<G::kSources>, col_runs, [1]);
  ESPALIER_GPU_SHARED(T, border_sums, [3][G::kThreads]);
  T* const p_area = memory;
  T* const q_area = p_area + G::kDepth * G::kLanePitch;
  T* const g = q_area + G::kDepth * G::kSourcePitch;
  const Place<T> at;
  const int t = static_cast<int>(threadIdx.x);
  T* const part = call.parts == nullptr ? nullptr : call.parts + static_cast<Index>(blockIdx.x) * call.part_size;
  for (int k = 0; k < 3; ++k) border_sums[k][t] = T(0);
  for (Index tile = static_cast<Index>(blockIdx.x); tile < call.tiles; tile += static_cast<Index>(gridDim.x)) {
    const Index row0 = tile / call.tiles_across * G::kLanes, col0 = tile % call.tiles_across * G::kSources;
    const int rows = static_cast<int>(min(static_cast<Index>(G::kLanes), call.m.lanes - row0));
    const int cols = static_cast<int>(min(static_cast<Index>(G::kSources), call.m.sources - col0));
    if (call.m.drops(row0, row0 + rows - 1, col0, col0 + cols - 1)) continue;
    const int row_first =
        static_cast<int>(min(max(call.m.border_lanes - row0, static_cast<Index>(0)), static_cast<Index>(rows)));
    const int col_first =
        static_cast<int>(min(max(call.m.border_sources - col0, static_cast<Index>(0)), static_cast<Index>(cols)));
    __syncthreads();  // the last tile is done with g, keys and runs
    for (int i = t; i < G::kLanes; i += G::kThreads) row_key[i] = call.m.key_of_lane(row0 + i);
    if (t < G::kSources) col_key[t] = call.m.key_of_source(col0 + t);
    T w[G::kSide][G::kSide], score[G::kSide][G::kSide];
    clear<T>(w);
    add_products<T>(at, call.y_bar, row0, rows, call.x, col0, cols, p_area, q_area, w);
    if (call.scores) {
      clear<T>(score);
      add_products<T>(at, call.a, row0, rows, call.b, col0, cols, p_area, q_area, score);
    }
    __syncthreads();
    find_runs<G::kLanes>(row_key, row_first, rows, *row_runs);
    find_runs<G::kSources>(col_key, col_first, cols, *col_runs);
#pragma unroll
    for (int c = 0; c < G::kSide; ++c) {
      const int j = at.col(c);
#pragma unroll
      for (int r = 0; r < G::kSide; ++r) {
        const int i = at.row(r);
        T value = w[r][c];
        if (call.scores) {
          if (call.r_bar != nullptr && i < rows) value += call.r_bar[row0 + i];
          value *= score[r][c];
        }
        const bool in = i < rows && j < cols && call.m.kept(row0 + i, col0 + j);
        g[j * G::kLanePitch + i] = in ? value : T(0);
        if (in && call.values != nullptr && i >= row_first && j >= col_first) {
          call.values[(row0 + i - call.m.border_lanes) * call.m.values_stride + col0 + j - call.m.border_sources] +=
              call.m.scale * value;
        }
      }
    }
#ifndef ESPALIER_DEFECT_SUMS_TOO_EARLY
    __syncthreads();
#endif
    if (call.want_border && t < rows) {
      for (int j = 0; j < (t < row_first ? cols : col_first); ++j) {
        border_sums[t < row_first ? (j < col_first ? 2 : 0) : 1][t] += g[j * G::kLanePitch + t];
      }
    }
    if (call.want_table) {
      add_by_offset<T>({g, row_key, col_key, row_first, rows, col_first, cols, row_runs, col_runs}, part);
    }
  }
  if (!call.want_border) return;
  __syncthreads();
  if (t < 3) {
    T sum = 0;
    for (int k = 0; k < G::kThreads; ++k) sum += border_sums[t][k];
    part[call.table_size + t] = sum;
  }
}

// Sums of the parts in their order: to the table with the entries' factor, to the border as they are.
template <class T>
struct AddParts {
  const T* parts;
  Index count, part_size, table_size;
  T scale;
  T *table, *border;
  __device__ void operator()(Index, Index k) const {
    T* const to =
        k < table_size ? (table == nullptr ? nullptr : table + k) : (border == nullptr ? nullptr : border + (k - table_size));
    if (to == nullptr) return;
    double sum = 0;
    for (Index p = 0; p < count; ++p) sum += static_cast<double>(parts[p * part_size + k]);
    *to += static_cast<T>((k < table_size ? static_cast<double>(scale) : 1.0) * sum);
  }
};

// Blocks that work at once, each with a table of its own (core facts: tiles.cu); fewer where their tables would not fit into a
// quarter of the scratch memory.
constexpr Index kParts = 264;

}  // namespace

template <class T>
void tile_entries_gradient(const Entries<T, Cuda>& m, const DeviceMatrix<const T>& a, const DeviceMatrix<const T>& b,
                           const DeviceMatrix<const T>& x, const DeviceMatrix<const T>& y_bar, const T* r_bar, bool scores,
                           const EntriesGradient<T, Cuda>& sink, const Context<Cuda>& context) {
  using G = Tile<T>;
  check_cancelled(context);
  if (m.rows == 0 || m.cols == 0) return;
  GradientCall<T> call{};
  call.m = device_entries(m, false);
  call.scores = scores;
  call.a = a, call.b = b, call.x = x, call.y_bar = y_bar;
  call.r_bar = r_bar;
  call.want_table = sink.table != nullptr && m.kind == EntryKind::offset_table;
  call.want_border = sink.border != nullptr;
  call.values = m.kind == EntryKind::dense ? sink.values : nullptr;
  call.table_size = call.want_table ? m.table_size : 0;
  call.part_size = call.want_table || call.want_border ? call.table_size + 3 : 0;
  if (call.part_size == 0 && call.values == nullptr) return;
  call.tiles_across = block_count(m.cols, G::kSources);
  call.tiles = call.tiles_across * block_count(m.rows, G::kLanes);
  const auto part_bytes = static_cast<std::size_t>(std::max<Index>(1, call.part_size)) * sizeof(T);
  const auto room = static_cast<Index>(context.scratch_bytes / 4 / part_bytes);
  const Index count = std::clamp<Index>(std::min(call.tiles, room), 1, kParts);
  Buffer<T, Cuda> parts(count * call.part_size, context);
  fill(parts.matrix(1, parts.size()), T(0), context);
  call.parts = parts.data();
  constexpr std::size_t bytes = sizeof(T) * (G::kDepth * (G::kLanePitch + G::kSourcePitch) + G::kSources * G::kLanePitch);
  gpu::launch(entries_gradient_kernel<T>, dim3(static_cast<unsigned>(count)), dim3(G::kThreads), bytes, stream_of(context),
              call);
  over_elements(1, call.part_size, context,
                AddParts<T>{parts.data(), count, call.part_size, call.table_size, m.scale, sink.table, sink.border});
}

template <class T, class B>
void tile_multiply_entries_gradient(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                    const EntriesGradient<T, B>& sink, Index, const Context<B>& context) {
  if (m.kind == EntryKind::none) throw ValueError("this mask has no entries by tile");
  if (!sink || x.cols == 0) return;
  tile_entries_gradient<T>(m, {}, {}, on_device(x), on_device(y_bar), nullptr, false, sink, context);
}

#define ESPALIER_INSTANTIATE(T)                                                                                               \
  template void tile_entries_gradient(const Entries<T, Cuda>&, const DeviceMatrix<const T>&, const DeviceMatrix<const T>&,    \
                                      const DeviceMatrix<const T>&, const DeviceMatrix<const T>&, const T*, bool,             \
                                      const EntriesGradient<T, Cuda>&, const Context<Cuda>&);                                 \
  template void tile_multiply_entries_gradient(const Entries<T, Cuda>&, MatrixView<const T, Cuda>, MatrixView<const T, Cuda>, \
                                               const EntriesGradient<T, Cuda>&, Index, const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
