// CUDA versions of the transfers: copies from the host, events between streams, rows of weighted sums.
// SPDX-License-Identifier: Apache-2.0
#include "backend/transfers.hpp"

#include "backend/cuda/device.hpp"

namespace espalier::backend {

template <class T, class B>
void upload(const T* from, T* to, Index size) {
  if (size == 0) return;
  const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
  gpu::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, nullptr), "cudaMemcpyAsync");
  // A copy from pageable memory may return before the data is where other streams look for it.
  gpu::check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
}
template <class T, class B>
void upload(const T* from, T* to, Index size, const Context<B>& context) {
  if (size == 0) return;
  const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
  gpu::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_of(context)), "cudaMemcpyAsync");
}

template <class B>
Mark<B>::Mark() = default;
template <class B>
Mark<B>::~Mark() {
  if (event_ != nullptr) (void)cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}
template <class B>
void Mark<B>::record(const Context<B>& context) {
  if (event_ == nullptr) {
    cudaEvent_t event = nullptr;
    gpu::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    event_ = event;
  }
  gpu::check(cudaEventRecord(static_cast<cudaEvent_t>(event_), stream_of(context)), "cudaEventRecord");
}
template <class B>
void Mark<B>::wait(const Context<B>& context) const {
  if (event_ == nullptr) return;
  gpu::check(cudaStreamWaitEvent(stream_of(context), static_cast<cudaEvent_t>(event_), 0), "cudaStreamWaitEvent");
}

template <class B>
PlacedRows<B>::PlacedRows(const SumRows& host, const Context<B>& context)
    : rows(host.rows()),
      start(static_cast<Index>(host.start.size())),
      index(static_cast<Index>(host.index.size())),
      weight(static_cast<Index>(host.weight.size())) {
  upload<std::int32_t, B>(host.start.data(), start.data(), start.size(), context);
  upload<std::int32_t, B>(host.index.data(), index.data(), index.size(), context);
  upload<double, B>(host.weight.data(), weight.data(), weight.size(), context);
}

namespace {

constexpr int kRowThreads = 128;

// One block a row: every thread sums each 128th term, then the threads' sums are added in a tree.
template <class In, class Out>
__global__ void __launch_bounds__(kRowThreads) sum_rows_kernel(const std::int32_t* start, const std::int32_t* index,
                                                               const double* weight, const In* x, Out* out, bool add) {
  ESPALIER_GPU_SHARED(double, sums, [kRowThreads]);
  const int t = static_cast<int>(threadIdx.x);
  double sum = 0;
  for (std::int32_t p = start[blockIdx.x] + t; p < start[blockIdx.x + 1]; p += kRowThreads) {
    sum += (weight == nullptr ? 1.0 : weight[p]) * static_cast<double>(x[index[p]]);
  }
  sums[t] = sum;
  for (int half = kRowThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) sums[t] += sums[t + half];
  }
  if (t == 0) out[blockIdx.x] = (add ? out[blockIdx.x] : Out(0)) + static_cast<Out>(sums[0]);
}

}  // namespace

template <class In, class Out, class B>
void sum_rows(const PlacedRows<B>& rows, const In* x, Out* out, bool add, const Context<B>& context) {
  if (rows.rows == 0) return;
  gpu::launch(sum_rows_kernel<In, Out>, dim3(static_cast<unsigned>(rows.rows)), dim3(kRowThreads), 0, stream_of(context),
              rows.start.data(), rows.index.data(), rows.weight.data(), x, out, add);
}

#define ESPALIER_INSTANTIATE(T)                       \
  template void upload<T, Cuda>(const T*, T*, Index); \
  template void upload<T, Cuda>(const T*, T*, Index, const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
ESPALIER_INSTANTIATE(std::int32_t)
#undef ESPALIER_INSTANTIATE
template class Mark<Cuda>;
template struct PlacedRows<Cuda>;
template void sum_rows(const PlacedRows<Cuda>&, const float*, double*, bool, const Context<Cuda>&);
template void sum_rows(const PlacedRows<Cuda>&, const double*, double*, bool, const Context<Cuda>&);
template void sum_rows(const PlacedRows<Cuda>&, const double*, float*, bool, const Context<Cuda>&);

}  // namespace espalier::backend
