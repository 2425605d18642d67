// k-MIP attention: argument checks, then the backend's search, combination and gradients.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/top_k.hpp>

#include "attention/checks.hpp"
#include "backend/top_k.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace espalier {

namespace {

template <class T, class I, class B>
void check_search(const AttentionSizes& s, TensorView<const T, B> q, TensorView<const T, B> k, TensorView<I, B> indices,
                  TensorView<const T, B> scores, const TopKOptions& options) {
  const Index count = indices.width();
  if (count < 1)
    throw ValueError(std::string("top-k: ") + std::to_string(count) +
                     " places a query; give indices and scores a width of at least 1");
  check_tensor("indices", indices, s.batch, s.heads, s.queries, count);
  check_tensor("scores", scores, s.batch, s.heads, s.queries, count);
  check_key_counts(options.key_counts, s);
  if (s.keys > std::numeric_limits<std::int32_t>::max()) {
    throw ValueError(std::string("top-k: ") + std::to_string(s.keys) + " keys; at most 2^31 - 1 can be searched");
  }
  if (options.counts) {
    if (options.counts.size != s.queries) throw ShapeError("counts", options.counts.size, s.queries);
    for (Index i = 0; i < s.queries; ++i) {
      if (options.counts[i] < 0)
        throw ValueError(std::string("counts[") + std::to_string(i) + "]: " + std::to_string(options.counts[i]) +
                         " is negative");
    }
  }
  check_tensor_overlap("scores", scores, "q", q);
  check_tensor_overlap("scores", scores, "k", k);
  check_tensor_overlap("indices", indices, "q", q);
  check_tensor_overlap("indices", indices, "k", k);
  check_tensor_overlap("indices", indices, "scores", scores);
}

template <class T>
T scale_of(const TopKOptions& options, Index width) {
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Index>(1, width))));
  if (!std::isfinite(scale)) throw ValueError("top-k: scale must be finite");
  return static_cast<T>(scale);
}

template <class T, class B>
backend::TopKInputs<T, B> search_inputs(const AttentionSizes& s, TensorView<const T, B> q, TensorView<const T, B> k,
                                        const TopKOptions& options) {
  backend::TopKInputs<T, B> in;
  in.q = q;
  in.k = k;
  in.key_counts = options.key_counts;
  in.counts = options.counts;
  in.causal = options.causal != Causal::none;
  in.causal_shift = causal_shift(options.causal, s);
  in.exclude_self = options.exclude_self;
  return in;
}

}  // namespace

template <class U, class I, class B>
void top_k_search(TensorView<U, B> q, In<U, B> k, TensorView<I, B> indices, Out<U, B> scores, const TopKOptions& options,
                  const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const AttentionSizes s = check_qkv<T, B>(q, k, k);
  check_search<T, I, B>(s, q, k, indices, scores, options);
  backend::top_k<T, I, B>(search_inputs<T, B>(s, q, k, options), indices, scores, context);
}

std::size_t top_k_bytes(Index keys, Index width, Index count, std::size_t element, int threads) {
  // Lists: candidates of at most 16 bytes in 32 MiB, or 32 lists if those alone take more; queries: 512 rows; keys: 16 KiB.
  const Index list = 16 * (std::min(std::max(2 * std::min(count, keys), count + 32), keys) + 1);
  const Index lists = std::max(32 * list, std::min(512 * list, Index{32} << 20));
  const Index block = static_cast<Index>(element) * (512 * (width + 8) + count) + (1 << 16);
  return static_cast<std::size_t>(lists + block) * static_cast<std::size_t>(threads) + (1u << 16);
}

template <class U, class I, class B>
void top_k_attention(TensorView<U, B> q, In<U, B> k, In<U, B> v, Out<U, B> out, TensorView<I, B> indices, Out<U, B> scores,
                     const TopKOptions& options, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const AttentionSizes s = check_qkv<T, B>(q, k, v);
  check_search<T, I, B>(s, q, k, indices, scores, options);
  check_tensor("out", out, s.batch, s.heads, s.queries, s.values);
  const T scale = scale_of<T>(options, s.width);
  check_tensor_overlap("scores", scores, "v", v);
  check_tensor_overlap("indices", indices, "v", v);
  for (const auto& [name, x] : {std::pair{"q", In<U, B>(q)}, std::pair{"k", k}, std::pair{"v", v}})
    check_tensor_overlap("out", out, name, x);
  check_tensor_overlap("out", out, "scores", scores);
  check_tensor_overlap("out", out, "indices", indices);
  backend::top_k<T, I, B>(search_inputs<T, B>(s, q, k, options), indices, scores, context);
  backend::top_k_combine<T, I, B>(v, indices, scores, scale, out, context);
}

