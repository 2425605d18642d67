// Gradients of wide values between chunks: a block of columns after the other, so that memory does not grow with their number.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>

#include <algorithm>

#include "backend/chunked.hpp"
#include "backend/cpu/progress_part.hpp"
#include "backend/elementwise.hpp"

namespace espalier {

// A chunk keeps moments of m x (c + 1) numbers for both directions, and every thread tiles of c columns: of wide values they
// leave the caches, and their memory grows with c. At m = 64, c = 2048 blocks of 256 take two thirds of the time of one of
// 2048. Each makes its scores anew: at 2 m columns these are a quarter of its work.
inline constexpr Index kVjpColumns = 256;

// backend::chunked_low_rank_vjp by blocks of about max(kVjpColumns, 2 m) columns. a_bar and b_bar, the near and the far
// entries' gradients are sums over columns: W_ij = y_bar_i . x_j + r_bar_i; r_bar goes with the first block. Beside one block's
// memory: L x m each for a_bar and b_bar, where there are several.
template <class T>
void chunked_vjp_by_columns(const backend::ChunkedToeplitz<T>& product, const backend::ChunkedToeplitz<T>* learning,
                            const LowRankInputs<T, Cpu>& in, const LowRankCotangents<T, Cpu>& cotangents,
                            const LowRankGradients<T, Cpu>& gradients, backend::ChunkedParameterGradient* parameters,
                            const Context<Cpu>& context) {
  const Index columns = in.x.cols, width = std::max(kVjpColumns, 2 * in.a.cols);
  const Index blocks = cotangents.y ? (columns + width - 1) / width : 1;
  if (blocks <= 1) {
    return backend::chunked_low_rank_vjp<T, Cpu>(product, learning, in, cotangents, gradients, parameters, context);
  }
  const auto apart = [&](const MatrixView<T, Cpu>& g) { return backend::Buffer<T, Cpu>(g ? g.rows * g.cols : 0, context); };
  const auto a_apart = apart(gradients.a), b_apart = apart(gradients.b);
  for (Index k = 0; k < blocks; ++k) {
    const Index first = columns * k / blocks, count = columns * (k + 1) / blocks - first;
    const double all = static_cast<double>(blocks);
    const backend::ProgressPart part(context, static_cast<double>(k) / all, static_cast<double>(k + 1) / all);
    LowRankInputs<T, Cpu> x = in;
    x.x = in.x.columns(first, count);
    LowRankCotangents<T, Cpu> bars{cotangents.y.columns(first, count), {}};
    if (k == 0) bars.row_sum = cotangents.row_sum;
    LowRankGradients<T, Cpu> own = gradients;
    if (gradients.x) own.x = gradients.x.columns(first, count);
    if (k > 0 && own.a) own.a = {a_apart.data(), own.a.rows, own.a.cols};
    if (k > 0 && own.b) own.b = {b_apart.data(), own.b.rows, own.b.cols};
    backend::chunked_low_rank_vjp<T, Cpu>(product, learning, x, bars, own, parameters, part.context());
    if (k > 0 && own.a) backend::add_scaled<T, Cpu>(T(1), own.a, gradients.a, context);
    if (k > 0 && own.b) backend::add_scaled<T, Cpu>(T(1), own.b, gradients.b, context);
  }
}

}  // namespace espalier
