// Q, K, V of an attention command: reading, common type, shapes, gradients' files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "run.hpp"

#include <espalier/attention/types.hpp>

#include <optional>
#include <string>
#include <vector>

namespace espalier::tools {

// Sizes of one attention call; dimensions: 2, 3 or 4, those of Q's array.
struct AttentionShape {
  Index batch = 1, heads = 1, key_heads = 1, queries = 0, keys = 0, width = 0, values = 0;
  std::size_t dimensions = 2;
  Index group() const { return key_heads > 0 ? heads / key_heads : 1; }
  // [heads axes..., rows, last] with as many dimensions as Q; last < 0: left out.
  std::vector<Index> array_shape(Index heads_here, Index rows, Index last) const;
};

// The arrays as read, and their shape. v may be absent (top-k search).
struct AttentionFiles {
  std::string q_path, k_path, v_path;
  NpyArray q, k, v;
  AttentionShape shape;
};

void add_attention_array_flags(Flags& flags, bool with_values);
AttentionFiles read_attention_files(Run& run, bool with_values);

// --causal: the order, checked against Lq and Lk.
Causal causal_flag(Run& run, const AttentionShape& s, const AttentionFiles& files);
inline Index shift_of(Causal causal, const AttentionShape& s) {
  return causal == Causal::bottom_right ? s.keys - s.queries : 0;
}

// --key-count: [B], empty where not given.
std::vector<std::int64_t> key_count_flag(Run& run, const AttentionShape& s);
inline KeyCounts view(const std::vector<std::int64_t>& counts) {
  return counts.empty() ? KeyCounts{} : KeyCounts{counts.data(), static_cast<Index>(counts.size())};
}

// An array of attention as a tensor [B, H, rows, last].
template <class T>
TensorView<T> tensor(std::vector<T>& values, Index batch, Index heads, Index rows, Index last) {
  return TensorView<T>(values.data(), batch, heads, rows, last);
}
template <class T>
TensorView<const T> tensor(const std::vector<T>& values, Index batch, Index heads, Index rows, Index last) {
  return TensorView<const T>(values.data(), batch, heads, rows, last);
}
template <class T>
std::vector<T> zeros(Index batch, Index heads, Index rows, Index last) {
  return std::vector<T>(static_cast<std::size_t>(batch * heads * rows * last));
}

}  // namespace espalier::tools
