// SumMask: the sum of several masks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// sum_k M_k, at least one term, all of one size. parameters(): those of the terms, in order.
// Engines: those that the terms choose ("fft+sweep"), one product after the other, extra memory one output; where all have
// entries by tile, "direct": one pass over the sum of the tiles. A certificate of a term is passed on as an estimate: where
// terms cancel, an error relative to a term is larger relative to the sum. Errors: ShapeError for terms of different sizes,
// ValueError for none.
template <class T, class B = Cpu>
class ESPALIER_EXPORT SumMask final : public Mask<T, B> {
 public:
  explicit SumMask(std::vector<MaskPointer<T, B>> terms, MaskOptions options = {});
  ~SumMask() override;

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
  bool by_tiles(Shape shape) const;

  std::vector<MaskPointer<T, B>> terms_;
  std::vector<double> parameters_;
  std::shared_ptr<const EntrySource<T>> source_;  // empty where a term has no entries
};

}  // namespace espalier
