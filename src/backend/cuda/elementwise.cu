// CUDA versions of the primitives without structure, and device memory.
// SPDX-License-Identifier: Apache-2.0
#include "backend/elementwise.hpp"

#include "backend/cuda/device.hpp"
#include "backend/elementwise_maps.hpp"

#include <cstdint>
#include <limits>
#include <string>

namespace espalier::backend {

namespace {

std::size_t checked_bytes(Index size, std::size_t element) {
  if (size < 0 || static_cast<std::size_t>(size) > (std::numeric_limits<std::size_t>::max() >> 2) / element) {
    throw BackendError("out of memory: " + std::to_string(size) + " elements of " + std::to_string(element) + " bytes");
  }
  return static_cast<std::size_t>(size) * element;
}

}  // namespace

template <class T, class B>
Buffer<T, B>::Buffer(Index size) : size_(size) {
  if (size == 0) return;
  void* memory = nullptr;
  gpu::check(cudaMalloc(&memory, checked_bytes(size, sizeof(T))), "cudaMalloc");
  data_ = static_cast<T*>(memory);
}
template <class T, class B>
Buffer<T, B>::Buffer(Index size, const Context<B>& context) : size_(size), stream_(context.stream), ordered_(true) {
  if (size == 0) return;
  void* memory = nullptr;
  gpu::check(cudaMallocAsync(&memory, checked_bytes(size, sizeof(T)), stream_of(context)), "cudaMallocAsync");
  data_ = static_cast<T*>(memory);
}
// A failure to give memory back means that the device is lost: the next call says so.
template <class T, class B>
Buffer<T, B>::~Buffer() {
  if (data_ == nullptr) return;
  if (ordered_) {
    (void)cudaFreeAsync(data_, static_cast<cudaStream_t>(stream_));
  } else {
    (void)cudaFree(data_);
  }
}

namespace {

template <class T>
struct Fill {
  DeviceMatrix<T> y;
  T value;
  __device__ void operator()(Index i, Index k) const { y(i, k) = value; }
};
template <class T>
struct Copy {
  DeviceMatrix<const T> x;
  DeviceMatrix<T> y;
  __device__ void operator()(Index i, Index k) const { y(i, k) = x(i, k); }
};
template <class T>
struct Scale {
  T factor;
  DeviceMatrix<T> y;
  __device__ void operator()(Index i, Index k) const { y(i, k) *= factor; }
};
template <class T>
struct AddScaled {
  T factor;
  DeviceMatrix<const T> x;
  DeviceMatrix<T> y;
  __device__ void operator()(Index i, Index k) const { y(i, k) += factor * x(i, k); }
};
template <class T>
struct Expand {
  DeviceMatrix<const T> b, x;
  DeviceMatrix<T> panel;
  Index width;
  __device__ void operator()(Index i, Index p) const {
    const Index r = p / width, k = p - r * width;
    panel(i, p) = x.data == nullptr ? b(i, r) : b(i, r) * x(i, k);
  }
};
template <class T>
struct Contract {
  DeviceMatrix<const T> a, panel;
  DeviceMatrix<T> y;
  __device__ void operator()(Index i, Index k) const {
    T sum = y(i, k);
    for (Index r = 0; r < a.cols; ++r) sum += a(i, r) * panel(i, r * y.cols + k);
    y(i, k) = sum;
  }
};
template <class T>
struct AddRowScaled {
  const T* s;
  DeviceMatrix<const T> x;
  DeviceMatrix<T> y;
  __device__ void operator()(Index i, Index k) const { y(i, k) += s[i] * x(i, k); }
};
template <class T, class Phi>
struct MapElements {
  Phi phi;
  T epsilon;
  DeviceMatrix<const T> x;
  DeviceMatrix<T> y;
  __device__ void operator()(Index i, Index k) const { y(i, k) = phi(x(i, k)) + epsilon; }
};
template <class T, class Phi>
struct PullElements {
  Phi phi;
  bool accumulate;
  DeviceMatrix<const T> x, y_bar;
  DeviceMatrix<T> x_bar;
  __device__ void operator()(Index i, Index k) const {
    const T bar = phi.pull(x(i, k), y_bar(i, k));
    x_bar(i, k) = accumulate ? x_bar(i, k) + bar : bar;
  }
};

}  // namespace

template <class T, class B>
void fill(MatrixView<T, B> y, T value, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, Fill<T>{on_device(y), value});
}
template <class T, class B>
void copy(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, Copy<T>{on_device(x), on_device(y)});
}
template <class T, class B>
void scale(T factor, MatrixView<T, B> y, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, Scale<T>{factor, on_device(y)});
}
template <class T, class B>
void add_scaled(T factor, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, AddScaled<T>{factor, on_device(x), on_device(y)});
}
template <class T, class B>
void expand_panel(MatrixView<const T, B> b, MatrixView<const T, B> x, MatrixView<T, B> panel, const Context<B>& context) {
  const Index width = x ? x.cols : 1;
  over_elements(panel.rows, b.cols * width, context, Expand<T>{on_device(b), on_device(x), on_device(panel), width});
}
template <class T, class B>
void contract_panel(MatrixView<const T, B> a, MatrixView<const T, B> panel, MatrixView<T, B> y, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, Contract<T>{on_device(a), on_device(panel), on_device(y)});
}
template <class T, class B>
void add_row_scaled(VectorView<const T, B> s, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  over_elements(y.rows, y.cols, context, AddRowScaled<T>{s.data, on_device(x), on_device(y)});
}

