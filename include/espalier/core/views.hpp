// Views over the caller's memory: vector, row-major matrix, and four-index tensor [B, H, L, D].
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include <type_traits>

namespace espalier {

// A view owns nothing, is passed by value and outlives no call. A view whose data is null is *empty*: as an output it
// means "not wanted" and costs nothing. A view of T converts to a view of const T.

// size contiguous elements.
template <class T, class B = Cpu>
struct VectorView {
  T* data{};
  Index size{};

  explicit operator bool() const { return data != nullptr; }
  T& operator[](Index i) const { return data[i]; }
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) operator VectorView<U, B>() const { return {data, size}; }
};

// rows x cols, element (i, j) at data[i * row_stride + j]; row_stride >= cols. Gaps between rows are never written and
// their values never matter.
template <class T, class B = Cpu>
struct MatrixView {
  T* data{};
  Index rows{}, cols{}, row_stride{};

  MatrixView() = default;
  MatrixView(T* data_, Index rows_, Index cols_) : MatrixView(data_, rows_, cols_, cols_) {}
  MatrixView(T* data_, Index rows_, Index cols_, Index row_stride_)
      : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_) {}

  explicit operator bool() const { return data != nullptr; }
  T* row(Index i) const { return data + i * row_stride; }
  T& operator()(Index i, Index j) const { return data[i * row_stride + j]; }
  // Columns first .. first + count - 1 of the same rows.
  MatrixView columns(Index first, Index count) const { return {data + first, rows, count, row_stride}; }
  // Rows first .. first + count - 1.
  MatrixView row_range(Index first, Index count) const { return {data + first * row_stride, count, cols, row_stride}; }
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) operator MatrixView<U, B>() const {
    return {data, rows, cols, row_stride};
  }
};

// Element (b, h, l, d) at data[b strides[0] + h strides[1] + l strides[2] + d]; strides[3] is 1. The memory order BLHD is
// the same view with other strides: `tensor_blhd`.
template <class T, class B = Cpu>
struct TensorView {
  T* data{};
  Index sizes[4]{};
  Index strides[4]{};

  TensorView() = default;
  // Contiguous [batch, heads, length, width].
  TensorView(T* data_, Index batch, Index heads, Index length, Index width)
      : data(data_), sizes{batch, heads, length, width}, strides{heads * length * width, length * width, width, 1} {}

  explicit operator bool() const { return data != nullptr; }
  Index batch() const { return sizes[0]; }
  Index heads() const { return sizes[1]; }
  Index length() const { return sizes[2]; }
  Index width() const { return sizes[3]; }
  // The L x D matrix of one batch entry and one head.
  MatrixView<T, B> matrix(Index b, Index h) const {
    return {data + b * strides[0] + h * strides[1], sizes[2], sizes[3], strides[2]};
  }
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) operator TensorView<U, B>() const {
    TensorView<U, B> r;
    r.data = data;
    for (int i = 0; i < 4; ++i) {
      r.sizes[i] = sizes[i];
      r.strides[i] = strides[i];
    }
    return r;
  }
};

// A tensor whose memory is contiguous in the order [batch, length, heads, width].
template <class B = Cpu, class T>
TensorView<T, B> tensor_blhd(T* data, Index batch, Index length, Index heads, Index width) {
  TensorView<T, B> r(data, batch, heads, length, width);
  r.strides[0] = length * heads * width;
  r.strides[1] = width;
  r.strides[2] = heads * width;
  return r;
}

// One L x D matrix as a tensor [1, 1, L, D].
template <class T, class B>
TensorView<T, B> as_tensor(MatrixView<T, B> m) {
  TensorView<T, B> r(m.data, 1, 1, m.rows, m.cols);
  r.strides[2] = m.row_stride;
  r.strides[0] = r.strides[1] = m.rows * m.row_stride;
  return r;
}

}  // namespace espalier
