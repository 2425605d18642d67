// Masks, gradients and files that the kinds of attention share.
// SPDX-License-Identifier: Apache-2.0
#include "attention_run.hpp"

#include <cmath>
#include <cstdio>

namespace espalier::tools {

template <class T>
AttentionRun<T>::AttentionRun(Run& run, AttentionFiles files, AttentionOutputs outputs, Precision precision)
    : run_(run), files_(std::move(files)), paths_(std::move(outputs)), precision_(precision), s_(files_.shape) {
  causal_ = causal_flag(run_, s_, files_);
  key_counts_ = key_count_flag(run_, s_);
  q_ = convert<T>(files_.q);
  k_ = convert<T>(files_.k);
  v_ = convert<T>(files_.v);
  files_.q.values = {};
  files_.k.values = {};
  files_.v.values = {};
  out_ = zeros<T>(s_.batch, s_.heads, s_.queries, s_.values);
  if (!paths_.any_gradient()) return;
  const NpyArray g = run_.inputs.floats("output-gradient", paths_.output_gradient);
  const std::vector<Index> shape = s_.array_shape(s_.heads, s_.queries, s_.values);
  if (g.shape != shape) {
    throw FormatError(paths_.output_gradient, 0,
                      "shape " + shape_text(g.shape) + " (expected " + shape_text(shape) + ", the output's)");
  }
  out_bar_ = convert<T>(g);
}

template <class T>
void AttentionRun<T>::check_mask_size(const BuiltMask<T>& m, const std::string& prefix) const {
  if (m.rows() != s_.queries) refuse_size(files_.q_path, "rows", s_.queries, m.rows(), m.text, m.border, prefix);
  if (m.cols() != s_.keys) refuse_size(files_.k_path, "rows", s_.keys, m.cols(), m.text, m.border, prefix);
  const auto n = static_cast<Index>(m.heads.size());
  if (n != 1 && n != s_.heads) {
    throw ValueError(files_.q_path + ": " + std::to_string(s_.heads) + " heads (expected " + std::to_string(n) + ": " +
                     heads_text(m.sources, m.text) + ")");
  }
}

template <class T>
std::optional<BuiltMask<T>> AttentionRun<T>::mask(const std::string& role, bool prefixed, std::optional<Index> causal_shift,
                                                  std::optional<MaskOptions> options) {
  if (!run_.flags.given(role)) return std::nullopt;
  MaskRequest request;
  request.role = role;
  request.prefixed = prefixed;
  request.size = {s_.queries, s_.keys};
  request.size_file = files_.q_path;
  request.causal_shift = causal_shift;
  request.wrapped = causal_ != Causal::none;
  request.options = std::move(options);
  BuiltMask<T> m = build_mask<T>(run_, request);
  check_mask_size(m, prefixed ? role + "-" : "");
  return m;
}

template <class T>
AttentionGradients<T> AttentionRun<T>::gradient_views() {
  AttentionGradients<T> g;
  if (!paths_.query_gradient.empty()) {
    q_bar_.resize(q_.size());
    g.q = tensor(q_bar_, s_.batch, s_.heads, s_.queries, s_.width);
  }
  if (!paths_.key_gradient.empty()) {
    k_bar_.resize(k_.size());
    g.k = tensor(k_bar_, s_.batch, s_.key_heads, s_.keys, s_.width);
  }
  if (!paths_.value_gradient.empty()) {
    v_bar_.resize(v_.size());
    g.v = tensor(v_bar_, s_.batch, s_.key_heads, s_.keys, s_.values);
  }
  return g;
}

template <class T>
void AttentionRun<T>::reserve_parameters(const BuiltMask<T>* m, const std::string& flag, const std::string& path,
                                         std::vector<T>& memory) {
  if (path.empty()) return;
  if (m == nullptr) throw FlagError(flag, "there is no mask whose table could have a gradient");
  if (m->sources.table_shape.empty()) throw FlagError(flag, m->text + " has no table (expected a mask with --table)");
  Index count = 1;
  for (const Index n : m->sources.table_shape) count *= n;
  const auto heads = static_cast<Index>(m->heads.size());
  const auto parameters = static_cast<Index>(m->heads[0]->parameters().size());
  if (parameters < count / heads) throw FlagError(flag, m->text + " does not learn its table");
  memory.resize(static_cast<std::size_t>(heads * parameters));
}

template <class T>
MatrixView<T> AttentionRun<T>::parameter_view(const BuiltMask<T>* m, std::vector<T>& memory) const {
  if (memory.empty() || m == nullptr) return {};
  const auto heads = static_cast<Index>(m->heads.size());
  return MatrixView<T>(memory.data(), heads, static_cast<Index>(memory.size()) / heads);
}

template <class T>
void AttentionRun<T>::write_table_gradient(const BuiltMask<T>& m, const std::string& path, const std::vector<T>& memory,
                                           std::vector<T>& table) {
  if (path.empty()) return;
  Index count = 1;
  for (const Index n : m.sources.table_shape) count *= n;
  const auto heads = static_cast<Index>(m.heads.size());
  const Index parameters = static_cast<Index>(memory.size()) / heads;
  // A border's weights follow the table among the parameters of each head.
  for (Index h = 0; h < heads; ++h) {
    const T* first = memory.data() + h * parameters;
    table.insert(table.end(), first, first + count / heads);
  }
  run_.outputs.fill_npy(path, m.sources.table_shape, table.data());
}

template <class T>
void AttentionRun<T>::write_gradients() {
  if (!q_bar_.empty() || !paths_.query_gradient.empty()) {
    run_.outputs.fill_npy(paths_.query_gradient, s_.array_shape(s_.heads, s_.queries, s_.width), q_bar_.data());
  }
  if (!paths_.key_gradient.empty()) {
    run_.outputs.fill_npy(paths_.key_gradient, s_.array_shape(s_.key_heads, s_.keys, s_.width), k_bar_.data());
  }
  if (!paths_.value_gradient.empty()) {
    run_.outputs.fill_npy(paths_.value_gradient, s_.array_shape(s_.key_heads, s_.keys, s_.values), v_bar_.data());
  }
}

template <class T>
Report AttentionRun<T>::tile_report(const std::string& engine, const std::string& reason) const {
  Report r;
  r.engine = engine;
  r.reason = reason;
  const double pairs =
      static_cast<double>(s_.batch * s_.heads) * static_cast<double>(s_.queries) * static_cast<double>(s_.keys);
  r.flops = 2 * pairs * static_cast<double>(s_.width + s_.values);
  r.bytes = static_cast<double>(sizeof(T)) *
            static_cast<double>(q_.size() + out_.size() + (k_.size() + v_.size()) * static_cast<std::size_t>(s_.group()));
  const CostModel cost;
  r.predicted_seconds = r.flops / (cost.tile_flops * (sizeof(T) == 4 ? 1.0 : 0.5));
  r.rounding_estimate = 4 * std::sqrt(static_cast<double>(s_.width)) * (sizeof(T) == 4 ? 6e-8 : 1.1e-16);
  r.row_wise = true;
  return r;
}

template <class T>
void AttentionRun<T>::finish(const Report& chosen, const std::vector<Report>& engines, const std::string& mask_text) {
  run_.outputs.fill_npy(paths_.output, s_.array_shape(s_.heads, s_.queries, s_.values), out_.data());
  write_gradients();
  run_.describe(chosen, engines, 1);
  run_.report["mask"] = mask_text.empty() ? nlohmann::json(nullptr) : nlohmann::json(mask_text);
  run_.report["size"] = s_.queries == s_.keys ? nlohmann::json(s_.queries) : nlohmann::json({s_.queries, s_.keys});
  run_.report["columns"] = s_.values;
  run_.report["type"] = precision_ == Precision::single ? "float" : "double";
  run_.report["tolerance"] = run_.tolerance(precision_);
  char line[200];
  std::snprintf(line, sizeof(line), "%s: L = %td, %td columns, %.3g s, %s", chosen.engine.c_str(), s_.queries,
                s_.batch * s_.heads * s_.values, run_.report["seconds_apply"].template get<double>(),
                certificate_text(chosen).c_str());
  run_.finish(line);
}

template class AttentionRun<float>;
template class AttentionRun<double>;

}  // namespace espalier::tools
