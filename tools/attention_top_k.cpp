// attend --attention top-k: softmax over the k keys of largest inner product.
// SPDX-License-Identifier: Apache-2.0
#include "attention_run.hpp"

#include <espalier/attention/top_k.hpp>

namespace espalier::tools {

template <class T>
void AttentionRun<T>::top_k() {
  for (const char* flag : {"mask", "bias"}) {
    if (run_.flags.given(flag)) throw FlagError(flag, "does not go with --attention top-k (expected linear or softmax)");
  }
  if (run_.engine() != "auto" && run_.engine() != "direct") {
    throw FlagError("engine", "'" + run_.engine() + "' (expected direct: the search looks at every key)");
  }
  (void)run_.flags.required("k", "the number of keys to select");
  const Index count = *run_.flags.integer("k", 1);
  TopKOptions options;
  options.scale = run_.flags.number("scale");
  options.causal = causal_;
  options.key_counts = view(key_counts_);
  for (const auto& [flag, path] :
       {std::pair{"table-gradient", paths_.table_gradient}, std::pair{"bias-table-gradient", paths_.bias_table_gradient}}) {
    if (!path.empty()) throw FlagError(flag, "there is no mask whose table could have a gradient");
  }
  run_.flags.check_all_used();

  const Index places = s_.batch * s_.heads * s_.queries;
  if (places > 0 && count > (Index{1} << 40) / places)
    throw FlagError("k", std::to_string(count) + " is far more than can be stored");
  std::vector<std::int64_t> indices(static_cast<std::size_t>(places * count));
  std::vector<T> scores(indices.size());
  const Const q = tensor(std::as_const(q_), s_.batch, s_.heads, s_.queries, s_.width);
  const Const k = tensor(std::as_const(k_), s_.batch, s_.key_heads, s_.keys, s_.width);
  const Const v = tensor(std::as_const(v_), s_.batch, s_.key_heads, s_.keys, s_.values);
  const auto out = tensor(out_, s_.batch, s_.heads, s_.queries, s_.values);
  const auto found = tensor(indices, s_.batch, s_.heads, s_.queries, count);
  const auto products = tensor(scores, s_.batch, s_.heads, s_.queries, count);
  const Context<Cpu> context = run_.context();
  run_.timed("apply", [&] { top_k_attention(q, k, v, out, found, products, options, context); });
  if (paths_.any_gradient()) {
    const AttentionGradients<T> wanted = gradient_views();
    const Const out_bar = tensor(std::as_const(out_bar_), s_.batch, s_.heads, s_.queries, s_.values);
    run_.timed("backward", [&] { top_k_attention_vjp(q, k, v, out, found, products, out_bar, wanted, options, context); });
  }
  const auto shape = s_.array_shape(s_.heads, s_.queries, count);
  if (!paths_.indices.empty()) run_.outputs.fill_npy(paths_.indices, shape, indices.data());
  if (!paths_.scores.empty()) run_.outputs.fill_npy(paths_.scores, shape, scores.data());
  Report r = tile_report("direct", "exact search over every key by tiles");
  r.extra_bytes = top_k_bytes(s_.keys, s_.width, count, sizeof(T), context.threads);
  finish(r, {r}, "");
}

template void AttentionRun<float>::top_k();
template void AttentionRun<double>::top_k();

}  // namespace espalier::tools
