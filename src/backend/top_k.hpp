// Backend primitives of k-MIP attention: exact search of the largest inner products, and attention over what it found.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstdint>

namespace espalier::backend {

// q: [B, H, Lq, d], k: [B, Hk, Lk, d], H a multiple of Hk. Arguments are checked by the caller.
template <class T, class B>
struct TopKInputs {
  TensorView<const T, B> q, k;
  VectorView<const std::int64_t, Cpu> key_counts{};  // [B] or empty; with Lq = Lk also the number of query rows
  VectorView<const std::int64_t, Cpu> counts{};      // [Lq] or empty: at most this many of the places of a row
  bool causal = false;
  Index causal_shift = 0;  // pairs with j - i > causal_shift take no part
  bool exclude_self = false;
};

// Fills every row of indices and scores [B, H, Lq, count]: scores descending, ties by lower index, then -1 and -inf.
// A score is sum_{t = 0 .. d - 1} q_it k_jt added in this order by fused multiply-adds (by a product and a sum where the
// processor has none), so its bits depend on nothing but the two rows.
// Memory: a few panels of packed rows and 2 count candidates for each of the at most 512 queries of a thread.
template <class T, class I, class B>
void top_k(const TopKInputs<T, B>& in, TensorView<I, B> indices, TensorView<T, B> scores, const Context<B>& context);

// out_i = sum_r a_ir v_{indices(i, r)}, a_i = softmax(scale scores_i) over the places with an index >= 0; none: 0.
template <class T, class I, class B>
void top_k_combine(TensorView<const T, B> v, TensorView<const I, B> indices, TensorView<const T, B> scores, T scale,
                   TensorView<T, B> out, const Context<B>& context);

// Gradients of sum(out_bar * out), the selection held constant; those wanted (not empty) are overwritten, or added to.
template <class T, class I, class B>
struct TopKCombineVjp {
  TensorView<const T, B> q, k, v, out, scores, out_bar;
  TensorView<const I, B> indices;
  T scale = T(1);
  TensorView<T, B> q_bar{}, k_bar{}, v_bar{};
  bool accumulate = false;
};
template <class T, class I, class B>
void top_k_combine_vjp(const TopKCombineVjp<T, I, B>& in, const Context<B>& context);

}  // namespace espalier::backend
