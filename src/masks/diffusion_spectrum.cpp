// Spectral bounds of diffusion operators: an interval that holds the spectrum, and a lower bound of the kernel's norm.
// SPDX-License-Identifier: Apache-2.0
#include "masks/diffusion_setup.hpp"

#include <espalier/core/error.hpp>

#include "core/number_text.hpp"

#include <Eigen/Eigenvalues>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

namespace espalier::diffusion {

namespace {

// y = (diag(diagonal) + |W|) x.
void absolute_product(const Operator& op, const std::vector<double>& x, std::vector<double>& y) {
  const auto& start = op.graph->row_start();
  const auto& col = op.graph->col_index();
  for (std::size_t i = 0; i < x.size(); ++i) {
    double sum = std::abs(op.diagonal[i]) * x[i];
    for (Index p = start[i]; p < start[i + 1]; ++p) {
      sum += std::abs(op.weights[static_cast<std::size_t>(p)]) * x[static_cast<std::size_t>(col[static_cast<std::size_t>(p)])];
    }
    y[i] = sum;
  }
}

// Collatz-Wielandt: for N = diag(|diagonal|) + |W| >= 0 and any x > 0, max_i (N x)_i / x_i bounds the spectral radius of N and
// so that of diag - W. Power steps on N + s I (s breaks the oscillation of bipartite graphs) make the bound tight; `vector`
// keeps x.
double spectral_bound(const Operator& op, std::vector<double>& x) {
  x.assign(op.diagonal.size(), 1.0);
  std::vector<double> y(x.size());
  double bound = std::numeric_limits<double>::infinity();
  // 60 products bring usroads from the degree bound 11 to 8.55 (true 8.22); the adjacency of hub graphs gains up to 200.
  const int products = op.kind == GraphOperator::adjacency ? 200 : 60;
  for (int step = 0; step < products; ++step) {
    absolute_product(op, x, y);
    double ratio = 0, largest = 0;
    for (std::size_t i = 0; i < x.size(); ++i) ratio = std::max(ratio, y[i] / x[i]);
    bound = std::min(bound, ratio);
    if (bound == 0 || !std::isfinite(bound)) return bound;
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = y[i] + 0.25 * bound * x[i];
      largest = std::max(largest, x[i]);
    }
    // Any positive vector is allowed: entries that have shrunk to nothing are lifted.
    for (double& v : x) v = std::max(v / largest, 1e-150);
  }
  return bound * (1 + 1e-12);
}

// y = A x.
void product(const Operator& op, const std::vector<double>& x, std::vector<double>& y) {
  const auto& start = op.graph->row_start();
  const auto& col = op.graph->col_index();
  for (std::size_t i = 0; i < x.size(); ++i) {
    double sum = 0;
    for (Index p = start[i]; p < start[i + 1]; ++p) {
      sum += op.weights[static_cast<std::size_t>(p)] * x[static_cast<std::size_t>(col[static_cast<std::size_t>(p)])];
    }
    y[i] = sum;
  }
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// x . A x / x . x: a lower bound of A's largest eigenvalue.
double rayleigh(const Operator& op, const std::vector<double>& x) {
  std::vector<double> y(x.size());
  product(op, x, y);
  const double square = dot(x, x);
  return square > 0 ? dot(x, y) / square : -std::numeric_limits<double>::infinity();
}

// The largest Rayleigh quotient on the ends of one edge: the larger eigenvalue of [a_ii a_ij; a_ij a_jj]. With a_ij = 0 this is
// the larger diagonal entry; a node without a self-loop counts with 0.
double pair_bound(const Operator& op) {
  const auto& start = op.graph->row_start();
  const auto& col = op.graph->col_index();
  std::vector<double> loop(op.diagonal.size(), 0.0);
  double largest = -std::numeric_limits<double>::infinity();
  for (const bool pairs : {false, true}) {
    for (std::size_t i = 0; i < loop.size(); ++i) {
      for (Index p = start[i]; p < start[i + 1]; ++p) {
        const auto j = static_cast<std::size_t>(col[static_cast<std::size_t>(p)]);
        const double w = op.weights[static_cast<std::size_t>(p)];
        if (!pairs && i == j) loop[i] = w;
        if (pairs && i < j) largest = std::max(largest, (loop[i] + loop[j]) / 2 + std::hypot((loop[i] - loop[j]) / 2, w));
      }
      if (!pairs) largest = std::max(largest, loop[i]);
    }
  }
  return largest;
}

// Lanczos steps on A from `x`, at most as many as `alpha` holds; fills the tridiagonal matrix, or, with `ritz` given (its
// weights), adds the Ritz vector up in `sum`. Returns the number of steps: fewer where the space is exhausted. No basis is kept
// and none is orthogonalised anew: whatever vector comes out, its Rayleigh quotient is a bound.
Index lanczos(const Operator& op, std::vector<double> x, Eigen::VectorXd& alpha, Eigen::VectorXd& beta,
              const Eigen::VectorXd* ritz, std::vector<double>& sum) {
  std::vector<double> before(x.size(), 0.0), next(x.size());
  double link = 0;
  for (Index k = 0; k < alpha.size(); ++k) {
    if (ritz != nullptr) {
      for (std::size_t i = 0; i < x.size(); ++i) sum[i] += (*ritz)[k] * x[i];
      if (k + 1 == ritz->size()) return k + 1;
    }
    product(op, x, next);
    const double own = dot(x, next);
    for (std::size_t i = 0; i < x.size(); ++i) next[i] -= own * x[i] + link * before[i];
    link = std::sqrt(dot(next, next));
    alpha[k] = own;
    if (!(link > 1e-10 * op.high)) return k + 1;
    if (k < beta.size()) beta[k] = link;
    before.swap(x);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = next[i] / link;
  }
  return alpha.size();
}

// A lower bound of the largest eigenvalue of an A with weights of both signs (op.high bounds its spectral radius): the Rayleigh
// quotient of the Ritz vector of 60 Lanczos steps, run twice so that no basis is kept. On 1500 nodes with weights +-1 it is
// within 1e-8 of the eigenvalue.
double signed_bound(const Operator& op) {
  std::vector<double> x(op.diagonal.size()), sum(x.size(), 0.0);
  std::uint64_t state = 1;
  for (double& v : x) {  // a fixed start without structure: both ends of the spectrum are in it
    state = state * 6364136223846793005u + 1442695040888963407u;
    v = static_cast<double>(state >> 11) * 0x1p-52 - 1;
  }
  const double norm = std::sqrt(dot(x, x));
  if (!(norm > 0)) return -std::numeric_limits<double>::infinity();
  for (double& v : x) v /= norm;
  const Index steps = std::min<Index>(60, static_cast<Index>(x.size()));
  Eigen::VectorXd alpha(steps), beta(steps - 1);
  const Index done = lanczos(op, x, alpha, beta, nullptr, sum);
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
  solver.computeFromTridiagonal(alpha.head(done), beta.head(done - 1));
  if (solver.info() != Eigen::Success) return -std::numeric_limits<double>::infinity();
  const Eigen::VectorXd ritz = solver.eigenvectors().col(done - 1);
  lanczos(op, x, alpha, beta, &ritz, sum);
  return rayleigh(op, sum);
}

}  // namespace

void set_interval(Operator& op) {
  std::vector<double> x;
  switch (op.kind) {
    case GraphOperator::adjacency: {
      const double radius = spectral_bound(op, x);
      op.low = -radius;
      op.high = radius;
      // For weights >= 0 the power steps' vector is the largest eigenvalue's; with both signs |A| and A part company.
      double lower = std::max(rayleigh(op, x), pair_bound(op));
      const bool both_signs = std::any_of(op.weights.begin(), op.weights.end(), [](double w) { return w < 0; });
      if (both_signs && std::isfinite(radius)) lower = std::max(lower, signed_bound(op));
      // Less what rounding may have added, never below the interval.
      op.smallest = std::min(radius, -(lower - 1e-12 * radius));
      break;
    }
    case GraphOperator::laplacian:
      op.low = op.smallest = 0;
      op.high = spectral_bound(op, x);
      break;
    case GraphOperator::normalized_laplacian:
    case GraphOperator::random_walk:
      op.low = op.smallest = 0;
      op.high = 2;
      break;
  }
  // alpha = 4 / (high - low) must be a float above the subnormal range.
  if (!(op.high <= 1e37)) {
    throw ValueError("DiffusionMask: the operator's spectrum reaches " + number_text(op.high) +
                     " (expected at most 1e37); scale the weights down and the time up");
  }
  if (op.high <= op.low) op.high = op.low + 1;  // an operator without edges: any interval holds its only eigenvalue
  // alpha in float, rounded down: the recurrence's operator is then the same in float and double, and the interval only widens.
  float alpha = static_cast<float>(4 / (op.high - op.low));
  while (static_cast<double>(alpha) > 4 / (op.high - op.low)) alpha = std::nextafter(alpha, 0.0f);
  op.alpha = alpha;
  const double width = 4 / op.alpha;
  if (op.kind == GraphOperator::adjacency) {
    op.high = width / 2;
    op.low = -op.high;
  } else {
    op.high = op.low + width;
  }
}

}  // namespace espalier::diffusion
