// Rows that see no key, on the host.
// SPDX-License-Identifier: Apache-2.0
#include "backend/seen.hpp"

#include "backend/cpu/parallel.hpp"
#include "backend/seen_rows.hpp"

#include <algorithm>
#include <cmath>

namespace espalier::backend {

namespace {

template <class T>
void write_words(MatrixView<const T, Cpu> m, Index row, Index count, std::uint64_t* words) {
  for (Index w = 0; w < count; ++w) words[w] = feature_word(m.row(row) + 64 * w, std::min<Index>(64, m.cols - 64 * w));
}

}  // namespace

template <class T, class B>
void clear_unseen(const PlacedSeen<B>& seen, bool transpose, MatrixView<const T, B> a, MatrixView<const T, B> b,
                  VectorView<T, B> d, const Context<B>& context) {
  const Index count = (b.cols + 63) / 64, blocks = (b.rows + 63) / 64;
  Buffer<std::uint64_t, B> memory((2 * b.rows + blocks) * count);
  std::uint64_t *rows = memory.data(), *keys = rows + b.rows * count, *all = keys + b.rows * count;
  parallel_for(context, blocks, [&](Index block, int) {
    std::fill_n(all + block * count, count, std::uint64_t{0});
    for (Index j = block * 64; j < std::min(b.rows, block * 64 + 64); ++j) {
      write_words(a, j, count, rows + j * count);
      write_words(b, j, count, keys + j * count);
      for (Index w = 0; w < count; ++w) all[block * count + w] |= keys[j * count + w];
    }
  });
  const SeenGrid grid = seen.grid();
  parallel_for(context, blocks, [&](Index block, int) {
    for (Index i = block * 64; i < std::min(d.size, block * 64 + 64); ++i) {
      if (!std::isfinite(d[i]) || d[i] == T(0)) continue;
      if (!sees_key(grid, {rows, keys, all, count}, i, transpose ? -1 : 1)) d[i] = T(0);
    }
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                                \
  template void clear_unseen(const PlacedSeen<Cpu>&, bool, MatrixView<const T, Cpu>, MatrixView<const T, Cpu>, \
                             VectorView<T, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
