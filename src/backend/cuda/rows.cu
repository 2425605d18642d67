// CUDA versions of the primitives by rows: division by row sums, its cotangents, sums over visible keys.
// SPDX-License-Identifier: Apache-2.0
#include "backend/rows.hpp"

#include "backend/cuda/device.hpp"
#include "backend/elementwise.hpp"

namespace espalier::backend {

namespace {

template <class T>
__device__ bool floored(T denominator, double floor) {
  const double d = static_cast<double>(denominator);
  return (d < 0 ? -d : d) <= floor;
}

template <class T>
struct Divide {
  DeviceMatrix<T> y;
  DeviceMatrix<const T> d;
  double floor;
  __device__ void operator()(Index i, Index k) const {
    const T denominator = d(i, 0);
    y(i, k) = floored(denominator, floor) ? T(0) : y(i, k) * (T(1) / denominator);
  }
};

template <class T>
struct DivideVjp {
  DeviceMatrix<const T> out, out_bar, d;
  DeviceMatrix<T> y_bar;
  T* d_bar;
  Index used;
  bool normalize;
  double floor;
};

constexpr int kWarp = 32, kRowsPerBlock = 8;

// One warp a row.
template <class T>
__global__ void __launch_bounds__(kWarp* kRowsPerBlock) divide_vjp_kernel(DivideVjp<T> call) {
  const Index i = static_cast<Index>(blockIdx.x) * kRowsPerBlock + static_cast<Index>(threadIdx.y);
  if (i >= call.y_bar.rows) return;
  const bool dead = i >= call.used || (call.normalize && floored(call.d(i, 0), call.floor));
  const T inverse = call.normalize && !dead ? T(1) / call.d(i, 0) : T(1);
  T dot = 0;
  for (Index c = static_cast<Index>(threadIdx.x); c < call.y_bar.cols; c += kWarp) {
    const T value = dead ? T(0) : call.out_bar(i, c) * inverse;
    call.y_bar(i, c) = value;
    if (call.normalize && !dead) dot += value * call.out(i, c);
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) dot += __shfl_down_sync(0xffffffffu, dot, distance);
  if (threadIdx.x == 0) call.d_bar[i] = -dot;
}

// Sums of the first rows of a matrix: within chunks of 64 rows, then over the chunks before each.
constexpr Index kChunk = 64;

template <class T>
struct ChunkSums {
  DeviceMatrix<const T> x;
  DeviceMatrix<double> sums;
  __device__ void operator()(Index chunk, Index c) const {
    const Index first = chunk * kChunk, last = first + kChunk < x.rows ? first + kChunk : x.rows;
    double sum = 0;
    for (Index i = first; i < last; ++i) sum += static_cast<double>(x(i, c));
    sums(chunk, c) = sum;
  }
};
struct SumsBefore {
  DeviceMatrix<double> sums;
  __device__ void operator()(Index, Index c) const {
    double before = 0;
    for (Index chunk = 0; chunk < sums.rows; ++chunk) {
      const double own = sums(chunk, c);
      sums(chunk, c) = before;
      before += own;
    }
  }
};
// How many of the first rows output row k sums: base + slope k within 0 .. limit.
struct Counts {
  Index base, slope, limit;
  __device__ Index operator()(Index k) const {
    const Index n = base + slope * k;
    return n < 0 ? 0 : n > limit ? limit : n;
  }
};
template <class T>
struct AddFirstRows {
  DeviceMatrix<const T> x;
  DeviceMatrix<double> before;
  Counts counts;
  double factor;
  DeviceMatrix<T> y;
  __device__ void operator()(Index k, Index c) const {
    const Index end = counts(k), chunk = end / kChunk;
    double sum = before(chunk, c);
    for (Index i = chunk * kChunk; i < end; ++i) sum += static_cast<double>(x(i, c));
    y(k, c) += static_cast<T>(factor * sum);
  }
};
template <class T>
struct AddCounts {
  Counts counts;
  double factor;
  DeviceMatrix<T> y;
  __device__ void operator()(Index k, Index) const { y(k, 0) += static_cast<T>(factor * static_cast<double>(counts(k))); }
};

// y_k += factor * (sum of the first counts(k) rows of x).
template <class T>
void add_first_rows(double factor, DeviceMatrix<const T> x, const Counts& counts, DeviceMatrix<T> y,
                    const Context<Cuda>& context) {
  // One chunk more than there are full ones: the sum of all before it.
  const Index chunks = x.rows / kChunk + 1;
  Buffer<double, Cuda> memory(chunks * x.cols, context);
  const DeviceMatrix<double> sums{memory.data(), chunks, x.cols, x.cols};
  over_elements(chunks, x.cols, context, ChunkSums<T>{x, sums});
  over_elements(1, x.cols, context, SumsBefore{sums});
  over_elements(y.rows, y.cols, context, AddFirstRows<T>{x, sums, counts, factor, y});
}

}  // namespace

template <class T, class B>
Index divide_rows(MatrixView<T, B> y, MatrixView<const T, B> d, double floor, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, Divide<T>{on_device(y), on_device(d), floor});
  return -1;
}

