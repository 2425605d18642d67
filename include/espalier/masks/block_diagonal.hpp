// BlockDiagonalMask: masks of several sequences side by side, nothing between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// diag(M_1, M_2, ...): (sum rows) x (sum cols), 0 outside the blocks; at least one block. parameters(): those of the blocks, in
// order. Engines: those that the blocks choose, each for its own rows; cost and memory are the sum over the blocks. Errors:
// ValueError for no blocks.
template <class T, class B = Cpu>
class ESPALIER_EXPORT BlockDiagonalMask final : public Mask<T, B> {
 public:
  explicit BlockDiagonalMask(std::vector<MaskPointer<T, B>> blocks, MaskOptions options = {});
  ~BlockDiagonalMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  void apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  std::vector<MaskPointer<T, B>> blocks_;
  std::vector<double> parameters_;
  std::shared_ptr<const EntrySource<T>> source_;  // empty where a block has no entries
};

}  // namespace espalier
