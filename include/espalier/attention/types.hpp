// Argument types shared by the attention functions: deduction helpers, causal alignment, gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/head_masks.hpp>
#include <espalier/core/views.hpp>

#include <cstdint>
#include <optional>
#include <type_traits>

namespace espalier {

// phi of linear attention (feature_map.hpp): positive_softmax draws random features, the others go element by element.
enum class FeatureKind : std::uint8_t {
  identity,         // x
  relu,             // max(x, 0)
  elu,              // x + 1 for x > 0, e^x otherwise
  squared,          // x^2
  exp,              // e^x
  positive_softmax  // exp(w_r . x' - |x'|^2 / 2) / sqrt(m), x' = sqrt(scale) x
};

// T and B of an attention call are deduced from its first view, const or not; every other parameter converts to them.
template <class U, class B>
using In = std::type_identity_t<TensorView<const std::remove_const_t<U>, B>>;
template <class U, class B>
using Out = std::type_identity_t<TensorView<std::remove_const_t<U>, B>>;
template <class U, class B>
using Masks = std::type_identity_t<HeadMasks<std::remove_const_t<U>, B>>;
template <class U, class B>
using ContextOf = std::type_identity_t<Context<B>>;

// Which pairs a causal call keeps, for Lq queries and Lk keys: top_left j <= i; bottom_right j <= i + Lk - Lq. Where
// Lq != Lk the alignment must be said: `causal` without it is a ValueError (use one of the two).
enum class Causal : std::uint8_t { none, top_left, bottom_right };

// Number of valid keys of each batch entry, size B, on the host; empty: all. Later keys take no part, and where Lq = Lk the
// later query rows give 0 and zero gradients.
using KeyCounts = VectorView<const std::int64_t, Cpu>;

// Gradients wanted (empty views: not wanted, cost nothing). They overwrite, unless `accumulate`. What batches, grouped heads
// or shared masks have in common is summed. `parameters` and `bias_parameters`: one row a mask of the call's HeadMasks, with
// Mask::parameters().size() columns.
template <class T, class B = Cpu>
struct AttentionGradients {
  TensorView<T, B> q{}, k{}, v{};
  MatrixView<T, B> parameters{};
  MatrixView<T, B> bias_parameters{};
  bool accumulate = false;
};

}  // namespace espalier