template <class T, class B>
void map_elements(Elementwise kind, T epsilon, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  with_map<T>(kind, [&](auto phi) {
    over_elements(y.rows, y.cols, context, MapElements<T, decltype(phi)>{phi, epsilon, on_device(x), on_device(y)});
  });
}
template <class T, class B>
void map_elements_vjp(Elementwise kind, MatrixView<const T, B> x, MatrixView<const T, B> y_bar, bool accumulate,
                      MatrixView<T, B> x_bar, const Context<B>& context) {
  with_map<T>(kind, [&](auto phi) {
    over_elements(x.rows, x.cols, context,
                  PullElements<T, decltype(phi)>{phi, accumulate, on_device(x), on_device(y_bar), on_device(x_bar)});
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                                                \
  template class Buffer<T, Cuda>;                                                                                              \
  template void fill(MatrixView<T, Cuda>, T, const Context<Cuda>&);                                                            \
  template void copy(MatrixView<const T, Cuda>, MatrixView<T, Cuda>, const Context<Cuda>&);                                    \
  template void scale(T, MatrixView<T, Cuda>, const Context<Cuda>&);                                                           \
  template void add_scaled(T, MatrixView<const T, Cuda>, MatrixView<T, Cuda>, const Context<Cuda>&);                           \
  template void expand_panel(MatrixView<const T, Cuda>, MatrixView<const T, Cuda>, MatrixView<T, Cuda>, const Context<Cuda>&); \
  template void contract_panel(MatrixView<const T, Cuda>, MatrixView<const T, Cuda>, MatrixView<T, Cuda>,                      \
                               const Context<Cuda>&);                                                                          \
  template void add_row_scaled(VectorView<const T, Cuda>, MatrixView<const T, Cuda>, MatrixView<T, Cuda>,                      \
                               const Context<Cuda>&);                                                                          \
  template void map_elements(Elementwise, T, MatrixView<const T, Cuda>, MatrixView<T, Cuda>, const Context<Cuda>&);            \
  template void map_elements_vjp(Elementwise, MatrixView<const T, Cuda>, MatrixView<const T, Cuda>, bool, MatrixView<T, Cuda>, \
                                 const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE
template class Buffer<std::int32_t, Cuda>;
template class Buffer<std::int64_t, Cuda>;
template class Buffer<std::uint64_t, Cuda>;

}  // namespace espalier::backend
