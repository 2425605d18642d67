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
  // start: null, or that of a mask a parameter step away. failed: how many steps ago such a mask was found to have no form; 0:
  // it was not, or so long ago that it is worth another look.
  FarFieldEngine(const GridSource& source, const MaskOptions& options, double tolerance,
                 std::shared_ptr<const FarFieldStart> start = nullptr, Index failed = 0);

  bool serves(const std::string& engine) const override { return engine == "far-field"; }
  void add_candidates(Shape shape, double best_other, std::vector<Report>& all, const SetUpWatch& watch) const override;
  void multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                const Context<Cpu>& context) const override;
  void multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in, const LowRankOutputs<T, Cpu>& out,
                         bool transpose, const Context<Cpu>& context) const override;
  // Never learns: the gradient of a table is a correlation, which GridMask has. A far field of the derivatives, whose couplings
  // the moments could be contracted with, would have to be set up at every step and take as long.
  bool multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                             const LowRankCotangents<T, Cpu>& cotangents, const LowRankGradients<T, Cpu>& gradients, bool learn,
                             std::vector<double>& parameter_bar, const Context<Cpu>& context) const override;
  std::unique_ptr<const GridEngine<T>> with_source(const GridSource& source) const override;

 private:
  const FarFieldForm<T>& form(const SetUpWatch& watch = SetUpWatch()) const;
  Report report(Shape shape) const;
  // By the cost model: far part, near pairs of points and runs of leaves, basis vectors of all patches.
  double seconds(const FarWork& far, double pairs, double runs, double vectors, Shape shape) const;

  PatchPlan plan_;
  const std::vector<double>& table_;
  MaskOptions options_;
  double tolerance_;
  double filled_ = 0;  // share of the table that is not negligible
  mutable std::once_flag once_;
  std::shared_ptr<const FarFieldStart> start_;
  Index failed_;
  mutable FarFieldForm<T> form_;
  mutable std::atomic<bool> ready_{false};
};

}  // namespace espalier
