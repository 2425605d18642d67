// BorderedMask: extra tokens (CLS, registers) before a mask.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// Weights between extra tokens and the others.
struct BorderWeights {
  double row = 1;     // i an extra token, j not
  double column = 1;  // j an extra token, i not
  double corner = 1;  // both
};

// M with `count` >= 0 extra tokens put first: (count + rows) x (count + cols),
//   M'_ij = corner (i, j < count),  row (i < count <= j),  column (j < count <= i),  M_(i - count)(j - count) otherwise.
// parameters(): those of the inner mask, then row, column, corner.
// Engines: the one that the inner mask chooses, its product plus the border in O((rows + cols) c), and O((rows + cols) m c) for
// the masked product; where entries come by tile, "direct" (or the inner tile engine's name): one pass over all of them.
// Errors: ValueError for a negative count and for weights that are not finite.
template <class T, class B = Cpu>
class ESPALIER_EXPORT BorderedMask final : public Mask<T, B> {
 public:
  BorderedMask(MaskPointer<T, B> inner, Index count, BorderWeights weights = {}, MaskOptions options = {});
  ~BorderedMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;
  bool multiplies_by_tiles(Shape shape) const override;

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
  // Whether a product of this shape runs on tiles of entries().

  MaskPointer<T, B> inner_;
  Index count_;
  BorderWeights weights_;
  std::vector<double> parameters_;
  std::shared_ptr<const EntrySource<T>> source_;  // where the inner entries have a border or causal zeros of their own
};

}  // namespace espalier
