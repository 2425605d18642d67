// How a row looks for a key that it sees, the same lines for every backend.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/elementwise_maps.hpp"
#include "backend/seen.hpp"

namespace espalier::backend {

// Sixty-four features as bits: which are not 0.
template <class T>
ESPALIER_EVERYWHERE inline std::uint64_t feature_word(const T* row, Index count) {
  std::uint64_t word = 0;
  for (Index r = 0; r < count; ++r) word |= static_cast<std::uint64_t>(row[r] != T(0)) << r;
  return word;
}

// What rows and keys have as words, `count` a row, and of keys the same over 64 at a time, whatever line they are in.
struct FeatureWords {
  const std::uint64_t *rows, *keys, *blocks;
  Index count;
};

ESPALIER_EVERYWHERE inline bool share_feature(const std::uint64_t* a, const std::uint64_t* b, Index words) {
  for (Index w = 0; w < words; ++w) {
    if ((a[w] & b[w]) != 0) return true;
  }
  return false;
}

// Whether row i sees a key. direction: 1 for M, -1 for its transpose.
ESPALIER_EVERYWHERE inline bool sees_key(const SeenGrid& grid, const FeatureWords& words, Index i, int direction) {
  // 32 bits hold a grid's length; a division of 64 bits is a call on a device.
  const auto row_index = static_cast<std::int32_t>(i);
  const std::uint64_t* row = words.rows + i * words.count;
  const int last = grid.axes - 1;
  const std::int32_t n = grid.sizes[last], at_last = row_index % n;
  for (Index k = 0; k < grid.count; ++k) {
    const std::int32_t* run = grid.runs + k * (grid.axes + 1);
    std::int32_t line = 0;  // where the keys' line begins
    bool inside = true;
    for (int t = 0; t < last && inside; ++t) {
      const std::int32_t j = row_index / grid.strides[t] % grid.sizes[t] - direction * run[t];
      inside = j >= 0 && j < grid.sizes[t];
      line += j * grid.strides[t];
    }
    if (!inside) continue;
    const std::int32_t first = direction > 0 ? at_last - run[last + 1] : at_last + run[last];
    const std::int32_t end = direction > 0 ? at_last - run[last] : at_last + run[last + 1];
    const std::int32_t to = line + (end < n - 1 ? end : n - 1);
    for (Index j = line + (first > 0 ? first : 0); j <= to;) {
      if (j % 64 == 0 && !share_feature(row, words.blocks + j / 64 * words.count, words.count)) {
        j += 64;
        continue;
      }
      if (share_feature(row, words.keys + j * words.count, words.count)) return true;
      ++j;
    }
  }
  return false;
}

}  // namespace espalier::backend
