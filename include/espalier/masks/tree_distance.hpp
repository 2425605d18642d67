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
//
//   f = exp(affine)   engine "sweep": an up and a down sweep over the nodes, O(L) a column, no recursion and no
//                     subtraction (growing factors lose nothing), edge factors as expm1 of a double logarithm.
//                     parameters(): slope[0 .. width-1], intercept, then (if learnt) the weights of node 0, 1, ... (roots'
//                     too: their gradient is 0), weight_width each.
//   any other f       engine "dense" up to 8192 nodes (L x L entries formed at construction); beyond that a ValueError that
//                     names what is possible. parameters(): those of f.
// A DistanceFunction that is factor exp(slope d) is taken as the first kind (factor != 0 of either sign: its logarithm and
// sign; factor 0: the zero mask).
// Source: K. Choromanski et al., "From block-Toeplitz matrices to differential equations on graphs", ICML 2022.
template <class T, class B = Cpu>
class ESPALIER_EXPORT TreeDistanceMask final : public Mask<T, B> {
 public:
  TreeDistanceMask(std::shared_ptr<const Tree> tree, AffineExponential f, TreeOptions options = {});
  TreeDistanceMask(std::shared_ptr<const Tree> tree, DistanceFunction f, TreeOptions options = {});
  ~TreeDistanceMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
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
  std::shared_ptr<const State> state_;
};

}  // namespace espalier
