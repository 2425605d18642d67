// attend --attention linear: feature maps, masked products, shifts undone in every output.
// SPDX-License-Identifier: Apache-2.0
#include "attention_run.hpp"

#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/masks/ones.hpp>

#include <algorithm>
#include <cmath>

namespace espalier::tools {

namespace {

FeatureOptions feature_flags(Run& run, Index width) {
  FeatureOptions o;
  const std::string kind = run.flags.required("feature-map", "identity, relu, elu, squared, exp or positive-softmax");
  const std::pair<const char*, FeatureKind> kinds[] = {{"identity", FeatureKind::identity},
                                                       {"relu", FeatureKind::relu},
                                                       {"elu", FeatureKind::elu},
                                                       {"squared", FeatureKind::squared},
                                                       {"exp", FeatureKind::exp}};
  o.kind = FeatureKind::positive_softmax;
  bool found = kind == "positive-softmax";
  for (const auto& [name, value] : kinds) {
    if (kind != name) continue;
    o.kind = value;
    found = true;
  }
  if (!found) {
    throw FlagError("feature-map", "'" + kind + "' (expected identity, relu, elu, squared, exp or positive-softmax)");
  }
  o.epsilon = run.flags.number("feature-epsilon").value_or(0);
  if (o.epsilon < 0) throw FlagError("feature-epsilon", *run.flags.text("feature-epsilon") + " (expected >= 0)");
  if (o.kind != FeatureKind::positive_softmax) return o;
  o.scale = run.flags.number("scale");
  if (o.scale && *o.scale <= 0) throw FlagError("scale", *run.flags.text("scale") + " (expected > 0: its root is taken)");
  o.features = run.flags.integer("features", 1).value_or(256);
  o.seed = static_cast<std::uint64_t>(run.flags.integer("seed", 0).value_or(0));
  const std::string orthogonal = run.flags.text("orthogonal").value_or("on");
  if (orthogonal != "on" && orthogonal != "off") throw FlagError("orthogonal", "'" + orthogonal + "' (expected on or off)");
  o.orthogonal = orthogonal == "on";
  if (const auto path = run.flags.text("projection")) {
    const NpyArray w = run.inputs.floats("projection", *path);
    if (w.shape.size() != 2 || w.shape[0] < 1 || w.shape[1] != width) {
      throw FormatError(
          *path, 0,
          "shape " + shape_text(w.shape) + " (expected [m, " + std::to_string(width) + "], as many columns as the queries)");
    }
    if (run.flags.given("features") && o.features != w.shape[0]) {
      throw FlagError("features",
                      std::to_string(o.features) + " (expected " + std::to_string(w.shape[0]) + " as " + *path + " has)");
    }
    o.projection = convert<double>(w);
    o.features = w.shape[0];
  }
  return o;
}

}  // namespace

template <class T>
void AttentionRun<T>::linear() {
  if (run_.flags.given("bias")) throw FlagError("bias", "goes with --attention softmax (linear attention takes --mask)");
  const FeatureOptions feature_options = feature_flags(run_, s_.width);
  LinearOptions options;
  options.normalize = !run_.flags.on("unnormalized");
  options.weight_epsilon = run_.flags.number("weight-epsilon").value_or(0);
  if (options.weight_epsilon < 0) throw FlagError("weight-epsilon", *run_.flags.text("weight-epsilon") + " (expected >= 0)");
  options.key_counts = view(key_counts_);
  const bool causal = causal_ != Causal::none;
  const Index shift = shift_of(causal_, s_);
  // The epsilon reaches exactly the pairs in order, so that the attention itself must know the order.
  const auto own_order = causal && options.weight_epsilon == 0 ? std::optional<Index>(shift) : std::nullopt;

  std::optional<BuiltMask<T>> m = mask("mask", false, own_order, std::nullopt);
  reserve_parameters(m ? &*m : nullptr, "table-gradient", paths_.table_gradient, parameter_bar_);
  if (!paths_.bias_table_gradient.empty()) throw FlagError("bias-table-gradient", "there is no bias");
  run_.flags.check_all_used();

  // No --mask: all pairs alike, or all in order. Under an order of the attention's own the mask gives its entries only.
  MaskOptions standard_options = run_.mask_options();
  if (causal && options.weight_epsilon > 0) standard_options.engine = "auto";
  const auto standard =
      std::make_shared<OnesMask<T>>(s_.queries, s_.keys, causal && options.weight_epsilon == 0, shift, standard_options);
  if (m && causal && !m->causal && m->heads[0]->entries().kind == EntryKind::none) {
    make_causal(run_, *m, shift);
    if (options.weight_epsilon > 0) options.causal = causal_;
  } else if (causal && (options.weight_epsilon > 0 || (m && !m->causal))) {
    options.causal = causal_;
  }

  if (s_.width == 0) throw FlagError("query", "has no columns (expected at least one feature)");
  const FeatureMap<T> map(s_.width, feature_options);
  const Index features = map.features();
  // Positive features are kept in range by shifts; an epsilon beside them is shifted with each row.
  const bool shifted = feature_options.kind == FeatureKind::positive_softmax;
  // Padding may hold anything: keys repeat the first of their head, whose common shift they must not decide; queries are 0.
  for (Index b = 0; b < s_.batch && !key_counts_.empty(); ++b) {
    const auto count = static_cast<Index>(key_counts_[static_cast<std::size_t>(b)]);
    for (Index h = 0; h < s_.key_heads; ++h) {
      T* head = k_.data() + (b * s_.key_heads + h) * s_.keys * s_.width;
      for (Index j = count; j < s_.keys; ++j) {
        for (Index c = 0; c < s_.width; ++c) head[j * s_.width + c] = count > 0 ? head[c] : T(0);
      }
    }
    for (Index h = 0; h < s_.heads && s_.queries == s_.keys; ++h) {
      T* head = q_.data() + (b * s_.heads + h) * s_.queries * s_.width;
      std::fill(head + count * s_.width, head + s_.queries * s_.width, T(0));
    }
  }
  std::vector<T> q_features = zeros<T>(s_.batch, s_.heads, s_.queries, features);
  std::vector<T> k_features = zeros<T>(s_.batch, s_.key_heads, s_.keys, features);
  std::vector<T> q_shift = zeros<T>(s_.batch, s_.heads, s_.queries, 1), k_shift = zeros<T>(s_.batch, s_.key_heads, s_.keys, 1);
  std::vector<T> normaliser = zeros<T>(s_.batch, s_.heads, s_.queries, 1);
  std::vector<double> row_shift(shifted && options.weight_epsilon > 0 ? q_shift.size() : 0);
  const Const q = tensor(std::as_const(q_), s_.batch, s_.heads, s_.queries, s_.width);
  const Const k = tensor(std::as_const(k_), s_.batch, s_.key_heads, s_.keys, s_.width);
  const Const v = tensor(std::as_const(v_), s_.batch, s_.key_heads, s_.keys, s_.values);
  const auto fq = tensor(q_features, s_.batch, s_.heads, s_.queries, features);
  const auto fk = tensor(k_features, s_.batch, s_.key_heads, s_.keys, features);
  const auto sq = shifted ? tensor(q_shift, s_.batch, s_.heads, s_.queries, 1) : TensorView<T>{};
  const auto sk = shifted ? tensor(k_shift, s_.batch, s_.key_heads, s_.keys, 1) : TensorView<T>{};
  const auto out = tensor(out_, s_.batch, s_.heads, s_.queries, s_.values);
  const auto denominator = tensor(normaliser, s_.batch, s_.heads, s_.queries, 1);
  const Context<Cpu> context = run_.context();

  const Shape shape{.columns = s_.values, .rank = features, .heads = std::max<Index>(1, s_.batch * s_.heads)};
  const bool tiles =
      options.causal != Causal::none && (m ? m->heads[0]->entries() : standard->entries()).kind != EntryKind::none;
  if (tiles && run_.engine() != "auto" && run_.engine() != "direct") {
    throw FlagError("engine", "'" + run_.engine() + "' cannot run causal order over this mask (expected direct)");
  }
  Report chosen = !m      ? chosen_engine(run_, static_cast<const Mask<T>&>(*standard), shape)
                  : tiles ? chosen_engine(run_, std::as_const(*m->heads[0]), shape)
                          : chosen_engine(run_, *m, shape);
  const HeadMasks<T> masks = m ? HeadMasks<T>(m->heads) : HeadMasks<T>(*standard);
  std::vector<Report> engines = m ? listed_engines(run_, *m, shape) : masks[0].engines(shape);
  if (tiles) {
    chosen.engine = "direct";
    chosen.reason = "causal order over a mask without one of its own: tiles of its entries";
    chosen.certificate.reset();
    engines = {chosen};
  }

  // Features, their shifts and denominators beside what the engine takes for each head that runs at the same time.
  const auto at_once = static_cast<std::size_t>(std::min<Index>(s_.batch * s_.heads, context.threads));
  chosen.extra_bytes = chosen.extra_bytes * std::max<std::size_t>(1, at_once) +
                       sizeof(T) * (q_features.size() + k_features.size() + 2 * normaliser.size() + q_shift.size() +
                                    k_shift.size() + (key_counts_.empty() ? 0 : k_features.size() + v_.size()));

  // exp of a row's shifts: what outputs were divided by.
  const auto factor = [&](Index b, Index h, Index i) {
    if (!shifted) return 1.0;
    const Index key_head = b * s_.key_heads + h / s_.group();
    const double key = s_.keys > 0 ? static_cast<double>(k_shift[static_cast<std::size_t>(key_head * s_.keys)]) : 0.0;
    return std::exp(static_cast<double>(q_shift[static_cast<std::size_t>((b * s_.heads + h) * s_.queries + i)]) + key);
  };
  const auto undo = [&](std::vector<T>& values, Index columns) {
    if (!shifted) return;
    for (Index b = 0; b < s_.batch; ++b) {
      for (Index h = 0; h < s_.heads; ++h) {
        for (Index i = 0; i < s_.queries; ++i) {
          const double f = factor(b, h, i);
          T* row = values.data() + ((b * s_.heads + h) * s_.queries + i) * columns;
          for (Index c = 0; c < columns; ++c) row[c] = static_cast<T>(static_cast<double>(row[c]) * f);
        }
      }
    }
  };

  LinearResult result;
  run_.timed("apply", [&] {
    map.apply(q, fq, shifted ? FeatureShift::per_row : FeatureShift::none, sq, {}, context);
    map.apply(k, fk, shifted ? FeatureShift::per_head : FeatureShift::none, sk, {}, context);
    if (shifted && options.weight_epsilon > 0) {
      balance_shifts(options.weight_epsilon, fq, sq, sk, {row_shift.data(), static_cast<Index>(row_shift.size())});
      options.weight_log_shift = {row_shift.data(), static_cast<Index>(row_shift.size())};
    }
    result = masked_linear_attention(Const(fq), fk, v, masks, out, denominator, options, context);
  });
  if (paths_.any_gradient()) {
    AttentionGradients<T> wanted = gradient_views();
    std::vector<T> fq_bar, fk_bar;
    AttentionGradients<T> inner = wanted;
    if (wanted.q) {
      fq_bar.resize(q_features.size());
      inner.q = tensor(fq_bar, s_.batch, s_.heads, s_.queries, features);
    }
    if (wanted.k) {
      fk_bar.resize(k_features.size());
      inner.k = tensor(fk_bar, s_.batch, s_.key_heads, s_.keys, features);
    }
    inner.parameters = parameter_view(m ? &*m : nullptr, parameter_bar_);
    // Unnormalised outputs are multiplied by the shifts' factors afterwards, so their cotangents are before.
    std::vector<T> bar = out_bar_;
    if (!options.normalize) undo(bar, s_.values);
    const Const out_bar = tensor(std::as_const(bar), s_.batch, s_.heads, s_.queries, s_.values);
    run_.timed("backward", [&] {
      masked_linear_attention_vjp(Const(fq), fk, v, masks, out, denominator, out_bar, inner, options, context);
      if (wanted.q) map.apply_vjp(q, fq, sq, inner.q, wanted.q, false, context);
      if (wanted.k) map.apply_vjp(k, fk, sk, inner.k, wanted.k, false, context);
    });
    // Keys that take no part have no gradient, whatever stood there.
    for (Index b = 0; b < s_.batch && wanted.k && !key_counts_.empty(); ++b) {
      for (Index h = 0; h < s_.key_heads; ++h) {
        T* head = k_bar_.data() + (b * s_.key_heads + h) * s_.keys * s_.width;
        std::fill(head + key_counts_[static_cast<std::size_t>(b)] * s_.width, head + s_.keys * s_.width, T(0));
      }
    }
    if (m) write_table_gradient(*m, paths_.table_gradient, parameter_bar_, table_bar_);
  }
  if (!options.normalize) undo(out_, s_.values);
  undo(normaliser, 1);
  if (!paths_.normalizer.empty()) {
    run_.outputs.fill_npy(paths_.normalizer, s_.array_shape(s_.heads, s_.queries, -1), normaliser.data());
  }
  run_.report["floored_rows"] = result.floored_rows;
  run_.report["features"] = features;
  take_bounds(masks[0].engines(shape), chosen);
  finish(chosen, engines, m ? m->text : "ones");
}

template void AttentionRun<float>::linear();
template void AttentionRun<double>::linear();

}  // namespace espalier::tools
