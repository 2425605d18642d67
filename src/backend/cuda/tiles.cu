// CUDA tile products: Y = (M ∘ A Bᵀ) X with scores that live in registers and shared memory only, and its gradients by turning
// the same product's arguments.
// SPDX-License-Identifier: Apache-2.0
//
// A block of 128 threads owns kLanes rows of Y and walks over sources kSources at a time:
//   S[i][j] = M_ij (a_i . b_j + p_i + q_j)   register tile over the features, times the entries     -> shared memory
//   Y[i][c] += sum_j S[i][j] x_jc            the same register tile over the sources; each step's sum starts at zero, so that
//                                            rounding grows with kSources + cols / kSources, not with cols
// Float, m = c = 64: a step is 2 x 128 x 64 x 64 multiply-adds, 8,192 cycles of an SM's 128 lanes; the loads of its operands
// (32 KB) and the 64 entries a thread are below a tenth of that. 100 KB of shared memory: two blocks an SM on sm_90.
#include "backend/tiles.hpp"

#include "backend/cuda/tile.cuh"
#include "backend/elementwise.hpp"

#include <algorithm>

namespace espalier::backend {

namespace {

template <class T>
struct ProductCall {
  DeviceEntries<T> m;
  bool scores;                       // false: the plain product, S = M
  DeviceMatrix<const T> a, b;        // lanes x m, sources x m
  const T *lane_bias, *source_bias;  // p, q; null: 0
  DeviceMatrix<const T> x;           // sources x c
  DeviceMatrix<T> y;                 // lanes x c, of split 0
  T* row_sum;                        // null: not wanted
  Index y_split, row_sum_split;      // elements between the results of two splits
  Index sources_per_split;
};

template <class T>
constexpr std::size_t product_shared_bytes() {
  using G = Tile<T>;
  return sizeof(T) * (G::kDepth * (G::kLanePitch + G::kSourcePitch) + G::kSources * (G::kLanes + G::kSources));
}

// S of one tile, from a_i . b_j in acc: entries and biases put in, stored to s[j][i].
template <class T, bool Plain>
__device__ __forceinline__ void finish_scores(const ProductCall<T>& call, const Place<T>& at, Index lane0, Index source0,
                                              const int* lane_key, const int* source_key, const T* lane_bias,
                                              const T* source_bias, T (&acc)[Tile<T>::kSide][Tile<T>::kSide], T* s) {
  using G = Tile<T>;
  // Tiles that the diagonal does not cut need no test for each pair.
  const bool cut =
      call.m.causal && !(call.m.kept(lane0, source0 + G::kSources - 1) && call.m.kept(lane0 + G::kLanes - 1, source0));
#pragma unroll
  for (int c = 0; c < G::kSide; ++c) {
    const int j = at.col(c);
    T column[G::kSide];
#pragma unroll
    for (int r = 0; r < G::kSide; ++r) {
      const int i = at.row(r);
      T entry;
      if (Plain) {
        entry = call.m.table[lane_key[i] - source_key[j]];
      } else {
        entry = call.m.entry(lane0 + i, source0 + j, lane_key[i], source_key[j]);
      }
      if (cut && !call.m.kept(lane0 + i, source0 + j)) entry = T(0);
      column[r] = call.scores ? entry * (acc[r][c] + lane_bias[i] + source_bias[j]) : entry;
    }
    store_vector(column, s + j * G::kLanes + at.lane);
    store_vector(column + G::kVector, s + j * G::kLanes + at.lane + G::kLanes / 2);
  }
}

template <class T, bool Plain>
__global__ void __launch_bounds__(Tile<T>::kThreads, 2) product_kernel(ProductCall<T> call) {
  using G = Tile<T>;
  ESPALIER_GPU_DYNAMIC_SHARED(T, memory);
  ESPALIER_GPU_SHARED(int, lane_key, [G::kLanes]);
  ESPALIER_GPU_SHARED(int, source_key, [G::kSources]);
  ESPALIER_GPU_SHARED(T, lane_bias, [G::kLanes]);
  ESPALIER_GPU_SHARED(T, source_bias, [G::kSources]);
  T* const a = memory;                           // [feature][lane]
  T* const b = a + G::kDepth * G::kLanePitch;    // [feature][source]
  T* const s = b + G::kDepth * G::kSourcePitch;  // [source][lane]
  T* const x = s + G::kSources * G::kLanes;      // [source][column]
  const Place<T> at;
  const int t = static_cast<int>(threadIdx.x);
  const Index lane0 = static_cast<Index>(blockIdx.x) * G::kLanes, column0 = static_cast<Index>(blockIdx.y) * G::kSources;
  const int lanes = static_cast<int>(min(static_cast<Index>(G::kLanes), call.m.lanes - lane0));
  const int columns = static_cast<int>(min(static_cast<Index>(G::kSources), call.x.cols - column0));
  const Index begin = static_cast<Index>(blockIdx.z) * call.sources_per_split;
  const Index end = min(call.m.sources, begin + call.sources_per_split);
  const Index rank = call.scores ? call.a.cols : 0;
  for (int i = t; i < G::kLanes; i += G::kThreads) {
    lane_key[i] = call.m.key_of_lane(lane0 + i);
    lane_bias[i] = call.lane_bias != nullptr && i < lanes ? call.lane_bias[lane0 + i] : T(0);
  }
  T y[G::kSide][G::kSide];
  clear<T>(y);
  T row_sum = 0;
  bool lanes_staged = false;
  for (Index source0 = begin; source0 < end; source0 += G::kSources) {
    const int sources = static_cast<int>(min(static_cast<Index>(G::kSources), end - source0));
    if (call.m.drops(lane0, lane0 + lanes - 1, source0, source0 + sources - 1)) continue;
#ifndef ESPALIER_DEFECT_MISSING_BARRIER
    __syncthreads();  // the last step's readers of s and x are done
#endif
    if (t < G::kSources) {
      source_key[t] = call.m.key_of_source(source0 + t);
      source_bias[t] = call.source_bias != nullptr && t < sources ? call.source_bias[source0 + t] : T(0);
    }
    stage_straight<T>(call.x, source0, sources, column0, columns, x, G::kSources);
    T acc[G::kSide][G::kSide];
    clear<T>(acc);
    for (Index feature0 = 0; feature0 < rank; feature0 += G::kDepth) {
      const int depth = static_cast<int>(min(static_cast<Index>(G::kDepth), rank - feature0));
      if (feature0 > 0) __syncthreads();
      // Up to kDepth features of the lanes stay for the whole walk.
      if (rank > G::kDepth || !lanes_staged) {
        stage_turned<G::kLanes>(call.a, lane0, lanes, feature0, depth, a, G::kLanePitch);
      }
      lanes_staged = true;
      stage_turned<G::kSources>(call.b, source0, sources, feature0, depth, b, G::kSourcePitch);
      __syncthreads();
      multiply_accumulate<T>(at, a, G::kLanePitch, b, G::kSourcePitch, depth, acc);
    }
    if (rank == 0) __syncthreads();
    finish_scores<T, Plain>(call, at, lane0, source0, lane_key, source_key, lane_bias, source_bias, acc, s);
    __syncthreads();
    if (call.row_sum != nullptr && t < G::kLanes) {
      T sum = 0;
      for (int j = 0; j < sources; ++j) sum += s[j * G::kLanes + t];
      row_sum += sum;
    }
    clear<T>(acc);
    multiply_accumulate<T>(at, s, G::kLanes, x, G::kSources, sources, acc);
#pragma unroll
    for (int r = 0; r < G::kSide; ++r) {
#pragma unroll
      for (int c = 0; c < G::kSide; ++c) y[r][c] += acc[r][c];
    }
  }
  T* const to = call.y.data + static_cast<Index>(blockIdx.z) * call.y_split;
#pragma unroll
  for (int r = 0; r < G::kSide; ++r) {
    const int i = at.row(r);
#pragma unroll
    for (int c = 0; c < G::kSide; ++c) {
      const int column = at.col(c);
      if (i < lanes && column < columns) to[(lane0 + i) * call.y.row_stride + column0 + column] = y[r][c];
    }
  }
  if (call.row_sum != nullptr && blockIdx.y == 0 && t < lanes) {
    call.row_sum[static_cast<Index>(blockIdx.z) * call.row_sum_split + lane0 + t] = row_sum;
  }
}

// to(i, c) = sum over the splits in their order.
template <class T>
struct AddSplits {
  const T* parts;
  Index split, count;
  DeviceMatrix<T> to;
  __device__ void operator()(Index i, Index c) const {
    T sum = 0;
    for (Index k = 0; k < count; ++k) sum += parts[k * split + i * to.cols + c];
    to(i, c) = sum;
  }
};

// Sources are split where the lanes alone would not fill the device: blocks in whole waves of 264 (two for each of an H100's
// 132 processors). A function of the shape alone, so that the bits are the same on every device.
constexpr Index kWave = 264, kMostSplits = 64;
template <class T>
Index split_count(Index lanes, Index sources, Index columns, std::size_t scratch_bytes) {
  using G = Tile<T>;
  const Index blocks = block_count(lanes, G::kLanes) * std::max<Index>(1, block_count(columns, G::kSources));
  const auto part = static_cast<Index>(sizeof(T)) * lanes * (columns + 1);
  const Index room = static_cast<Index>(scratch_bytes) / std::max<Index>(1, part);
  const Index most = std::clamp<Index>(std::min(static_cast<Index>(block_count(sources, G::kSources)), room), 1, kMostSplits);
  Index best = 1;
  double best_filled = 0;
  for (Index splits = 1; splits <= most; ++splits) {
    const double waves = static_cast<double>(blocks * splits) / kWave;
    const double filled = waves / static_cast<double>((blocks * splits + kWave - 1) / kWave);
    if (filled > best_filled + 0.02) best = splits, best_filled = filled;
    if (best_filled > 0.9) break;
  }
  return best;
}

// Runs a product into y (lanes x c) and row_sum.
template <class T>
void run_product(ProductCall<T> call, MatrixView<T, Cuda> y, T* row_sum, const Context<Cuda>& context) {
  using G = Tile<T>;
  check_cancelled(context);
  const Index lanes = call.m.lanes, c = y.cols;
  if (lanes == 0 || (c == 0 && row_sum == nullptr)) return;
  const Index splits = split_count<T>(lanes, call.m.sources, c, context.scratch_bytes);
  const Index steps = block_count(call.m.sources, G::kSources);
  call.sources_per_split = std::max<Index>(1, (steps + splits - 1) / splits) * G::kSources;
  Buffer<T, Cuda> parts(splits > 1 ? splits * lanes * (c + 1) : 0, context);
  call.y = on_device(y);
  call.row_sum = row_sum;
  call.y_split = call.row_sum_split = 0;
  if (splits > 1) {
    call.y = {parts.data(), lanes, c, c};
    call.y_split = lanes * c;
    call.row_sum_split = lanes;
    if (row_sum != nullptr) call.row_sum = parts.data() + splits * lanes * c;
  }
  const dim3 grid(block_count(lanes, G::kLanes), std::max(1u, block_count(c, G::kSources)), static_cast<unsigned>(splits));
  if (call.m.plain()) {
    gpu::launch(product_kernel<T, true>, grid, dim3(G::kThreads), product_shared_bytes<T>(), stream_of(context), call);
  } else {
    gpu::launch(product_kernel<T, false>, grid, dim3(G::kThreads), product_shared_bytes<T>(), stream_of(context), call);
  }
  if (splits == 1) return;
  over_elements(lanes, c, context, AddSplits<T>{parts.data(), lanes * c, splits, on_device(y)});
  if (row_sum != nullptr) {
    over_elements(lanes, 1, context,
                  AddSplits<T>{parts.data() + splits * lanes * c, lanes, splits, DeviceMatrix<T>{row_sum, lanes, 1, 1}});
  }
}

}  // namespace

template <class T, class B>
void tile_multiply(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                   const Context<B>& context) {
  ProductCall<T> call{};
  call.m = device_entries(m, transpose);
  call.x = on_device(x);
  run_product<T>(call, y, nullptr, context);
}

template <class T, class B>
void tile_low_rank(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                   const Context<B>& context) {
  ProductCall<T> call{};
  call.m = device_entries(m, transpose);
  call.scores = true;
  call.a = on_device(in.a);
  call.b = on_device(in.b);
  call.x = on_device(in.x);
  run_product<T>(call, out.y, out.row_sum.data, context);
}

// With W_ij = y_bar_i . x_j + r_bar_i:  a_bar = P(M; [y_bar, r_bar], [x, 1], b),  b_bar = P(Mᵀ; [x, 1], [y_bar, r_bar], a),
// x_bar = P(Mᵀ; b, a, y_bar). The column of ones is a bias of the scores.
template <class T, class B>
void tile_low_rank_vjp(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                       const LowRankGradients<T, B>& gradients, const EntriesGradient<T, B>& sink, Index,
                       const Context<B>& context) {
  const DeviceEntries<T> straight = device_entries(m, false), turned = device_entries(m, true);
  const bool any = in.a.cols > 0 && (cotangents.y || cotangents.row_sum);
  const MatrixView<T, B> outputs[] = {gradients.a, gradients.b, gradients.x};
  for (const MatrixView<T, B>& out : outputs) {
    if (out && !any) fill(out, T(0), context);
  }
  if (!any) return;
  if (gradients.x && !cotangents.y) fill(gradients.x, T(0), context);
  const DeviceMatrix<const T> a = on_device(in.a), b = on_device(in.b), y_bar = on_device(cotangents.y);
  DeviceMatrix<const T> x = on_device(in.x);
  if (!cotangents.y) x.cols = 0;
  const T* r_bar = cotangents.row_sum.data;
  if (gradients.a)
    run_product<T>({straight, true, y_bar, x, r_bar, nullptr, b, {}, {}, 0, 0, 0}, gradients.a, nullptr, context);
  if (gradients.b) run_product<T>({turned, true, x, y_bar, nullptr, r_bar, a, {}, {}, 0, 0, 0}, gradients.b, nullptr, context);
  if (gradients.x && cotangents.y) {
    run_product<T>({turned, true, b, a, nullptr, nullptr, y_bar, {}, {}, 0, 0, 0}, gradients.x, nullptr, context);
  }
  if (sink) tile_entries_gradient<T>(m, a, b, x, y_bar, r_bar, true, sink, context);
}

template <>
std::size_t tile_low_rank_bytes<Cuda>(Index rows, Index cols, Index rank, Index columns, std::size_t element) {
  // Partial results of the splits, forward (columns and row sums) or backward (rank).
  const Index longest = std::max(rows, cols), width = std::max(rank, columns) + 1;
  return static_cast<std::size_t>(std::min<Index>(kMostSplits, (longest + 31) / 32) * longest * width) * element;
}

// An H100's: half of its 60 TFLOP/s of multiply-adds by tile; transforms at two thirds of its 3 TB/s, two passes over memory
// each way; some ten launches a product.
template <>
CostModel cost_model<Cuda>() {
  return {.tile_flops = 30e12, .fft_flops = 4e12, .bandwidth = 2e12, .sparse_flops = 4e11, .call_seconds = 5e-5};
}

#define ESPALIER_INSTANTIATE(T)                                                                                              \
  template void tile_multiply(const Entries<T, Cuda>&, MatrixView<const T, Cuda>, MatrixView<T, Cuda>, bool,                 \
                              const Context<Cuda>&);                                                                         \
  template void tile_low_rank(const Entries<T, Cuda>&, const LowRankInputs<T, Cuda>&, const LowRankOutputs<T, Cuda>&, bool,  \
                              const Context<Cuda>&);                                                                         \
  template void tile_low_rank_vjp(const Entries<T, Cuda>&, const LowRankInputs<T, Cuda>&, const LowRankCotangents<T, Cuda>&, \
                                  const LowRankGradients<T, Cuda>&, const EntriesGradient<T, Cuda>&, Index,                  \
                                  const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
