// Compressed rows from an edge list.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/graphs/graph.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace espalier {

Graph::Graph(Index nodes, const std::vector<Edge>& edges) {
  if (nodes < 0 || nodes > std::numeric_limits<std::int32_t>::max()) {
    throw ValueError("Graph: " + std::to_string(nodes) + " nodes (expected 0 .. 2^31 - 1)");
  }
  row_start_.assign(static_cast<std::size_t>(nodes) + 1, 0);
  for (std::size_t e = 0; e < edges.size(); ++e) {
    const Edge& edge = edges[e];
    if (edge.u < 0 || edge.v < 0 || edge.u >= nodes || edge.v >= nodes) {
      throw ValueError("Graph: edge " + std::to_string(e) + " joins " + std::to_string(edge.u) + " and " +
                       std::to_string(edge.v) + " (expected nodes 0 .. " + std::to_string(nodes - 1) + ")");
    }
    if (!std::isfinite(edge.weight)) throw ValueError("Graph: the weight of edge " + std::to_string(e) + " is not finite");
    ++row_start_[static_cast<std::size_t>(edge.u) + 1];
    if (edge.u != edge.v) ++row_start_[static_cast<std::size_t>(edge.v) + 1];
  }
  for (std::size_t i = 1; i < row_start_.size(); ++i) row_start_[i] += row_start_[i - 1];
  std::vector<std::pair<std::int32_t, double>> entries(static_cast<std::size_t>(row_start_.back()));
  std::vector<Index> next(row_start_.begin(), row_start_.end() - 1);
  const auto put = [&](Index row, Index col, double w) {
    entries[static_cast<std::size_t>(next[static_cast<std::size_t>(row)]++)] = {static_cast<std::int32_t>(col), w};
  };
  for (const Edge& edge : edges) {
    put(edge.u, edge.v, edge.weight);
    if (edge.u != edge.v) put(edge.v, edge.u, edge.weight);
  }
  // Sort each row by column (stable: repeated edges add in input order on both sides) and merge repeats.
  std::vector<Index> start(row_start_.size(), 0);
  for (Index i = 0; i < nodes; ++i) {
    const auto first = entries.begin() + row_start_[static_cast<std::size_t>(i)];
    const auto last = entries.begin() + row_start_[static_cast<std::size_t>(i) + 1];
    std::stable_sort(first, last, [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto e = first; e != last; ++e) {
      if (e != first && e->first == col_index_.back()) {
        weights_.back() += e->second;
        if (!std::isfinite(weights_.back())) {
          throw ValueError("Graph: the weights given for " + std::to_string(i) + " and " + std::to_string(e->first) +
                           " add up to no finite number");
        }
      } else {
        col_index_.push_back(e->first);
        weights_.push_back(e->second);
      }
    }
    start[static_cast<std::size_t>(i) + 1] = static_cast<Index>(col_index_.size());
  }
  row_start_ = std::move(start);
}

std::vector<double> Graph::degrees() const {
  std::vector<double> d(static_cast<std::size_t>(nodes()));
  for (std::size_t i = 0; i < d.size(); ++i) {
    for (Index p = row_start_[i]; p < row_start_[i + 1]; ++p) d[i] += weights_[static_cast<std::size_t>(p)];
  }
  return d;
}

}  // namespace espalier
