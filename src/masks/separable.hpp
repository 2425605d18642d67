// Engine of masks on grids of several axes whose table is a short sum of products of tables by axis: one axis at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "masks/grid_engines.hpp"
#include "masks/long_axes.hpp"
#include "masks/offset_train.hpp"

namespace espalier {

// "separable": M = sum of Kronecker products of Toeplitz matrices, for the plain product y = M x.
template <class T>
class SeparableEngine final : public GridEngine<T> {
 public:
  SeparableEngine(const GridSource& source, const MaskOptions& options, double tolerance);

  bool serves(const std::string& engine) const override;
  void add_candidates(Shape shape, double best_other, std::vector<Report>& all, const SetUpWatch& watch) const override;
  std::unique_ptr<const GridEngine<T>> with_source(const GridSource& source) const override;

  void multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                const Context<Cpu>& context) const override;
  // Never candidates: m c columns through the plain product cost more than tiles or FFT. Errors: ValueError.
  void multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in, const LowRankOutputs<T, Cpu>& out,
                         bool transpose, const Context<Cpu>& context) const override;
  bool multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                             const LowRankCotangents<T, Cpu>& cotangents, const LowRankGradients<T, Cpu>& gradients, bool learn,
                             std::vector<double>& parameter_bar, const Context<Cpu>& context) const override;

 private:
  struct Form {
    OffsetTrain<T> found;
    std::unique_ptr<const backend::ToeplitzTrain<T>> product;  // null: not met
    Index long_terms = 0;
    std::unique_ptr<const LongAxes<T>> long_axes;  // null: axes too short, or no certificate
  };
  void make_long(Form& form, const SetUpWatch& watch) const;
  bool runs_long(const Form& form, Index columns) const;
  const Form& form(const SetUpWatch& watch = SetUpWatch()) const;
  Report report(const Form& form, Shape shape) const;
  double seconds(double flops, double calls, double passes, Shape shape) const;

  const std::vector<Index>& sizes_;
  const std::vector<double>& table_;
  bool causal_;
  MaskOptions options_;
  double tolerance_;
  mutable std::once_flag once_;
  mutable Form form_;
};

}  // namespace espalier