template <class T, class B>
void divide_rows_vjp(const DividedRows<T, B>& in, MatrixView<T, B> y_bar, VectorView<T, B> d_bar, const Context<B>& context) {
  check_cancelled(context);
  if (y_bar.rows == 0) return;
  const DivideVjp<T> call{on_device(in.out), on_device(in.out_bar), on_device(in.d), on_device(y_bar), d_bar.data,
                          in.used,           in.normalize,          in.floor};
  gpu::launch(divide_vjp_kernel<T>, dim3(block_count(y_bar.rows, kRowsPerBlock)), dim3(kWarp, kRowsPerBlock), 0,
              stream_of(context), call);
}

template <class T, class B>
void add_visible_sums(double epsilon, const Visible& visible, MatrixView<const T, B> v, MatrixView<T, B> y, MatrixView<T, B> d,
                      const Context<B>& context) {
  Counts counts{visible.keys, 0, visible.keys};
  if (visible.causal) counts = {visible.shift + 1, 1, visible.keys};
  add_first_rows<T>(epsilon, on_device(v), counts, on_device(y), context);
  over_elements(d.rows, 1, context, AddCounts<T>{counts, epsilon, on_device(d)});
}

// Key j is seen by the queries from j - shift on: in reverse order these are the first ones.
template <class T, class B>
void add_visible_sums_vjp(double epsilon, const Visible& visible, MatrixView<const T, B> y_bar, MatrixView<T, B> v_bar,
                          const Context<B>& context) {
  DeviceMatrix<const T> reversed = on_device(y_bar);
  if (reversed.rows > 0) reversed.data += (reversed.rows - 1) * reversed.row_stride;
  reversed.row_stride = -reversed.row_stride;
  Counts counts{y_bar.rows, 0, y_bar.rows};
  if (visible.causal) counts = {y_bar.rows + visible.shift, -1, y_bar.rows};
  add_first_rows<T>(epsilon, reversed, counts, on_device(v_bar.row_range(0, visible.keys)), context);
}

#define ESPALIER_INSTANTIATE(T)                                                                                               \
  template Index divide_rows(MatrixView<T, Cuda>, MatrixView<const T, Cuda>, double, const Context<Cuda>&);                   \
  template void divide_rows_vjp(const DividedRows<T, Cuda>&, MatrixView<T, Cuda>, VectorView<T, Cuda>, const Context<Cuda>&); \
  template void add_visible_sums(double, const Visible&, MatrixView<const T, Cuda>, MatrixView<T, Cuda>, MatrixView<T, Cuda>, \
                                 const Context<Cuda>&);                                                                       \
  template void add_visible_sums_vjp(double, const Visible&, MatrixView<const T, Cuda>, MatrixView<T, Cuda>,                  \
                                     const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
