// OnesMask: all ones, causal or not; linear attention without a mask in O(L).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <vector>

namespace espalier {

// All ones, rows x cols; with causal set M_ij = 0 where j - i > causal_shift (0: top-left; cols - rows: bottom-right).
// Engine "prefix": sums (causal: prefix sums carried over blocks in a fixed order), O(rows + cols) a column, and O(L m c) for
// the masked product: linear attention without a mask. Sums run in
// double and nothing is subtracted. Gradients: the same operation three times. "direct": tiles. No parameters. Source of the
// causal form: A. Katharopoulos, A. Vyas, N. Pappas, F. Fleuret, "Transformers are RNNs", 2020, section 3.3; in chunks here.
template <class T, class B = Cpu>
class ESPALIER_EXPORT OnesMask final : public Mask<T, B> {
 public:
  OnesMask(Index rows, Index cols, bool causal = false, Index causal_shift = 0, MaskOptions options = {});

  Entries<T, B> entries() const override;
  bool multiplies_by_tiles(Shape shape) const override { return this->runs_by_tiles(shape); }

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  void apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  // A matrix with one more column where wanted: ones, or `last`.
  struct Augmented {
    MatrixView<const T, B> matrix{};
    bool ones = false;
    MatrixView<const T, B> last{};
  };
  struct Operands {
    Augmented a, b, x;
  };
  Index shift(bool transpose) const;
  void by_state(const Operands& in, MatrixView<T, B> y, MatrixView<T, B> y_last, bool transpose,
                const Context<B>& context) const;

  bool causal_;
  Index causal_shift_;
};

}  // namespace espalier
