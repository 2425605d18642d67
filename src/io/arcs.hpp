// Arcs as they stand in a graph file, and the rules that make one undirected graph of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/io/graph_files.hpp>

#include <string>
#include <vector>

namespace espalier {

struct Arc {
  Index u, v;
  double weight;
  Index line;
};

// `u v` again adds its weight (one warning); then `u v` and `v u` of equal weight are one edge, otherwise a FormatError.
// one_way (may be null) receives the number of edges that were given in one direction only, and the first one's line.
struct OneWay {
  Index count = 0, line = 0, u = 0, v = 0;
};
GraphFile merge_arcs(Index nodes, std::vector<Arc> arcs, const std::string& file, OneWay* one_way = nullptr);

// Largest number of nodes (columns are stored in 32 bits).
inline constexpr Index most_nodes = 2147483647;

}  // namespace espalier
