// Several functions read off one set of states: which states, and the matrices that read them, by least squares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/exponential_term.hpp>

#include <Eigen/Dense>

#include <vector>

#include "masks/chunk_form.hpp"

namespace espalier::chunk_form {

// The first function's states are there from the beginning; the others' sums say which may be taken in beside them. With
// D^n in, what states hold n chunks later of moments on the vectors `source`, function k is to be had as
//   row_k D^n in ≈ rowᵀ (f_k(a + (n + gap) C - b))_ab source     for n further and further apart, weighted as row errors ask.
// Source of the choice: Y. C. Pati, R. Rezaiifar, P. S. Krishnaprasad, "Orthogonal matching pursuit", Asilomar 1993.
class SharedStates {
 public:
  SharedStates(const std::vector<const ExponentialSum*>& sums, const std::vector<const std::vector<double>*>& values,
               const Matrix& row, const Matrix& source, Index gap);

  // The first sum, and terms of coefficient 0 for what has been taken in.
  const ExponentialSum& sum() const { return sum_; }
  // The largest part of a function that no matrix gives, relative to its size.
  double residual() const;
  // Takes in the states that lower the residuals most. False: none is left that does.
  bool grow();
  // row_k for states moved as `states` are, which take moments by `in`. Singular values below `cut` of the largest are left
  // out, so that no digits are lost between large numbers of opposite sign.
  Matrix out(std::size_t k, const States& states, const Matrix& in, double cut) const;

 private:
  // One function at all places, rows as those of held().
  struct Wanted {
    Matrix values, rest, span;  // weighted; what is not given yet; orthonormal columns that give the others
    Eigen::VectorXd weight;
    double size = 0;
  };
  Matrix held(const States& states, const Matrix& in) const;
  Wanted wanted(const ExponentialSum& sum, const std::vector<double>& f, const Matrix& row) const;
  // Parts of weighted columns that are new to w, orthonormal.
  Matrix fresh(const Wanted& w, const Matrix& columns) const;
  static void take(Wanted& w, const Matrix& directions);

  Matrix source_;
  Index gap_;
  std::vector<Index> places_;  // n
  std::vector<double> stands_for_;
  ExponentialSum sum_;
  std::vector<ExponentialTerm> candidates_;
  std::vector<Wanted> wanted_;  // [k - 1]; of size 0 where the function is 0
};

}  // namespace espalier::chunk_form
