// One attention run: what every kind shares. The kinds are in attention_linear.cpp, attention_softmax.cpp, attention_top_k.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention_arrays.hpp"
#include "mask_flags.hpp"

#include <espalier/core/head_masks.hpp>

#include <optional>
#include <string>
#include <vector>

namespace espalier::tools {

// Names of the files a run was asked to write; empty: not asked for.
struct AttentionOutputs {
  std::string output, normalizer, log_sum_exp, indices, scores;
  std::string output_gradient;  // an input
  std::string query_gradient, key_gradient, value_gradient, table_gradient, bias_table_gradient;
  bool any_gradient() const { return !output_gradient.empty(); }
};

template <class T>
class AttentionRun {
 public:
  AttentionRun(Run& run, AttentionFiles files, AttentionOutputs outputs, Precision precision);

  void linear();
  void softmax();
  void top_k();

 private:
  using Const = TensorView<const T>;

  // Builds a mask and checks its size and number against Q and K; empty optional: the flag was not given.
  std::optional<BuiltMask<T>> mask(const std::string& role, bool prefixed, std::optional<Index> causal_shift,
                                   std::optional<MaskOptions> options);
  void check_mask_size(const BuiltMask<T>& m, const std::string& prefix) const;
  // Gradient buffers of those wanted; writes them at the end.
  AttentionGradients<T> gradient_views();
  void reserve_parameters(const BuiltMask<T>* m, const std::string& flag, const std::string& path, std::vector<T>& memory);
  MatrixView<T> parameter_view(const BuiltMask<T>* m, std::vector<T>& memory) const;
  void write_table_gradient(const BuiltMask<T>& m, const std::string& path, const std::vector<T>& memory,
                            std::vector<T>& table);
  void write_gradients();
  void finish(const Report& chosen, const std::vector<Report>& engines, const std::string& mask_text);
  Report tile_report(const std::string& engine, const std::string& reason) const;

  Run& run_;
  AttentionFiles files_;
  AttentionOutputs paths_;
  Precision precision_;
  AttentionShape s_;
  Causal causal_ = Causal::none;
  std::vector<std::int64_t> key_counts_;
  std::vector<T> q_, k_, v_, out_, out_bar_, q_bar_, k_bar_, v_bar_;
  std::vector<T> parameter_bar_, bias_parameter_bar_, table_bar_, bias_table_bar_;
};

}  // namespace espalier::tools
