// Host versions of the primitives without structure: plain loops over rows, memory-bound.
// SPDX-License-Identifier: Apache-2.0
#include "backend/elementwise.hpp"

#include <espalier/core/error.hpp>

#include "backend/cpu/parallel.hpp"
#include "backend/elementwise_maps.hpp"

#include <algorithm>
#include <limits>
#include <new>

namespace espalier::backend {

template <class T, class B>
Buffer<T, B>::Buffer(Index size) : size_(size) {
  if (size == 0) return;
  const bool fits = size > 0 && static_cast<std::size_t>(size) <= (std::numeric_limits<std::size_t>::max() >> 2) / sizeof(T);
  // Rows of 64 bytes and one row to spare: vector kernels may load a whole vector at the end.
  if (fits)
    data_ =
        static_cast<T*>(::operator new (static_cast<std::size_t>(size) * sizeof(T) + 64, std::align_val_t{64}, std::nothrow));
  if (data_ == nullptr)
    throw BackendError("out of memory: " + std::to_string(size) + " elements of " + std::to_string(sizeof(T)) + " bytes");
}
template <class T, class B>
Buffer<T, B>::Buffer(Index size, const Context<B>&) : Buffer(size) {}
template <class T, class B>
Buffer<T, B>::~Buffer() {
  ::operator delete (data_, std::align_val_t{64});
}

namespace {

// Rows per task: enough work (about 64 KiB) to pay for the hand-out.
Index row_block(Index cols, std::size_t element) {
  return std::max<Index>(1, static_cast<Index>(65536 / element) / std::max<Index>(1, cols));
}

template <class F>
void over_rows(Index rows, Index cols, std::size_t element, const Context<Cpu>& context, const F& row) {
  const Index block = row_block(cols, element);
  parallel_for(context, (rows + block - 1) / block, [&](Index t, int) {
    const Index end = std::min(rows, (t + 1) * block);
    for (Index i = t * block; i < end; ++i) row(i);
  });
}

}  // namespace

template <class T, class B>
void fill(MatrixView<T, B> y, T value, const Context<B>& context) {
  over_rows(y.rows, y.cols, sizeof(T), context, [&](Index i) { std::fill_n(y.row(i), y.cols, value); });
}

template <class T, class B>
void copy(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  if (x.row_stride != y.cols || y.row_stride != y.cols || y.cols == 0) {
    over_rows(y.rows, y.cols, sizeof(T), context, [&](Index i) { std::copy_n(x.row(i), y.cols, y.row(i)); });
    return;
  }
  // Without gaps in pieces: a column of denominators row by row would be a call an element.
  const Index size = y.rows * y.cols, piece = row_block(1, sizeof(T));
  parallel_for(context, (size + piece - 1) / piece,
               [&](Index t, int) { std::copy_n(x.data + t * piece, std::min(piece, size - t * piece), y.data + t * piece); });
}

template <class T, class B>
void scale(T factor, MatrixView<T, B> y, const Context<B>& context) {
  over_rows(y.rows, y.cols, sizeof(T), context, [&](Index i) {
    for (Index k = 0; k < y.cols; ++k) y(i, k) *= factor;
  });
}

template <class T, class B>
void add_scaled(T factor, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  over_rows(y.rows, y.cols, sizeof(T), context, [&](Index i) {
    const T* __restrict from = x.row(i);
    T* __restrict to = y.row(i);
    for (Index k = 0; k < y.cols; ++k) to[k] += factor * from[k];
  });
}

template <class T, class B>
void expand_panel(MatrixView<const T, B> b, MatrixView<const T, B> x, MatrixView<T, B> panel, const Context<B>& context) {
  const Index c = x ? x.cols : 1;
  over_rows(panel.rows, panel.cols, sizeof(T), context, [&](Index i) {
    for (Index r = 0; r < b.cols; ++r) {
      const T s = b(i, r);
      T* __restrict to = panel.row(i) + r * c;
      if (!x) {
        *to = s;
        continue;
      }
      const T* __restrict from = x.row(i);
      for (Index k = 0; k < c; ++k) to[k] = s * from[k];
    }
  });
}

template <class T, class B>
void contract_panel(MatrixView<const T, B> a, MatrixView<const T, B> panel, MatrixView<T, B> y, const Context<B>& context) {
  over_rows(panel.rows, panel.cols, sizeof(T), context, [&](Index i) {
    T* __restrict to = y.row(i);
    for (Index r = 0; r < a.cols; ++r) {
      const T s = a(i, r);
      const T* __restrict from = panel.row(i) + r * y.cols;
      for (Index k = 0; k < y.cols; ++k) to[k] += s * from[k];
    }
  });
}

template <class T, class B>
void add_row_scaled(VectorView<const T, B> s, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  over_rows(y.rows, y.cols, sizeof(T), context, [&](Index i) {
    const T factor = s[i];
    const T* __restrict from = x.row(i);
    T* __restrict to = y.row(i);
    for (Index k = 0; k < y.cols; ++k) to[k] += factor * from[k];
  });
}

template <class T, class B>
void map_elements(Elementwise kind, T epsilon, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  with_map<T>(kind, [&](auto phi) {
    over_rows(y.rows, y.cols, sizeof(T), context, [&](Index i) {
      const T* __restrict from = x.row(i);
      T* __restrict to = y.row(i);
      for (Index k = 0; k < y.cols; ++k) to[k] = phi(from[k]) + epsilon;
    });
  });
}

template <class T, class B>
void map_elements_vjp(Elementwise kind, MatrixView<const T, B> x, MatrixView<const T, B> y_bar, bool accumulate,
                      MatrixView<T, B> x_bar, const Context<B>& context) {
  with_map<T>(kind, [&](auto phi) {
    over_rows(x.rows, x.cols, sizeof(T), context, [&](Index i) {
      const T* __restrict from = x.row(i);
      const T* bar = y_bar.row(i);
      T* to = x_bar.row(i);
      if (accumulate) {
        for (Index k = 0; k < x.cols; ++k) to[k] += phi.pull(from[k], bar[k]);
      } else {
        for (Index k = 0; k < x.cols; ++k) to[k] = phi.pull(from[k], bar[k]);
      }
    });
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                                              \
  template class Buffer<T, Cpu>;                                                                                             \
  template void fill(MatrixView<T, Cpu>, T, const Context<Cpu>&);                                                            \
  template void copy(MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&);                                     \
  template void scale(T, MatrixView<T, Cpu>, const Context<Cpu>&);                                                           \
  template void add_scaled(T, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&);                            \
  template void expand_panel(MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&);   \
  template void contract_panel(MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&); \
  template void add_row_scaled(VectorView<const T, Cpu>, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&); \
  template void map_elements(Elementwise, T, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, const Context<Cpu>&);             \
  template void map_elements_vjp(Elementwise, MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, bool, MatrixView<T, Cpu>,  \
                                 const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE
template class Buffer<std::int32_t, Cpu>;
template class Buffer<std::int64_t, Cpu>;
template class Buffer<std::uint64_t, Cpu>;

}  // namespace espalier::backend
