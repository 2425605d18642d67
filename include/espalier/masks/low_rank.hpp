// LowRankMask: M = F Gᵀ; with it the mask of ones.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>

namespace espalier {

// M = F Gᵀ, F: rows x r, G: cols x r (empty: G = F), copied.
// parameters(): F row-major, then G row-major (only where G was given). Engine "factors": O((rows + cols) r) a column; the
// masked product is a product of rank m r: (F_i ⊙ A_i)(G_j ⊙ B_j). "direct": tiles. Errors: ShapeError when the ranks differ,
// ValueError for NaN or infinite entries.
template <class T, class B = Cpu>
class ESPALIER_EXPORT LowRankMask final : public Mask<T, B> {
 public:
  explicit LowRankMask(MatrixView<const double, Cpu> f, MatrixView<const double, Cpu> g = {}, MaskOptions options = {});
  ~LowRankMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;
  std::shared_ptr<const State> state_;
};

// All ones, rows x cols; with causal set M_ij = 0 where j - i > causal_shift (0: top-left; cols - rows: bottom-right).
// Engine "prefix": sums (causal: prefix sums carried over blocks in a fixed order), O(rows + cols) a column, and O(L m c) for
// the masked product: linear attention without a mask. "direct": tiles. No parameters.
template <class T, class B = Cpu>
class ESPALIER_EXPORT OnesMask final : public Mask<T, B> {
 public:
  OnesMask(Index rows, Index cols, bool causal = false, Index causal_shift = 0, MaskOptions options = {});

  Entries<T, B> entries() const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  void apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  bool causal_;
  Index causal_shift_;
};

}  // namespace espalier
