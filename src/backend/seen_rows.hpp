// How a row looks for a key that it sees, the same lines for every backend.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/elementwise_maps.hpp"
#include "backend/seen.hpp"

namespace espalier::backend {

// Sixty-four features of a row as bits: which are not 0.
template <class T>
ESPALIER_EVERYWHERE inline std::uint64_t feature_word(const T* row, Index count) {
  std::uint64_t word = 0;
  for (Index r = 0; r < count; ++r) word |= static_cast<std::uint64_t>(row[r] != T(0)) << r;
  return word;
}

// Keys of all features as words, `words` a key, and the same over 64 keys at a time, whatever line they are in.
struct KeyWords {
  const std::uint64_t* keys;
  const std::uint64_t* blocks;
  Index words;
};

template <class T>
ESPALIER_EVERYWHERE inline bool shares_feature(const T* row, Index features, const std::uint64_t* words) {
  for (Index r = 0; r < features; ++r) {
    if ((words[r / 64] >> (r % 64) & 1) != 0 && row[r] != T(0)) return true;
  }
  return false;
}

// Whether row i, with the features `row`, sees a key. direction: 1 for M, -1 for its transpose.
template <class T>
ESPALIER_EVERYWHERE inline bool sees_key(const SeenGrid& grid, const KeyWords& keys, Index i, int direction, const T* row,
                                         Index features) {
  // 32 bits hold a grid's length; a division of 64 bits is a call on a device.
  const auto row_index = static_cast<std::int32_t>(i);
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
      if (j % 64 == 0 && !shares_feature(row, features, keys.blocks + j / 64 * keys.words)) {
        j += 64;
        continue;
      }
      if (shares_feature(row, features, keys.keys + j * keys.words)) return true;
      ++j;
    }
  }
  return false;
}

}  // namespace espalier::backend
