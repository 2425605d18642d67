// What the tile kernels work out once a call about a mask's entries: orientation, scale, key order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/entries.hpp>

#include <algorithm>

#include "backend/elementwise.hpp"

namespace espalier::backend {

// The largest tile: lanes i by sources j. 128 x 96 keeps a tile of scores of one panel, the packed operands and the mask
// strip in the first two caches, and is what EntrySource allows.
constexpr Index kTileLanes = 128;
constexpr Index kTileSources = 96;
// Scratch of one entry tile: the tile, the same again row-major, and one vector to read past the end.
constexpr Index kTileScratch = 2 * kTileLanes * kTileSources + 64;

// A tile of gradients has zeros on both sides of its rows, one vector of the widest set each.
constexpr Index kGradientPad = 16;
constexpr Index kGradientStride = kTileLanes + 2 * kGradientPad;
constexpr Index kGradientTile = kGradientStride * kTileSources + 64;

// M in the orientation of one product: lanes i are rows of M, or its columns when transposed.
template <class T>
struct EntryPlan {
  // The caller multiplies by `folded_scale` himself (while packing); it is 1 when a border, which the scale does not touch,
  // forbids that. may_reverse: see below; not for gradients, which are added by position in the caller's table.
  EntryPlan(const Entries<T, Cpu>& entries, bool transposed, bool may_reverse) : m(entries), transpose(transposed) {
    if (m.border_rows == 0 && m.border_cols == 0) std::swap(m.scale, folded_scale);
    if (m.kind != EntryKind::offset_table) return;
    lane_key = transpose ? m.col_key : m.row_key;
    source_key = transpose ? m.row_key : m.col_key;
    lane_sign = transpose ? -1 : 1;
    source_sign = -lane_sign;
    table = m.table;
    // Lanes that walk down the table (every transposed product) walk up a reversed copy of it.
    const Index lanes = (transpose ? m.cols - m.border_cols : m.rows - m.border_rows);
    Index up = 0;
    for (Index i = 1; i < lanes; ++i) {
      const Index step = lane_sign * (static_cast<Index>(lane_key[i]) - lane_key[i - 1]);
      up += step == 1 ? 1 : step == -1 ? -1 : 0;
    }
    if (may_reverse && up < 0) {
      reversed = Buffer<T, Cpu>(m.table_size);
      std::reverse_copy(m.table, m.table + m.table_size, reversed.data());
      table = reversed.data();
      offset = m.table_size - 1;
      lane_sign = -lane_sign;
      source_sign = -source_sign;
    }
  }

  Index lanes() const { return transpose ? m.cols : m.rows; }
  Index sources() const { return transpose ? m.rows : m.cols; }

  Entries<T, Cpu> m;
  bool transpose;
  T folded_scale = T(1);
  // offset_table only: entry (i, j) without border = table[offset + lane_sign * lane_key[i] + source_sign * source_key[j]].
  const T* table = nullptr;
  const std::int32_t* lane_key = nullptr;
  const std::int32_t* source_key = nullptr;
  Index lane_sign = 1, source_sign = -1, offset = 0;
  Buffer<T, Cpu> reversed;
};

// The length of blocks that cut n evenly into as few as possible, each at most `longest`, a multiple of `unit`.
inline Index even_block(Index n, Index longest, Index unit) {
  const Index blocks = std::max<Index>(1, (n + longest - 1) / longest);
  const Index length = (n + blocks - 1) / blocks;
  return std::max(unit, (length + unit - 1) / unit * unit);
}

}  // namespace espalier::backend
