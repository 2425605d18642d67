// Truth for diffusion on graphs too large for a dense matrix: a plain Chebyshev loop in double, of twice the degree needed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/graphs/graph.hpp>

#include <vector>

namespace espalier::test {

// exp(-time (D - A)) x for the Laplacian, exp(time A) x for the adjacency (laplacian = false); x has one value a node.
//
// Shares nothing with the library but the graph's arrays: the interval is Gershgorin's (degrees) or `radius` where that is
// given (a known upper bound of A's spectral radius), the coefficients are cosine sums (midpoint rule, exact to rounding), the
// degree is twice the first one whose coefficients are all below 1e-16 of the largest. One column at a time.
// Error: rounding only, about 1e-16 degree relative to ||x||; for the adjacency relative to exp(time radius).
std::vector<double> chebyshev_exponential(const Graph& graph, double time, bool laplacian, const std::vector<double>& x,
                                          double radius = 0);

}  // namespace espalier::test
