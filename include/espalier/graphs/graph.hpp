// An undirected weighted graph in compressed rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <cstdint>
#include <vector>

namespace espalier {

// One edge u - v of weight w; u = v is a self-loop.
struct Edge {
  Index u, v;
  double weight = 1;
};

// A symmetric adjacency matrix A (nodes x nodes) in compressed sparse rows; columns ascend inside a row.
// A self-loop is stored once and counts once in the degree. Immutable.
class ESPALIER_EXPORT Graph {
 public:
  // Edges in any order; each edge is given once (u, v in either order); the same pair given again adds its weight.
  // Errors: ValueError for nodes outside 0 .. nodes - 1, NaN or infinite weights or sums of them; more than 2^31 - 1 nodes.
  Graph(Index nodes, const std::vector<Edge>& edges);

  Index nodes() const { return static_cast<Index>(row_start_.size()) - 1; }
  Index stored() const { return row_start_.back(); }  // nonzeros of A
  const std::vector<Index>& row_start() const { return row_start_; }
  const std::vector<std::int32_t>& col_index() const { return col_index_; }
  const std::vector<double>& weights() const { return weights_; }
  // D_uu = sum_v A_uv.
  std::vector<double> degrees() const;

 private:
  std::vector<Index> row_start_;
  std::vector<std::int32_t> col_index_;
  std::vector<double> weights_;
};

}  // namespace espalier
