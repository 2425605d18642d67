// CausalMask: any mask with the future taken out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// The inner mask with M_ij = 0 where j - i > shift (0: top-left; cols - rows: bottom-right). parameters(): the inner ones.
// Engines: "direct", tiles of the inner entries; where there are none, "dense": the rows x cols matrix, formed on first need by
// products with unit columns. Over ones: OnesMask's, linear in L.
// Certificate: none over exact engines. Of a formed matrix the inner bounds, carried over to what is kept (row, entry, norm):
// known once it is formed, that is, after the first product; before, all bounds are empty.
// Errors: ValueError where a mask without entries has more than 8192 columns or rows (the text names the limit).
template <class T, class B = Cpu>
class ESPALIER_EXPORT CausalMask final : public Mask<T, B> {
 public:
  explicit CausalMask(MaskPointer<T, B> inner, Index shift = 0, MaskOptions options = {});
  ~CausalMask() override;

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
  void apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class Formed;
  MaskPointer<T, B> inner_;
  Index shift_;
  std::shared_ptr<Formed> formed_;  // the matrix, where the inner mask has no entries
  MaskPointer<T, B> ones_;          // the causal mask of ones, where the inner one is that of ones
};

}  // namespace espalier
