// Tile primitives on the host.
// SPDX-License-Identifier: Apache-2.0
#include "backend/tiles.hpp"

#include <espalier/core/error.hpp>

#include "backend/cpu/parallel.hpp"

#include <algorithm>
#include <vector>

namespace espalier::backend {

namespace {
constexpr Index kTile = 64;
}

std::size_t tile_low_rank_bytes(Index, Index, Index, Index, std::size_t element) {
  return static_cast<std::size_t>(kTile * kTile) * element * 4;
}

template <class T, class B>
void tile_multiply(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>&) {
  const FlushSubnormals scope;
  std::vector<T> tile(kTile * kTile);
  for (Index i = 0; i < y.rows; ++i) std::fill_n(y.row(i), y.cols, T(0));
  for (Index i0 = 0; i0 < m.rows; i0 += kTile) {
    for (Index j0 = 0; j0 < m.cols; j0 += kTile) {
      const Index ni = std::min(kTile, m.rows - i0), nj = std::min(kTile, m.cols - j0);
      fill_tile(m, i0, ni, j0, nj, tile.data(), kTile);
      for (Index i = 0; i < ni; ++i) {
        for (Index j = 0; j < nj; ++j) {
          const T w = tile[static_cast<std::size_t>(i * kTile + j)];
          const Index to = transpose ? j0 + j : i0 + i, from = transpose ? i0 + i : j0 + j;
          for (Index k = 0; k < x.cols; ++k) y(to, k) += w * x(from, k);
        }
      }
    }
  }
}

template <class T, class B>
void tile_low_rank(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                   const Context<B>&) {
  const FlushSubnormals scope;
  std::vector<T> tile(kTile * kTile);
  for (Index i = 0; i < out.y.rows; ++i) std::fill_n(out.y.row(i), out.y.cols, T(0));
  for (Index i = 0; i < out.row_sum.size; ++i) out.row_sum[i] = T(0);
  for (Index i0 = 0; i0 < m.rows; i0 += kTile) {
    for (Index j0 = 0; j0 < m.cols; j0 += kTile) {
      const Index ni = std::min(kTile, m.rows - i0), nj = std::min(kTile, m.cols - j0);
      fill_tile(m, i0, ni, j0, nj, tile.data(), kTile);
      for (Index i = 0; i < ni; ++i) {
        for (Index j = 0; j < nj; ++j) {
          const Index to = transpose ? j0 + j : i0 + i, from = transpose ? i0 + i : j0 + j;
          T s = 0;
          for (Index k = 0; k < in.a.cols; ++k) s += in.a(to, k) * in.b(from, k);
          s *= tile[static_cast<std::size_t>(i * kTile + j)];
          if (out.row_sum) out.row_sum[to] += s;
          for (Index k = 0; k < in.x.cols; ++k) out.y(to, k) += s * in.x(from, k);
        }
      }
    }
  }
}

template <class T, class B>
void tile_multiply_entries_gradient(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                    const EntriesGradient<T, B>& sink, Index, const Context<B>&) {
  const FlushSubnormals scope;
  std::vector<T> tile(kTile * kTile);
  for (Index i0 = 0; i0 < m.rows; i0 += kTile) {
    for (Index j0 = 0; j0 < m.cols; j0 += kTile) {
      const Index ni = std::min(kTile, m.rows - i0), nj = std::min(kTile, m.cols - j0);
      for (Index i = 0; i < ni; ++i) {
        for (Index j = 0; j < nj; ++j) {
          T w = 0;
          for (Index k = 0; k < x.cols; ++k) w += y_bar(i0 + i, k) * x(j0 + j, k);
          tile[static_cast<std::size_t>(i * kTile + j)] = w;
        }
      }
      add_tile_gradient(m, i0, ni, j0, nj, tile.data(), kTile, sink);
    }
  }
}

template <class T, class B>
void tile_low_rank_vjp(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& bars,
                       const LowRankGradients<T, B>& out, const EntriesGradient<T, B>& sink, Index, const Context<B>&) {
  const FlushSubnormals scope;
  std::vector<T> tile(kTile * kTile), tile_bar(kTile * kTile);
  for (const auto& g : {out.a, out.b, out.x}) {
    for (Index i = 0; g && i < g.rows; ++i) std::fill_n(g.row(i), g.cols, T(0));
  }
  for (Index i0 = 0; i0 < m.rows; i0 += kTile) {
    for (Index j0 = 0; j0 < m.cols; j0 += kTile) {
      const Index ni = std::min(kTile, m.rows - i0), nj = std::min(kTile, m.cols - j0);
      fill_tile(m, i0, ni, j0, nj, tile.data(), kTile);
      for (Index i = i0; i < i0 + ni; ++i) {
        for (Index j = j0; j < j0 + nj; ++j) {
          const auto at = static_cast<std::size_t>((i - i0) * kTile + j - j0);
          T s = 0, w = bars.row_sum ? bars.row_sum[i] : T(0);
          for (Index k = 0; k < in.a.cols; ++k) s += in.a(i, k) * in.b(j, k);
          for (Index k = 0; bars.y && k < in.x.cols; ++k) w += bars.y(i, k) * in.x(j, k);
          tile_bar[at] = s * w;
          for (Index k = 0; out.a && k < in.a.cols; ++k) out.a(i, k) += tile[at] * w * in.b(j, k);
          for (Index k = 0; out.b && k < in.a.cols; ++k) out.b(j, k) += tile[at] * w * in.a(i, k);
          for (Index k = 0; out.x && bars.y && k < in.x.cols; ++k) out.x(j, k) += tile[at] * s * bars.y(i, k);
        }
      }
      if (sink) add_tile_gradient(m, i0, ni, j0, nj, tile_bar.data(), kTile, sink);
    }
  }
}

#define ESPALIER_INSTANTIATE(T)                                                                                            \
  template void tile_multiply(const Entries<T, Cpu>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, bool,                  \
                              const Context<Cpu>&);                                                                        \
  template void tile_multiply_entries_gradient(const Entries<T, Cpu>&, MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, \
                                               const EntriesGradient<T, Cpu>&, Index, const Context<Cpu>&);                \
  template void tile_low_rank(const Entries<T, Cpu>&, const LowRankInputs<T, Cpu>&, const LowRankOutputs<T, Cpu>&, bool,   \
                              const Context<Cpu>&);                                                                        \
  template void tile_low_rank_vjp(const Entries<T, Cpu>&, const LowRankInputs<T, Cpu>&, const LowRankCotangents<T, Cpu>&,  \
                                  const LowRankGradients<T, Cpu>&, const EntriesGradient<T, Cpu>&, Index,                  \
                                  const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
