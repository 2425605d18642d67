// LowRankMask: M = F Gᵀ, given by its factors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>

namespace espalier {

// M = F Gᵀ, F: rows x r, G: cols x r (empty: G = F), copied.
// parameters(): F row-major, then G row-major (only where G was given). Engine "factors": O((rows + cols) r) a column; the
// masked product takes O((rows + cols) r m c): min(r, m) products by state. "direct": tiles. Errors: ShapeError when the ranks
// differ, ValueError for NaN or infinite entries.
template <class T, class B = Cpu>
class ESPALIER_EXPORT LowRankMask final : public Mask<T, B> {
 public:
  explicit LowRankMask(MatrixView<const double, Cpu> f, MatrixView<const double, Cpu> g = {}, MaskOptions options = {});
  ~LowRankMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;
  LowRankMask(std::shared_ptr<const State> state, Index rows, Index cols, MaskOptions options);
  std::shared_ptr<const State> state_;
};

}  // namespace espalier
