// DiffusionMask: graph diffusion kernels exp(-t T) applied by a Chebyshev expansion.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/graphs/graph.hpp>

#include <memory>

namespace espalier {

// T of exp(-t T); A adjacency (weights), D = diag(row sums of A).
enum class GraphOperator {
  adjacency,             // T = -A
  laplacian,             // T = D - A
  normalized_laplacian,  // T = I - D^-1/2 A D^-1/2
  random_walk            // T = I - D^-1 A, applied as D^-1/2 exp(-t N) D^1/2, N the normalised Laplacian
};

// M = exp(-t T), t >= 0 finite; L = nodes.
//
// Isolated nodes have a zero row in every Laplacian. Weights are finite; for the three Laplacians >= 0.
// Engines: "chebyshev": degree chosen before the run from the tolerance, which bounds ||M~ - M||_2 / ||M||_2 (certificate
// `norm`); spectral interval by Collatz-Wielandt (a rigorous bound); one pass over the rows a term; double arithmetic inside
// where the tolerance is below the float rounding estimate. "eigen": dense eigendecomposition, exact, up to 2048 nodes.
// parameters(): t. Gradient: dM/dt = -T M. Cost: O(degree (nonzeros + L) columns), degree about sqrt(t rho log(1/tol)).
// Errors: ValueError for a negative, NaN or infinite t, negative weights under a Laplacian.
// Source: H. Tal-Ezer, R. Kosloff, J. Chem. Phys. 81 (1984) for the expansion; Collatz-Wielandt for the bound.
template <class T, class B = Cpu>
class ESPALIER_EXPORT DiffusionMask final : public Mask<T, B> {
 public:
  DiffusionMask(std::shared_ptr<const Graph> graph, double time, GraphOperator op = GraphOperator::laplacian,
                MaskOptions options = {});
  ~DiffusionMask() override;

  double time() const;

  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;
  DiffusionMask(std::shared_ptr<const State> state, double time, const MaskOptions& options);
  std::shared_ptr<const State> state_;
  double time_;
};

}  // namespace espalier