template <class U, class I, class B>
void top_k_attention_vjp(TensorView<U, B> q, In<U, B> k, In<U, B> v, In<U, B> out, TensorView<I, B> indices, In<U, B> scores,
                         In<U, B> out_bar, std::type_identity_t<AttentionGradients<std::remove_const_t<U>, B>> gradients,
                         const TopKOptions& options, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  using J = std::remove_const_t<I>;
  const AttentionSizes s = check_qkv<T, B>(q, k, v);
  check_search<T, I, B>(s, q, k, indices, scores, options);
  check_tensor("out", out, s.batch, s.heads, s.queries, s.values);
  check_tensor("out_bar", out_bar, s.batch, s.heads, s.queries, s.values);
  const std::pair<const char*, TensorView<const T, B>> inputs[] = {{"q", q},     {"k", k},           {"v", v},
                                                                   {"out", out}, {"scores", scores}, {"out_bar", out_bar}};
  check_gradients<T, B>(gradients, s, {}, {}, inputs);
  for (const auto& [name, y] :
       {std::pair{"q_bar", gradients.q}, std::pair{"k_bar", gradients.k}, std::pair{"v_bar", gradients.v}}) {
    check_tensor_overlap(name, y, "indices", indices);
  }
  // Indices are the forward's output; a foreign array must not send the gather out of bounds.
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const auto m = indices.matrix(b, h);
      for (Index i = 0; i < m.rows; ++i) {
        for (Index r = 0; r < m.cols; ++r) {
          if (m(i, r) < -1 || m(i, r) >= s.keys) {
            throw ValueError(std::string("indices: ") + std::to_string(m(i, r)) +
                             " is no key; pass the forward call's indices");
          }
        }
      }
    }
  }
  backend::TopKCombineVjp<T, J, B> in;
  in.q = q, in.k = k, in.v = v, in.out = out, in.scores = scores, in.out_bar = out_bar, in.indices = indices;
  in.scale = scale_of<T>(options, s.width);
  in.q_bar = gradients.q, in.k_bar = gradients.k, in.v_bar = gradients.v;
  in.accumulate = gradients.accumulate;
  backend::top_k_combine_vjp<T, J, B>(in, context);
}

#define ESPALIER_INSTANTIATE(U, T, I)                                                                                         \
  template ESPALIER_EXPORT void top_k_search(TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<I, Cpu>,                \
                                             TensorView<T, Cpu>, const TopKOptions&, const Context<Cpu>&);                    \
  template ESPALIER_EXPORT void top_k_attention(TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>,       \
                                                TensorView<T, Cpu>, TensorView<I, Cpu>, TensorView<T, Cpu>,                   \
                                                const TopKOptions&, const Context<Cpu>&);                                     \
  template ESPALIER_EXPORT void top_k_attention_vjp(TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>,   \
                                                    TensorView<const T, Cpu>, TensorView<I, Cpu>, TensorView<const T, Cpu>,   \
                                                    TensorView<const T, Cpu>, AttentionGradients<T, Cpu>, const TopKOptions&, \
                                                    const Context<Cpu>&);                                                     \
  template ESPALIER_EXPORT void top_k_attention_vjp(TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>,   \
                                                    TensorView<const T, Cpu>, TensorView<const I, Cpu>,                       \
                                                    TensorView<const T, Cpu>, TensorView<const T, Cpu>,                       \
                                                    AttentionGradients<T, Cpu>, const TopKOptions&, const Context<Cpu>&);
#define ESPALIER_INSTANTIATE_BOTH(T, I) \
  ESPALIER_INSTANTIATE(T, T, I)         \
  ESPALIER_INSTANTIATE(const T, T, I)
ESPALIER_INSTANTIATE_BOTH(float, std::int32_t)
ESPALIER_INSTANTIATE_BOTH(float, std::int64_t)
ESPALIER_INSTANTIATE_BOTH(double, std::int32_t)
ESPALIER_INSTANTIATE_BOTH(double, std::int64_t)
#undef ESPALIER_INSTANTIATE_BOTH
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
