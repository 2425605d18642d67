// Exact softmax attention by tiles, with additive bias and multiplicative mask from any mask that has entries.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>
#include <espalier/core/export.hpp>

#include <cstddef>
#include <optional>

namespace espalier {

struct SoftmaxOptions {
  std::optional<double> scale{};  // default 1 / sqrt(d)
  Causal causal = Causal::none;
  KeyCounts key_counts{};
};

// s_ij = scale q_i . k_j + bias_ij,  w_ij = M_ij exp(s_ij),  out_i = sum_j w_ij v_j / sum_j w_ij,
// log_sum_exp_i = log sum_j w_ij (natural).
// q: [B, H, Lq, d], k: [B, Hk, Lk, d], v: [B, Hk, Lk, c], out: [B, H, Lq, c], log_sum_exp: [B, H, Lq, 1] or empty.
// bias, masks: none, one, H or B H masks of size Lq x Lk with entries (ValueError otherwise); entries of masks >= 0; a bias
// of -inf leaves the pair out. A row without any pair: out 0, log_sum_exp -inf, zero gradients.
// Cost: 2 Lq Lk (d + c) flops and Lq Lk exponentials; memory O(L), never Lq x Lk. Accuracy: error at most twice that of a
// plain softmax attention in the same precision.
template <class U, class B>
ESPALIER_EXPORT void softmax_attention(TensorView<U, B> q, In<U, B> k, In<U, B> v, Out<U, B> out, Out<U, B> log_sum_exp = {},
                                       Masks<U, B> bias = {}, Masks<U, B> masks = {}, const SoftmaxOptions& options = {},
                                       const ContextOf<U, B>& context = {});

// Bound on the memory that softmax_attention takes beyond its arguments: a block of rows and keys for each thread.
// width: d, values: c, element: sizeof(T).
ESPALIER_EXPORT std::size_t softmax_attention_bytes(Index width, Index values, std::size_t element, int threads);

// Gradients of sum(out_bar * out), given the forward's out and log_sum_exp. gradients.bias_parameters and .parameters are
// those of bias and masks.
template <class U, class B>
ESPALIER_EXPORT void softmax_attention_vjp(TensorView<U, B> q, In<U, B> k, In<U, B> v, In<U, B> out, In<U, B> log_sum_exp,
                                           In<U, B> out_bar,
                                           std::type_identity_t<AttentionGradients<std::remove_const_t<U>, B>> gradients,
                                           Masks<U, B> bias = {}, Masks<U, B> masks = {}, const SoftmaxOptions& options = {},
                                           const ContextOf<U, B>& context = {});

}  // namespace espalier
