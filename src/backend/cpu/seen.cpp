// Rows that see no key, on the host.
// SPDX-License-Identifier: Apache-2.0
#include "backend/seen.hpp"

#include "backend/cpu/parallel.hpp"
#include "backend/seen_rows.hpp"

#include <algorithm>
#include <cmath>

namespace espalier::backend {

template <class T, class B>
void clear_unseen(const PlacedSeen<B>& seen, bool transpose, MatrixView<const T, B> a, MatrixView<const T, B> b,
                  VectorView<T, B> d, const Context<B>& context) {
  const Index words = (b.cols + 63) / 64, blocks = (b.rows + 63) / 64;
  Buffer<std::uint64_t, B> memory((b.rows + blocks) * words);
  std::uint64_t *keys = memory.data(), *all = keys + b.rows * words;
  parallel_for(context, blocks, [&](Index block, int) {
    std::fill_n(all + block * words, words, std::uint64_t{0});
    for (Index j = block * 64; j < std::min(b.rows, block * 64 + 64); ++j) {
      for (Index w = 0; w < words; ++w) {
        keys[j * words + w] = feature_word(b.row(j) + 64 * w, std::min<Index>(64, b.cols - 64 * w));
        all[block * words + w] |= keys[j * words + w];
      }
    }
  });
  const SeenGrid grid = seen.grid();
  constexpr Index kRows = 256;
  parallel_for(context, (d.size + kRows - 1) / kRows, [&](Index task, int) {
    for (Index i = task * kRows; i < std::min(d.size, (task + 1) * kRows); ++i) {
      if (!std::isfinite(d[i]) || d[i] == T(0)) continue;
      if (!sees_key(grid, {keys, all, words}, i, transpose ? -1 : 1, a.row(i), a.cols)) d[i] = T(0);
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
