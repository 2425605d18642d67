// DenseMask: a mask given as a matrix, for small sizes, tests and anything without structure.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <span>

namespace espalier {

// M_ij = values(i, j), rows x cols, copied at construction.
// parameters(): the entries, row-major. Engine: "dense". Cost: rows x cols x columns; memory rows x cols.
// Gradient: M'_ij itself. -inf is allowed for use as a softmax bias, where it
// leaves the pair out. Errors: ValueError for NaN and +inf entries.
template <class T, class B = Cpu>
class ESPALIER_EXPORT DenseMask final : public Mask<T, B> {
 public:
  explicit DenseMask(MatrixView<const double, Cpu> values, MaskOptions options = {});
  ~DenseMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;
  bool multiplies_by_tiles(Shape shape) const override { return this->runs_by_tiles(shape); }

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;
  std::shared_ptr<const State> state_;
};

}  // namespace espalier
