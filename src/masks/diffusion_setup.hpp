// Host-side set-up of diffusion masks: the scaled operator, rigorous spectral bounds, Chebyshev coefficients, dense fallback.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/graphs/graph.hpp>
#include <espalier/masks/diffusion.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace espalier::diffusion {

// Largest graph of the "eigen" engine: 1024 nodes take about 3 s to decompose and 8 MB to keep.
constexpr Index kEigenNodes = 1024;

// T = diag(diagonal) - W with spectrum in [low, high]; ||exp(-t T)||_2 >= exp(-t norm_low).
struct Operator {
  std::shared_ptr<const Graph> graph;
  GraphOperator kind;
  std::vector<double> weights;      // one per stored entry of the graph
  std::vector<double> diagonal;     // one per node
  double low = 0, high = 0;         // rigorous
  double smallest = 0;              // an upper bound of T's smallest eigenvalue: ||M||_2 >= exp(-t smallest)
  double alpha = 0;                 // 4 / (high - low), representable in float: the interval is widened to fit
  std::vector<double> left, right;  // random walk: M = diag(left) exp(-t N) diag(right); empty otherwise
  double condition = 1;             // random walk: sqrt(max D / min D), otherwise 1
  // The same in float for the float recurrence.
  std::vector<float> weights_float, diagonal_float;
  double float_error = 0;  // bound on ||T in float - T||_2: the largest row sum of the rounding errors
};

// Fills low, high, smallest and alpha from weights and diagonal.
void set_interval(Operator& op);
std::shared_ptr<const Operator> make_operator(std::shared_ptr<const Graph> graph, GraphOperator kind);

// e^{-z} I_k(z) for k = 0, 1, ... until they no longer count in double; z >= 0.
std::vector<double> scaled_bessel(double z);

// exp(-t T) ~ (sum_k coefficients[k] T_k(X))^steps, X = (2 T - high - low) / (high - low).
struct Series {
  std::vector<double> coefficients;
  double certificate = 0;  // bound on ||M~ - M||_2 / ||M||_2
  Index steps = 1;         // equal steps of time t / steps, each by the same sum
  double rounding = 0;     // estimate of the recurrence's rounding relative to ||M||_2 ||X||; make_series leaves it 0
};
// operator_error bounds ||T' - T||_2, T' the operator as stored (in float); the certificate covers it.
Series make_series(const Operator& op, double time, double tolerance, double operator_error = 0);

// Float rounding of a recurrence of so many terms relative to the size of its terms, measured on road networks: 0.35 terms eps.
double recurrence_rounding(double terms, double epsilon);
// exp of this is the largest norm of a kernel: e^709 is the largest double.
inline constexpr double kLargestExponent = 700;
// The series in the fewest steps (1, 2, 4, ...) whose terms stay within double and whose rounding, with unit roundoff epsilon,
// is within the tolerance; where none is, that of the least rounding. Needs -t smallest <= kLargestExponent. One step unless
// terms of size exp(-t low) cancel down to a kernel of size exp(-t smallest): adjacency with weights of both signs.
Series plan_series(const Operator& op, double time, double tolerance, double epsilon, double operator_error = 0);

// Eigenvalues and eigenvectors (columns, row-major n x n) of the symmetric operator; made once.
struct Decomposition {
  std::vector<double> values, vectors;
};
Decomposition decompose(const Operator& op);
// Rows of diag(left) U diag(f) Uᵀ diag(right), row-major n x n, with f_k = exp(-t values_k), or its derivative in t.
// Between components exactly 0; the kernel of weights >= 0 nowhere negative.
std::vector<double> dense_kernel(const Operator& op, const Decomposition& d, double time, bool derivative);

}  // namespace espalier::diffusion
