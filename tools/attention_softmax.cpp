// attend --attention softmax.
// SPDX-License-Identifier: Apache-2.0
#include "attention_run.hpp"

#include <espalier/attention/softmax.hpp>

namespace espalier::tools {

template <class T>
void AttentionRun<T>::softmax() {
  if (run_.engine() != "auto" && run_.engine() != "direct") {
    throw FlagError("engine", "'" + run_.engine() + "' (expected direct: softmax runs on tiles)");
  }
  SoftmaxOptions options;
  options.scale = run_.flags.number("scale");
  options.causal = causal_;
  options.key_counts = view(key_counts_);
  // The forced engine is softmax's own; masks only give entries.
  MaskOptions mask_options = run_.mask_options();
  mask_options.engine = "auto";
  const bool both = run_.flags.given("mask") && run_.flags.given("bias");
  std::optional<BuiltMask<T>> m = mask("mask", false, std::nullopt, mask_options);
  std::optional<BuiltMask<T>> b = mask("bias", both, std::nullopt, mask_options);
  // Without --mask the plain names are the bias's.
  const BuiltMask<T>* plain = m ? &*m : b ? &*b : nullptr;
  reserve_parameters(plain, "table-gradient", paths_.table_gradient, m ? parameter_bar_ : bias_parameter_bar_);
  if (!paths_.bias_table_gradient.empty()) {
    if (!paths_.table_gradient.empty() && !m)
      throw FlagError("bias-table-gradient", "is --table-gradient where there is no --mask");
    if (!b) throw FlagError("bias-table-gradient", "there is no --bias whose table could have a gradient");
    reserve_parameters(&*b, "bias-table-gradient", paths_.bias_table_gradient, bias_parameter_bar_);
  }
  run_.flags.check_all_used();
  if (m) {
    need_entries(run_, *m, "mask");
    need_non_negative(run_, *m);
  }
  if (b) need_entries(run_, *b, "bias");
  const HeadMasks<T> masks = m ? HeadMasks<T>(m->heads) : HeadMasks<T>();
  const HeadMasks<T> bias = b ? HeadMasks<T>(b->heads) : HeadMasks<T>();

  std::vector<T> log_sum_exp = zeros<T>(s_.batch, s_.heads, s_.queries, 1);
  const Const q = tensor(std::as_const(q_), s_.batch, s_.heads, s_.queries, s_.width);
  const Const k = tensor(std::as_const(k_), s_.batch, s_.key_heads, s_.keys, s_.width);
  const Const v = tensor(std::as_const(v_), s_.batch, s_.key_heads, s_.keys, s_.values);
  const auto out = tensor(out_, s_.batch, s_.heads, s_.queries, s_.values);
  const auto lse = tensor(log_sum_exp, s_.batch, s_.heads, s_.queries, 1);
  const Context<Cpu> context = run_.context();
  const auto checked = [&](const std::function<void()>& work) {
    try {
      work();
    } catch (const FlagError&) {
      throw;
    } catch (const ValueError& error) {
      throw FlagError(m ? "mask" : b ? "bias" : "attention", error.what());
    }
  };
  run_.timed("apply", [&] { checked([&] { softmax_attention(q, k, v, out, lse, bias, masks, options, context); }); });
  if (paths_.any_gradient()) {
    AttentionGradients<T> wanted = gradient_views();
    wanted.parameters = parameter_view(m ? &*m : nullptr, parameter_bar_);
    wanted.bias_parameters = parameter_view(b ? &*b : nullptr, bias_parameter_bar_);
    const Const out_bar = tensor(std::as_const(out_bar_), s_.batch, s_.heads, s_.queries, s_.values);
    run_.timed("backward", [&] {
      checked([&] { softmax_attention_vjp(q, k, v, out, lse, out_bar, wanted, bias, masks, options, context); });
    });
    if (plain != nullptr) {
      write_table_gradient(*plain, paths_.table_gradient, m ? parameter_bar_ : bias_parameter_bar_, table_bar_);
    }
    if (b) write_table_gradient(*b, paths_.bias_table_gradient, bias_parameter_bar_, bias_table_bar_);
  }
  if (!paths_.log_sum_exp.empty()) {
    run_.outputs.fill_npy(paths_.log_sum_exp, s_.array_shape(s_.heads, s_.queries, -1), log_sum_exp.data());
  }
  Report r = tile_report("direct", "exact softmax by tiles, nothing of size L x L in memory");
  r.extra_bytes = softmax_attention_bytes(s_.width, s_.values, sizeof(T), context.threads);
  finish(r, {r}, m ? m->text : "");
}

template void AttentionRun<float>::softmax();
template void AttentionRun<double>::softmax();

}  // namespace espalier::tools
