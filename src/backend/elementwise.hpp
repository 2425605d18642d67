// Backend primitives without structure: panels for the default masked product, sums, copies, scratch memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace espalier::backend {

// Memory of a backend, 64-byte aligned on the host, uninitialised; owned, moved, never copied.
// Errors: BackendError when there is none left or the size overflows.
template <class T, class B>
class Buffer {
 public:
  Buffer() = default;
  // Memory that a mask keeps.
  explicit Buffer(Index size);
  // Memory of one call. On a device it is taken and given back in the order of the context's stream, without waiting.
  Buffer(Index size, const Context<B>& context);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    std::swap(stream_, other.stream_), std::swap(ordered_, other.ordered_);
    return *this;
  }
  T* data() const { return data_; }
  Index size() const { return size_; }
  MatrixView<T, B> matrix(Index rows, Index cols) const { return {data_, rows, cols}; }

 private:
  T* data_ = nullptr;
  Index size_ = 0;
  void* stream_ = nullptr;  // of memory in a stream's order
  bool ordered_ = false;
};

template <class T, class B>
void fill(MatrixView<T, B> y, T value, const Context<B>& context);
template <class T, class B>
void copy(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context);
// y *= factor.
template <class T, class B>
void scale(T factor, MatrixView<T, B> y, const Context<B>& context);
// y += factor x.
template <class T, class B>
void add_scaled(T factor, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context);
// panel(i, r * c + k) = b(i, r) * x(i, k): the columns of the masked product for the features in b (i < rows, r < b.cols,
// k < x.cols = c). An empty x stands for one column of ones.
template <class T, class B>
void expand_panel(MatrixView<const T, B> b, MatrixView<const T, B> x, MatrixView<T, B> panel, const Context<B>& context);
// y(i, k) += sum_r a(i, r) panel(i, r * c + k).
template <class T, class B>
void contract_panel(MatrixView<const T, B> a, MatrixView<const T, B> panel, MatrixView<T, B> y, const Context<B>& context);
// y(i, k) += s(i) x(i, k).
template <class T, class B>
void add_row_scaled(VectorView<const T, B> s, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context);

// phi of the elementwise feature maps: x, max(x, 0) (NaN passes through), x + 1 for x > 0 and e^x otherwise, x^2, e^x.
enum class Elementwise : std::uint8_t { identity, relu, elu, squared, exp };
// y = phi(x) + epsilon.
template <class T, class B>
void map_elements(Elementwise kind, T epsilon, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context);
// x_bar = y_bar phi'(x), or added to it. x_bar may be y_bar.
template <class T, class B>
void map_elements_vjp(Elementwise kind, MatrixView<const T, B> x, MatrixView<const T, B> y_bar, bool accumulate,
                      MatrixView<T, B> x_bar, const Context<B>& context);

}  // namespace espalier::backend
