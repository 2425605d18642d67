// k-MIP attention: softmax over the k keys of largest inner product, found exactly; and the search itself.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>
#include <espalier/core/export.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace espalier {

struct TopKOptions {
  Causal causal = Causal::none;
  KeyCounts key_counts{};
  bool exclude_self = false;                     // pairs i = j take no part
  VectorView<const std::int64_t, Cpu> counts{};  // per query, size Lq, shared by all heads: at most this many of the k
  std::optional<double> scale{};                 // attention only: default 1 / sqrt(d); the search is unscaled
};

// The k largest q_i . k_j of every query, descending, ties by lower index; places without a key: index -1, score -inf.
// q: [B, H, Lq, d], k: [B, Hk, Lk, d]; indices, scores: [B, H, Lq, count]. I is std::int32_t or std::int64_t.
// NaN scores rank below every number and are never selected. Cost: 2 Lq Lk d flops; memory O(L count).
// Errors: ShapeError; ValueError for count < 1.
template <class U, class I, class B>
ESPALIER_EXPORT void top_k_search(TensorView<U, B> q, In<U, B> k, TensorView<I, B> indices, Out<U, B> scores,
                                  const TopKOptions& options = {}, const ContextOf<U, B>& context = {});

// Bound on the memory that top_k_search and top_k_attention take beyond their arguments: a block of queries with its lists of
// up to twice `count` candidates for each thread. width: d, element: sizeof(T).
ESPALIER_EXPORT std::size_t top_k_bytes(Index keys, Index width, Index count, std::size_t element, int threads);

// out_i = sum_{j in S_i} softmax(scale q_i . k_j) v_j over the selected set S_i; indices and scores are outputs as above.
// A row without a key: out 0.
// Source: J. De Schouwer et al., k-MIP attention.
template <class U, class I, class B>
ESPALIER_EXPORT void top_k_attention(TensorView<U, B> q, In<U, B> k, In<U, B> v, Out<U, B> out, TensorView<I, B> indices,
                                     Out<U, B> scores, const TopKOptions& options = {}, const ContextOf<U, B>& context = {});

// Gradients with the selection held constant: needs the forward's out, indices and scores.
// ds_ij = a_ij (out_bar_i . v_j - out_bar_i . out_i); deterministic: keys gather from a key-sorted list, no atomics.
template <class U, class I, class B>
ESPALIER_EXPORT void top_k_attention_vjp(TensorView<U, B> q, In<U, B> k, In<U, B> v, In<U, B> out, TensorView<I, B> indices,
                                         In<U, B> scores, In<U, B> out_bar,
                                         std::type_identity_t<AttentionGradients<std::remove_const_t<U>, B>> gradients,
                                         const TopKOptions& options = {}, const ContextOf<U, B>& context = {});

}  // namespace espalier
