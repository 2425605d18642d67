// ScaledMask: a mask times a learnable factor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// factor M. parameters(): those of the inner mask, then the factor. Engines: those of the inner mask, its product and one pass
// over the output. Errors: ValueError for a factor that is not finite.
template <class T, class B = Cpu>
class ESPALIER_EXPORT ScaledMask final : public Mask<T, B> {
 public:
  ScaledMask(MaskPointer<T, B> inner, double factor, MaskOptions options = {});
  ~ScaledMask() override;

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
  MaskPointer<T, B> inner_;
  double factor_;
  std::vector<double> parameters_;
  std::shared_ptr<const EntrySource<T>> source_;  // where the factor's gradient cannot be had from the inner entries' gradient
};

}  // namespace espalier
