// Backend primitive: rows of a masked product with a grid's mask that see no key with a feature in common have the sum 0,
// exactly. SPDX-License-Identifier: Apache-2.0
//
// Why: linear attention divides by row sums. Tiles give an exact 0 where nothing is added, but transforms leave their rounding
// there and expansions their error, and rows of rounding divided by rounding are noise. Nothing is taken for zero here by its
// size: only by which numbers are not 0.
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include "backend/elementwise.hpp"
#include "backend/transfers.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier::backend {

// Where a table is not 0: runs along the last axis. A run is `axes` + 1 numbers: offsets along the axes before the last, then
// the first and the last offset along it. Longest first: most rows see a key in one of the first.
struct SeenOffsets {
  std::vector<std::int32_t> sizes, runs;
  Index count() const { return static_cast<Index>(runs.size() / (sizes.size() + 1)); }
};

// As kernels take it: every pointer to the backend's memory. strides: of the sizes, row-major.
struct SeenGrid {
  const std::int32_t *sizes, *strides, *runs;
  int axes;
  Index count;
};
// The same in the backend's memory.
template <class B>
class PlacedSeen {
 public:
  explicit PlacedSeen(const SeenOffsets& host) : axes_(host.sizes.size()), count_(host.count()) {
    std::vector<std::int32_t> all = host.sizes;
    all.resize(2 * axes_, 1);
    for (std::size_t t = axes_ - 1; t > 0; --t) all[axes_ + t - 1] = all[axes_ + t] * host.sizes[t];
    all.insert(all.end(), host.runs.begin(), host.runs.end());
    memory_ = uploaded<std::int32_t, B>(all);
  }
  SeenGrid grid() const {
    const std::int32_t* at = memory_.data();
    return {at, at + axes_, at + 2 * axes_, static_cast<int>(axes_), count_};
  }

 private:
  std::size_t axes_;
  Index count_;
  Buffer<std::int32_t, B> memory_;
};

// d_i = 0 for every row i that has no key j and no feature r with t[i - j] != 0 (transpose: t[j - i]), a_ir != 0 and b_jr != 0.
// NaN is not 0, and a row sum that is not finite stays.  a, b: L x m, d: L.  Memory: L (m + 63) / 64 words and a 64th more.
// Cost: one pass over a and b; a row looks at keys until it finds one, 64 at a time where they have nothing for it.
template <class T, class B>
void clear_unseen(const PlacedSeen<B>& seen, bool transpose, MatrixView<const T, B> a, MatrixView<const T, B> b,
                  VectorView<T, B> d, const Context<B>& context);

inline std::size_t clear_unseen_bytes(Index length, Index rank) {
  const Index words = (rank + 63) / 64;
  return sizeof(std::uint64_t) * static_cast<std::size_t>((length + (length + 63) / 64) * words);
}

}  // namespace espalier::backend
