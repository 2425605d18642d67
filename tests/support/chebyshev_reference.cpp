// A plain Chebyshev loop in double.
// SPDX-License-Identifier: Apache-2.0
#include "support/chebyshev_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace espalier::test {

namespace {

// Chebyshev coefficients of f(s) = exp(-z (1 + s)) on [-1, 1]: c_k = (2 / m) sum_j f(cos h_j) cos(k h_j), h_j = pi (j + 1/2) /
// m. Aliasing folds coefficients beyond m onto these: m is four times the degree where they have vanished. The cosines of k h_j
// come from a table by (k (2 j + 1)) mod 4 m: no rounding of large angles.
std::vector<double> coefficients(double z) {
  const auto vanished = static_cast<std::size_t>(40 + std::ceil(std::sqrt(90 * z)));
  const std::size_t degree = 2 * vanished, m = 4 * vanished;
  std::vector<double> cosine(4 * m), f(m), c(degree + 1);
  for (std::size_t q = 0; q < cosine.size(); ++q) {
    cosine[q] = std::cos(std::numbers::pi * static_cast<double>(q) / static_cast<double>(2 * m));
  }
  for (std::size_t j = 0; j < m; ++j) {
    // 1 + cos h = 2 cos(h / 2)^2, which keeps its digits where the exponential lives (s near -1).
    const double half = std::sin(std::numbers::pi * static_cast<double>(2 * (m - 1 - j) + 1) / static_cast<double>(4 * m));
    f[j] = std::exp(-2 * z * half * half);
  }
  for (std::size_t k = 0; k <= degree; ++k) {
    double sum = 0;
    for (std::size_t j = 0; j < m; ++j) sum += f[j] * cosine[(k * (2 * j + 1)) % (4 * m)];
    c[k] = (k == 0 ? 1.0 : 2.0) * sum / static_cast<double>(m);
  }
  return c;
}

}  // namespace

std::vector<double> chebyshev_exponential(const Graph& graph, double time, bool laplacian, const std::vector<double>& x,
                                          double radius) {
  const std::size_t n = x.size();
  const auto& start = graph.row_start();
  const auto& col = graph.col_index();
  const auto& weight = graph.weights();
  std::vector<double> degree(n, 0.0);
  double largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double absolute = 0;
    for (auto p = static_cast<std::size_t>(start[i]); p < static_cast<std::size_t>(start[i + 1]); ++p) {
      degree[i] += weight[p];
      absolute += std::abs(weight[p]);
    }
    largest = std::max(largest, absolute);
  }
  // Both operators have their spectrum in [low, low + 2 half]: the Laplacian in [0, 2 max D], -A in [-r, r].
  const double half = radius > 0 ? radius : std::max(largest, 1e-30), low = laplacian ? 0 : -half;
  const std::vector<double> c = coefficients(time * half);
  // S v = (T v - (low + half) v) / half, spectrum in [-1, 1].
  const auto scaled = [&](const std::vector<double>& v, std::vector<double>& out) {
    for (std::size_t i = 0; i < n; ++i) {
      double sum = laplacian ? degree[i] * v[i] : 0.0;
      for (auto p = static_cast<std::size_t>(start[i]); p < static_cast<std::size_t>(start[i + 1]); ++p) {
        sum -= weight[p] * v[static_cast<std::size_t>(col[p])];
      }
      out[i] = (sum - (low + half) * v[i]) / half;
    }
  };
  std::vector<double> before = x, here(n), next(n), y(n);
  scaled(before, here);
  for (std::size_t i = 0; i < n; ++i) y[i] = c[0] * before[i] + c[1] * here[i];
  for (std::size_t k = 2; k < c.size(); ++k) {
    scaled(here, next);
    for (std::size_t i = 0; i < n; ++i) {
      next[i] = 2 * next[i] - before[i];
      y[i] += c[k] * next[i];
    }
    before.swap(here);
    here.swap(next);
  }
  const double outside = std::exp(-time * low);
  for (double& v : y) v *= outside;
  return y;
}

}  // namespace espalier::test
