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

#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier::backend {

// Where a table is not 0: runs along the last axis, longest first (most rows see a key in one of the first).
// numbers: sizes of the axes longer than 1 (of none: one axis of 1), their row-major strides, and for each run its offsets
// along the axes before the last, then the first and the last offset along it.
struct SeenOffsets {
  Index axes = 1;
  std::vector<std::int32_t> numbers;
  Index count() const { return (static_cast<Index>(numbers.size()) - 2 * axes) / (axes + 1); }
};

// As kernels take it: every pointer to the backend's memory. strides: of the sizes, row-major.
struct SeenGrid {
  const std::int32_t *sizes, *strides, *runs;
  int axes;
  Index count;
};
// The same in the backend's memory; `host` must outlive the upload.
template <class B>
class PlacedSeen {
 public:
  PlacedSeen(const SeenOffsets& host, const Context<B>& context)
      : axes_(host.axes), count_(host.count()), memory_(static_cast<Index>(host.numbers.size())) {
    upload<std::int32_t, B>(host.numbers.data(), memory_.data(), memory_.size(), context);
  }
  SeenGrid grid() const {
    const std::int32_t* at = memory_.data();
    return {at, at + axes_, at + 2 * axes_, static_cast<int>(axes_), count_};
  }

 private:
  Index axes_, count_;
  Buffer<std::int32_t, B> memory_;
};

// d_i = 0 for every row i that has no key j and no feature r with t[i - j] != 0 (transpose: t[j - i]), a_ir != 0 and b_jr != 0.
// NaN is not 0, and a row sum that is not finite stays.  a, b: L x m, d: L.  Memory: clear_unseen_bytes.
// Cost: one pass over a and b; a row looks at keys until it finds one, 64 at a time where they have nothing for it. A row that
// finds none has gone through all runs: rows that see nothing times runs, at worst.
template <class T, class B>
void clear_unseen(const PlacedSeen<B>& seen, bool transpose, MatrixView<const T, B> a, MatrixView<const T, B> b,
                  VectorView<T, B> d, const Context<B>& context);

inline std::size_t clear_unseen_bytes(Index length, Index rank) {
  const Index words = (rank + 63) / 64;
  return sizeof(std::uint64_t) * static_cast<std::size_t>((2 * length + (length + 63) / 64) * words);
}

}  // namespace espalier::backend
