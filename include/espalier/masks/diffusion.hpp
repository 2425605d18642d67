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
// Engines
//   "chebyshev"  degree chosen before the run so that ||M~ - M||_2 / ||M||_2 <= tolerance (certificate `norm`; the spectrum is
//                bounded rigorously by Collatz-Wielandt, the truncated tail by its sum). One pass over the rows a term; in
//                double for float data where the tolerance is below the float rounding estimate, about 0.35 terms 6e-8, or
//                does not cover what rounding T to float costs (about 6e-8 t where T is not representable).
//                O(terms (nonzeros + L)) a column, terms about sqrt(2 t rho log(1 / tolerance)), rho the spectral bound.
//                Adjacency with weights of both signs: the sum's terms have the size exp(t rho(|A|)), ||M||_2 is exp(t lambda),
//                lambda A's largest eigenvalue (a Rayleigh quotient bounds it from below). What cancels between the two is
//                kept below the tolerance, and within double, by equal steps of time, M = exp(t A / s)^s, s at most
//                t (rho(|A|) - lambda) and the least power of two that will do; terms then count all steps. One step for
//                weights >= 0 and Laplacians.
//   "eigen"      dense eigendecomposition in double, made on first need, exact up to rounding, up to 1024 nodes. With
//                this engine forced, entries() has tiles (the mask can then be a softmax bias).
// parameters(): t. Gradient: dM/dt = -T M.
// Accuracy: rounding is about 0.35 terms eps relative to ||M||_2 ||X||, times exp(t (rho(|A|) - lambda) / s) for the adjacency,
// and 2 eps t rho(|A|) of double for its exponents. Where that exceeds the tolerance the report warns, and the planner leaves
// "eigen" alone to choose where it exists.
// Errors: ValueError for a negative, NaN or infinite t, negative weights under a Laplacian, and for exp(tA) that would
// overflow (t lambda > 80 in float, > 700 in double, by the lower bound of lambda); t times the width of the spectrum above
// 2e10, or a spectrum beyond 1e37.
// Source: H. Tal-Ezer, R. Kosloff, "An accurate and efficient scheme for propagating the time dependent Schroedinger
// equation", J. Chem. Phys. 81 (1984), for the expansion; L. Collatz, Math. Z. 48 (1942), for the bound.
template <class T, class B = Cpu>
class ESPALIER_EXPORT DiffusionMask final : public Mask<T, B> {
 public:
  DiffusionMask(std::shared_ptr<const Graph> graph, double time, GraphOperator op = GraphOperator::laplacian,
                MaskOptions options = {});
  ~DiffusionMask() override;

  double time() const;

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
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;      // operator and spectrum: shared by with_parameters
  class Expansion;  // what depends on t: coefficients; the dense matrix of "eigen"
  DiffusionMask(std::shared_ptr<const State> state, double time, const MaskOptions& options);
  template <class C>
  void apply_chebyshev(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const;
  std::shared_ptr<const State> state_;
  std::shared_ptr<Expansion> expansion_;
};

}  // namespace espalier
