// Masked linear attention: out_i = sum_j M_ij (q_i . k_j) v_j / sum_j M_ij (q_i . k_j), without an L x L matrix.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>
#include <espalier/core/export.hpp>
#include <espalier/core/views.hpp>

namespace espalier {

struct LinearOptions {
  bool normalize = true;         // false: out = the numerator, normaliser still available
  double weight_epsilon = 0;     // added to every M_ij (q_i . k_j), as TopViT does; >= 0
  double denominator_floor = 0;  // rows with |denominator| <= floor give 0 and zero gradients; >= 0
  Causal causal = Causal::none;  // pairs left out count as factor 0, also for weight_epsilon
  KeyCounts key_counts{};
  // Where rows of q . k come divided by exp(shift) (stabilised features), weight_epsilon is divided alike: shift of each query
  // row, B H Lq of them, on the host; empty: 0. balance_shifts (feature_map.hpp) makes them.
  VectorView<const double, Cpu> weight_log_shift{};
  // An elementwise map phi(x) + feature_epsilon of q and k, applied head by head on the way in, so that features are never held
  // for all heads; gradients are those of q and k before it. identity without epsilon: q and k are features already. Not
  // positive_softmax: a FeatureMap does that one.
  FeatureKind features = FeatureKind::identity;
  double feature_epsilon = 0;
};

struct LinearResult {
  // Rows (over all batches and heads) whose denominator was floored; -1 where that is not known when the call returns (Cuda:
  // compare the normaliser with the floor).
  Index floored_rows = 0;
};

// q: [B, H, Lq, m], k: [B, Hk, Lk, m], both after the feature map (or options.features names it); v: [B, Hk, Lk, c]; out: [B,
// H, Lq, c]; normaliser: [B, H, Lq, 1] or empty, receives the denominators. H a multiple of Hk: query head h uses head h / (H /
// Hk). masks: none (ones), one, H or B H masks of size Lq x Lk. Cost: that of the masks' products; nothing of size Lq x Lk or L
// x m c is formed (docs/masks.md), but for small masks that heads share, three on average: their entries are written out for
// the call, at most 384 KiB a mask and scratch_bytes in all. Gradient: masked_linear_attention_vjp. Errors: ShapeError,
// ValueError (overlap, causal with Lq != Lk unaligned), Cancelled. Source: K. Choromanski et al., ICML 2022, section 3
// (Lemma 3.1); normalisation with two epsilons: TopViT.
template <class U, class B>
ESPALIER_EXPORT LinearResult masked_linear_attention(TensorView<U, B> q, In<U, B> k, In<U, B> v, Masks<U, B> masks,
                                                     Out<U, B> out, Out<U, B> normaliser = {},
                                                     const LinearOptions& options = {}, const ContextOf<U, B>& context = {});

// Gradients of sum(out_bar * out), given the forward's out and normaliser (neither may be empty).
template <class U, class B>
ESPALIER_EXPORT void masked_linear_attention_vjp(TensorView<U, B> q, In<U, B> k, In<U, B> v, Masks<U, B> masks, In<U, B> out,
                                                 In<U, B> normaliser, In<U, B> out_bar,
                                                 std::type_identity_t<AttentionGradients<std::remove_const_t<U>, B>> gradients,
                                                 const LinearOptions& options = {}, const ContextOf<U, B>& context = {});

}  // namespace espalier
