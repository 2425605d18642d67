// Argument checks of the public calls: shapes and overlap, with texts that name both sides.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/views.hpp>

#include <cstdint>
#include <string>
#include <type_traits>

namespace espalier {

template <class T, class B>
void check_matrix(const std::string& name, MatrixView<const std::remove_const_t<T>, B> m, Index rows, Index cols) {
  if (m.rows != rows || m.cols != cols) {
    throw ShapeError(name, std::to_string(m.rows) + " x " + std::to_string(m.cols),
                     std::to_string(rows) + " x " + std::to_string(cols));
  }
  if (m.rows < 0 || m.cols < 0) throw ShapeError(name, "a negative size", "sizes >= 0");
  if (m.rows > 1 && m.row_stride < m.cols) {
    throw ShapeError(name + ".row_stride", std::to_string(m.row_stride), "at least " + std::to_string(m.cols));
  }
  if (m.data == nullptr && m.rows > 0 && m.cols > 0) throw ValueError(name + ": null data for a non-empty matrix");
}

inline bool ranges_overlap(const void* p, std::size_t p_bytes, const void* q, std::size_t q_bytes) {
  const auto a = reinterpret_cast<std::uintptr_t>(p), b = reinterpret_cast<std::uintptr_t>(q);
  return p_bytes > 0 && q_bytes > 0 && a < b + q_bytes && b < a + p_bytes;
}

template <class T>
std::size_t span_bytes(Index rows, Index cols, Index row_stride) {
  return rows <= 0 || cols <= 0 ? 0 : static_cast<std::size_t>((rows - 1) * row_stride + cols) * sizeof(T);
}

// Whether two matrices share an element. Column slices of one array (equal strides) overlap only if their columns do.
template <class T, class U, class B>
bool overlaps(MatrixView<T, B> p, MatrixView<U, B> q) {
  if (!ranges_overlap(p.data, span_bytes<T>(p.rows, p.cols, p.row_stride), q.data,
                      span_bytes<U>(q.rows, q.cols, q.row_stride))) {
    return false;
  }
  if (p.row_stride == q.row_stride && p.row_stride > 0 && sizeof(T) == sizeof(U)) {
    const Index stride = p.row_stride;
    const auto bytes = static_cast<Index>(reinterpret_cast<std::intptr_t>(q.data) - reinterpret_cast<std::intptr_t>(p.data));
    const auto element = static_cast<Index>(sizeof(T));
    if (bytes % element == 0) {
      const Index shift = ((bytes / element) % stride + stride) % stride;  // first column of q counted from p's
      if (shift >= p.cols && shift + q.cols <= stride) return false;
    }
  }
  return true;
}

template <class T, class U, class B>
void check_overlap(const std::string& output, MatrixView<T, B> y, const std::string& input, MatrixView<U, B> x) {
  if (y.data != nullptr && x.data != nullptr && overlaps(y, x)) {
    throw ValueError(output + " overlaps " + input + ": outputs need memory of their own");
  }
}

template <class T, class B>
void check_parameter_bar(const std::string& name, VectorView<T, B> p, Index expected) {
  if (p && p.size != expected) throw ShapeError(name, p.size, expected);
}

template <class T, class B>
MatrixView<T, B> as_matrix(VectorView<T, B> v) {
  return {v.data, v.size, 1};
}

template <class T, class B>
void check_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, Index rows, Index cols) {
  check_matrix<T, B>("a", in.a, rows, in.a.cols);
  check_matrix<T, B>("b", in.b, cols, in.a.cols);
  check_matrix<T, B>("x", in.x, cols, in.x.cols);
  check_matrix<T, B>("y", out.y, rows, in.x.cols);
  if (out.row_sum && out.row_sum.size != rows) throw ShapeError("row_sum", out.row_sum.size, rows);
  const auto row_sum = as_matrix(out.row_sum);
  for (const auto& [name, input] : {std::pair{"a", in.a}, std::pair{"b", in.b}, std::pair{"x", in.x}}) {
    check_overlap("y", out.y, name, input);
    check_overlap("row_sum", row_sum, name, input);
  }
  check_overlap("row_sum", row_sum, "y", out.y);
}

template <class T, class B>
void check_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& bars, const LowRankGradients<T, B>& out,
                        Index rows, Index cols, Index parameters) {
  check_matrix<T, B>("a", in.a, rows, in.a.cols);
  check_matrix<T, B>("b", in.b, cols, in.a.cols);
  check_matrix<T, B>("x", in.x, cols, in.x.cols);
  if (bars.y) check_matrix<T, B>("y_bar", bars.y, rows, in.x.cols);
  if (bars.row_sum && bars.row_sum.size != rows) throw ShapeError("row_sum_bar", bars.row_sum.size, rows);
  if (out.a) check_matrix<T, B>("a_bar", out.a, rows, in.a.cols);
  if (out.b) check_matrix<T, B>("b_bar", out.b, cols, in.a.cols);
  if (out.x) check_matrix<T, B>("x_bar", out.x, cols, in.x.cols);
  check_parameter_bar("parameter_bar", out.parameters, parameters);
  const MatrixView<const T, B> inputs[] = {in.a, in.b, in.x, bars.y, as_matrix(bars.row_sum)};
  const char* input_names[] = {"a", "b", "x", "y_bar", "row_sum_bar"};
  const MatrixView<T, B> outputs[] = {out.a, out.b, out.x, as_matrix(out.parameters)};
  const char* output_names[] = {"a_bar", "b_bar", "x_bar", "parameter_bar"};
  for (int o = 0; o < 4; ++o) {
    for (int i = 0; i < 5; ++i) check_overlap(output_names[o], outputs[o], input_names[i], inputs[i]);
    for (int p = 0; p < o; ++p) check_overlap(output_names[o], outputs[o], output_names[p], outputs[p]);
  }
}

}  // namespace espalier
