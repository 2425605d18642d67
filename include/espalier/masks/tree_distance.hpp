// TreeDistanceMask: functions of the path length in a forest, integrated by two sweeps in O(L).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/graphs/tree.hpp>

#include <memory>
#include <vector>

namespace espalier {

// f(w) = exp(intercept + slope . w) of a path's weight vector w (summed over its edges); slope has weight_width numbers.
struct AffineExponential {
  std::vector<double> slope;
  double intercept = 0;
};

struct TreeOptions : MaskOptions {
  double between_trees = 0;         // M_ij for nodes of different trees
  bool learn_edge_weights = false;  // edge weights among the parameters
};

// M_ij = f(dist(i, j)) for i, j in one tree, else between_trees; dist = sum of edge weights on the path, M_ii = f(0).
// M is L x L and symmetric, L = tree.size().
//
//   f = exp(affine)   engine "sweep": an up and a down sweep over the nodes, O(L) a column, no recursion and no subtraction
//                     (growing factors lose nothing). States are double, edge factors 1 + expm1 of a double logarithm: errors
//                     do not grow along a path, and hold row by row.
//                     parameters(): slope[0 .. width-1], intercept, then (if learnt) the weights of node 0, 1, ... (roots'
//                     too: their gradient is 0), weight_width each.
//   any other f       engine "dense", up to 8192 nodes: L x L entries formed at construction, O(L^2) and L^2 sizeof(T) bytes.
//
// A DistanceFunction that is factor exp(slope d), factor of any sign or 0, by its closed form or recognised over the
// distances the tree can have, is swept too. Its parameters() are always those of the function. Tables are never recognised:
// a distance they do not hold is an error. between_trees is no parameter, and the intercept does not act on it.
//
// On at most 8192 nodes an exponential has "dense" as well (entries formed on first need), which masked low-rank products of
// small trees choose, and which serves softmax biases. Scratch memory of a sweep: one T a column of a panel for every node
// that is not its parent's last child (none on a path, L on a star), 32 columns a panel; gradients 4 T, 16 columns a panel.
// Range: |slope . w| <= 700 for every edge, and f of every path must be a normal number of T: what underflows on one part of
// a path (float: f < 1e-38) is not brought back by growing factors on the rest.
// Gradients: slope, intercept and weights by one more pair of sweeps; a DistanceFunction's parameter p by sweeps where
// df/dp = (a + b d) exp(slope d), else by entries.
// Errors: ValueError for more than 8192 nodes with an f that is no exponential (the text says what is possible), or with a
// gradient that is none of the above; for values f(d) that are not finite, parameters that are not finite, learn_edge_weights
// with a DistanceFunction; ShapeError when slope has not weight_width elements.
// Source: K. Choromanski et al., "From block-Toeplitz matrices to differential equations on graphs", ICML 2022, section 3.
template <class T, class B = Cpu>
class ESPALIER_EXPORT TreeDistanceMask final : public Mask<T, B> {
 public:
  TreeDistanceMask(std::shared_ptr<const Tree> tree, AffineExponential f, TreeOptions options = {});
  TreeDistanceMask(std::shared_ptr<const Tree> tree, DistanceFunction f, TreeOptions options = {});
  ~TreeDistanceMask() override;

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
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;
  explicit TreeDistanceMask(std::shared_ptr<const State> state, const TreeOptions& options);
  void add_affine_gradient(const double* edge_bar, double value, VectorView<T, B> parameter_bar) const;
  std::shared_ptr<const State> state_;
  TreeOptions tree_options_;
};

}  // namespace espalier
