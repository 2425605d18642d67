// What a tree mask prepares on the host: the sweep layout, edge factors, and path sums for dense entries.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/graphs/tree.hpp>

#include "backend/sweep.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace espalier {

// Arrays of a backend::SweepForest; depends on the tree's shape only, shared by all masks on it.
class SweepLayout {
 public:
  explicit SweepLayout(const Tree& tree);
  backend::SweepForest<Cpu> forest() const;

 private:
  std::vector<std::int32_t> node_;
  std::vector<std::uint8_t> shape_;
  std::vector<Index> tree_start_, light_start_, chunk_start_;
};

// log e of every edge by position: slope . weight (0 at roots). weights: [size, slope.size()] by node.
// Errors: ValueError naming the node where e itself or its inverse leaves the range of double.
std::vector<double> log_factors(const Tree& tree, std::span<const double> weights, std::span<const double> slope);

// Weights of the edges by position (weight_width 1; 0 at roots).
std::vector<double> edge_lengths(const Tree& tree);

// Arrays of a backend::SweepFactors.
class EdgeFactors {
 public:
  explicit EdgeFactors(const std::vector<double>& log_factor);
  backend::SweepFactors<Cpu> factors(double scale, double between) const;

 private:
  std::vector<double> factor_;
  std::vector<std::uint8_t> near_one_;
};

// Sums of one number per edge over paths, O(size of the tree) a source; all arrays by position.
class PathSums {
 public:
  PathSums(const Tree& tree, std::vector<double> step);
  // Positions of the tree that holds `source`: [begin, end).
  std::pair<Index, Index> range(Index source) const;
  // out[q] = sum of steps on the path from source to q, for q in range(source).
  void from(Index source, double* out) const;
  // edge_bar[q] += sum of pair[r] over all r whose path from source uses the edge above q. pair is overwritten.
  void add_edge_sums(Index source, double* pair, double* edge_bar) const;
  const std::vector<double>& step() const { return step_; }

 private:
  const std::vector<Index>* parent_;
  std::vector<double> step_;
  std::vector<Index> begin_, end_;  // by position: the range of its tree
};

// out[i * size + j] = value(path sum from i to j), `between` across trees; exactly symmetric. O(size^2), all cores.
// Errors: ValueError for a value that is not finite; what `value` throws.
template <class T>
void form_tree_entries(const Tree& tree, const PathSums& sums, const std::string& name,
                       const std::function<double(double)>& value, double between, T* out);

// f as factor exp(slope d) over all distances that the tree can have, negative ones included where a weight is.
std::optional<ExponentialForm> exponential_on(const DistanceFunction& f, const Tree& tree);

// df / dp = (constant + linear d) exp(slope d) for each parameter p: what a sweep can integrate. Empty where a parameter's
// derivative is not of this kind.
struct SweepDerivative {
  double constant, linear;
};
std::optional<std::vector<SweepDerivative>> sweep_derivatives(const DistanceFunction& f, double slope, const Tree& tree);

// parameter_bar[p] = sum_ij g[i * size + j] df/dp(dist(i, j)) over pairs in one tree. O(size^2) and, where distances are
// no small integers, times parameters.
template <class T>
std::vector<double> fold_function_gradient(const Tree& tree, const PathSums& sums, const DistanceFunction& f, const T* g);

// For M = scale exp(path sum of log e): edge_bar[p] = ds / d log e_p by position and, returned, s = sum_ij g_ij M_ij, over
// pairs in one tree.
template <class T>
double fold_edge_gradient(const Tree& tree, const PathSums& log_sums, double scale, const T* g, double* edge_bar);

}  // namespace espalier
