// Engine of masks on one axis that are constant over stretches of distances: buckets, stairs, windows of one weight.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/sliding.hpp"
#include "masks/grid_engines.hpp"

namespace espalier {

// Distances begin .. the next run's begin - 1 of one side, all of one value.
struct PieceRun {
  Index begin;
  double value;
  Index parameter;  // of a function made of pieces; else 0
};

// Both sides of a mask of `length` tokens: i - j from 0 on, and j - i from 1 on (none: that side is 0).
struct PieceRuns {
  Index length = 0;
  std::vector<PieceRun> lower, upper;
};

// Engine "piecewise". With features: chunks of C tokens, n = I - J apart, are exact tiles where the value changes among their
// distances (own chunk too), and else enter by window sums of chunk moments B_Jᵀ X_J: flops a token 2 C (m + c) a tile, 4 m c a
// side, some 6 m c / C a window. Without: window sums of single tokens. Nothing is approximated.
template <class T>
class PiecewiseEngine final : public GridEngine<T> {
 public:
  PiecewiseEngine(const GridSource& source, const MaskOptions& options) : source_(source), options_(options) {}

  bool serves(const std::string& engine) const override { return engine == "piecewise"; }
  void add_candidates(Shape shape, double best_other, std::vector<Report>& all, const SetUpWatch& watch) const override;
  std::unique_ptr<const GridEngine<T>> with_source(const GridSource& source) const override;

  void multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                const Context<Cpu>& context) const override;
  void multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in, const LowRankOutputs<T, Cpu>& out,
                         bool transpose, const Context<Cpu>& context) const override;
  // Learns where the mask is a function made of pieces: the gradient by a value is the sum over its windows of moments of rows
  // against sums of moments of sources, and over its entries in exact tiles.
  bool multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                             const LowRankCotangents<T, Cpu>& cotangents, const LowRankGradients<T, Cpu>& gradients, bool learn,
                             std::vector<double>& parameter_bar, const Context<Cpu>& context) const override;

 private:
  struct Form {
    std::string reason;  // why there is none; empty: there is one
    Index pieces = 0;
    backend::SlidingToeplitz<T> plain;
    backend::ChunkedToeplitz<T> product;
  };
  const Form& form() const;
  const backend::ChunkedToeplitz<T>& learning() const;
  Report report(const Form& form, Shape shape) const;
  // The piece of the function that this offset is in.
  Index parameter(Index offset) const;
  // As soon as a side has more than `most` runs, no further ones. by_parameter: a run for each piece of the function, whether
  // values differ or not.
  PieceRuns runs(bool by_parameter, Index most) const;

  GridSource source_;
  MaskOptions options_;
  mutable std::once_flag form_once_, learning_once_;
  mutable Form form_;
  mutable backend::ChunkedToeplitz<T> learning_;
};

}  // namespace espalier
