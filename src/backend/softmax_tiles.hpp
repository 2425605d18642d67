// Backend primitive: softmax attention by tiles, forward and gradients; nothing of size queries x keys is formed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/entries.hpp>
#include <espalier/core/views.hpp>

#include <cstdint>
#include <span>

namespace espalier::backend {

// s_ij = scale q_i . k_j + bias_ij, w_ij = mask_ij exp(s_ij), P_ij = w_ij / Z_i, Z_i = sum_j w_ij, out_i = sum_j P_ij v_j.
// q: [B, H, Lq, d], k: [B, Hk, Lk, d], v: [B, Hk, Lk, c], H a multiple of Hk. Arguments are checked by the caller.
template <class T, class B>
struct SoftmaxInputs {
  TensorView<const T, B> q, k, v;
  T scale = T(1);
  std::span<const Entries<T, B>> bias{}, mask{};  // none, 1, H or B H of them
  bool causal = false;
  Index causal_shift = 0;                            // pairs with j - i > causal_shift take no part
  VectorView<const std::int64_t, Cpu> key_counts{};  // [B] or empty; with Lq = Lk also the number of query rows
};

// out: [B, H, Lq, c]; log_sum_exp: [B, H, Lq, 1] or empty, log Z_i. Rows without a pair: 0 and -inf.
// Memory: q, k, v and out of 256 rows and 96 keys a thread.
template <class T, class B>
void tile_softmax(const SoftmaxInputs<T, B>& in, TensorView<T, B> out, TensorView<T, B> log_sum_exp, const Context<B>& context);

// Gradients of sum(out_bar * out), D_ij = out_bar_i . v_j - out_bar_i . out_i:
//   v_bar_j = sum_i P_ij out_bar_i       S_ij = P_ij D_ij, the gradient of the bias       exp(s_ij) / Z_i D_ij: of the mask
//   q_bar_i = scale sum_j S_ij k_j       k_bar_j = scale sum_i S_ij q_i
// Tensors wanted (not empty) are overwritten, or added to where `accumulate`. A sink for each of the entries, or none; the
// pointers of one lie in a block of `size` elements that starts at the lowest of them, and are added to.
template <class T, class B>
struct SoftmaxGradients {
  TensorView<T, B> q{}, k{}, v{};
  bool accumulate = false;
  std::span<const EntriesGradient<T, B>> bias{}, mask{};
  std::span<const Index> bias_sizes{}, mask_sizes{};
};
// Memory: copies of q and out_bar, and one of q_bar for every stripe of keys (softmax_stripes); one sink for each stripe and
// head, heads in waves that keep within context.scratch_bytes (at least one key head at a time).
template <class T, class B>
void tile_softmax_vjp(const SoftmaxInputs<T, B>& in, TensorView<const T, B> out, TensorView<const T, B> log_sum_exp,
                      TensorView<const T, B> out_bar, const SoftmaxGradients<T, B>& gradients, const Context<B>& context);

}  // namespace espalier::backend
