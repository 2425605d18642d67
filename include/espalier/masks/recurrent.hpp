// A causal mask that is a sum of exponentials, one token at a time: constant time and memory a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/core/views.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/functions/exponential_term.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// The state of one head after n tokens of y_i = sum_{j <= i} f(i - j) (a_i . b_j) x_j, f(d) = Re sum_k c_k d^p_k exp(-s_k d):
// slots() matrices of m x (c + 1) numbers in double. GridMask with `causal` gives the same for a whole sequence, within both
// masks' certificates and rounding.
// Cost: 6 slots() m (c + 1) flops a token. Accuracy: states move by S += expm1(-s) S + b xᵀ in double, what turns is kept in a
// frame that turns along: nothing compounds over the sequence. Not for several threads at once; copies are independent.
// Errors of the constructors: ValueError for m < 1, c < 0, terms that grow (Re s < 0) or are not finite, or where f has no sum
// within the tolerance (the text says why).
template <class T>
class ESPALIER_EXPORT RecurrentMask {
 public:
  RecurrentMask(ExponentialSum sum, Index features, Index columns);
  // The sum that stands for f at distances 0 .. longest - 1; later tokens than `longest` see it extended.
  RecurrentMask(const DistanceFunction& f, Index longest, Index features, Index columns, const MaskOptions& options = {});
  ~RecurrentMask();
  RecurrentMask(const RecurrentMask&);
  RecurrentMask& operator=(const RecurrentMask&);
  RecurrentMask(RecurrentMask&&) noexcept;
  RecurrentMask& operator=(RecurrentMask&&) noexcept;

  Index features() const;
  Index columns() const;
  Index length() const;  // tokens taken so far
  const ExponentialSum& sum() const;
  // Of the fit (row kind over `longest` tokens); empty where the sum was given.
  const Certificate& certificate() const;

  // Takes the next token in and gives y_i and sum_{j <= i} f(i - j) (a_i . b_j) for it.  a, b: [m], x: [c], y: [c]; row_sum may
  // be null. Errors: ShapeError; the state is unchanged then.
  void step(VectorView<const T> a, VectorView<const T> b, VectorView<const T> x, VectorView<T> y, T* row_sum = nullptr);
  // Takes the tokens of a prompt in without outputs.  b: n x m, x: n x c.
  void prefill(MatrixView<const T> b, MatrixView<const T> x);

  // The state as numbers, and back: a run goes on where it was saved, bit by bit. With them goes a fingerprint of the mask's
  // terms and sizes. Errors: ShapeError for another count of numbers, ValueError for those of another mask; the state is
  // unchanged then.
  std::vector<double> save() const;
  void restore(std::span<const double> state);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
