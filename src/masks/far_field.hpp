// Engine "far-field" of grid masks: exact tiles for neighbouring patches, nested bases for what lies further apart.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "masks/far_field_form.hpp"
#include "masks/grid_engines.hpp"

namespace espalier {

// The form is made by the first report or product that may want it, once.
template <class T>
class FarFieldEngine final : public GridEngine<T> {
 public:
  FarFieldEngine(const GridSource& source, const MaskOptions& options, double tolerance);

  bool serves(const std::string& engine) const override { return engine == "far-field"; }
  void add_candidates(Shape shape, double best_other, std::vector<Report>& all) const override;
  void multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                const Context<Cpu>& context) const override;
  void multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in, const LowRankOutputs<T, Cpu>& out,
                         bool transpose, const Context<Cpu>& context) const override;
  // Never learns: the gradient of a table is a correlation, which GridMask has.
  bool multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                             const LowRankCotangents<T, Cpu>& cotangents, const LowRankGradients<T, Cpu>& gradients, bool learn,
                             std::vector<double>& parameter_bar, const Context<Cpu>& context) const override;
  std::unique_ptr<const GridEngine<T>> with_source(const GridSource& source) const override;

 private:
  const FarFieldForm<T>& form() const;
  Report report(Shape shape) const;
  // By the cost model: far part, near pairs of points and runs of leaves, basis vectors of all patches.
  double seconds(const FarWork& far, double pairs, double runs, double vectors, Shape shape) const;

  PatchPlan plan_;
  const std::vector<double>& table_;
  MaskOptions options_;
  double tolerance_;
  double filled_ = 0;  // share of the table that is not negligible
  mutable std::once_flag once_;
  mutable FarFieldForm<T> form_;
};

}  // namespace espalier
