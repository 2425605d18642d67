// Undirected weighted graphs from files: Matrix Market, METIS, edge lists. Also point coordinates for pictures.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>
#include <espalier/graphs/graph.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace espalier {

// An undirected graph as read: each edge once, 0-based, u <= v, sorted; weights finite.
//
// `u v` and `v u` of equal weight are one edge, of different weights a FormatError that names the line. The same `u v` given
// again adds its weight, with one warning a file.
struct GraphFile {
  Index nodes = 0;
  std::vector<Edge> edges;
  std::vector<std::string> warnings;
  // The first line that gives an edge of negative weight; 0 where there is none.
  Index negative_line = 0;
  Edge negative{};
};

// Reads by the name's ending (before .gz): .mtx, .graph, .txt, .edges. nodes >= 0 adds isolated nodes at the end.
// Errors: FormatError with file and line; ValueError when `nodes` is fewer than the file has, or more than 2^31 - 1.
ESPALIER_EXPORT GraphFile read_graph_file(const std::string& path, Index nodes = -1);

// Matrix Market, `coordinate`, real, integer or pattern, general or symmetric, square; 1-based on disk.
ESPALIER_EXPORT GraphFile parse_matrix_market(std::string_view text, const std::string& file);
// METIS: header `nodes edges [fmt [ncon]]`, then a line a node; fmt's digits: node sizes, node weights (both skipped), edge
// weights. `%` starts a comment line; 1-based on disk. Every edge stands in the lines of both its ends.
ESPALIER_EXPORT GraphFile parse_metis(std::string_view text, const std::string& file);
// Edge list: `u v [weight]`, 0-based; `#` and `%` start comments; a leading comment `# ... nodes N ...` gives N, otherwise N is
// the largest index + 1.
ESPALIER_EXPORT GraphFile parse_edge_list(std::string_view text, const std::string& file);

// Matrix Market `array real|integer general`: rows x columns, returned row-major (the file is column-major).
struct MatrixFile {
  Index rows = 0, cols = 0;
  std::vector<double> values;
};
ESPALIER_EXPORT MatrixFile parse_matrix_market_array(std::string_view text, const std::string& file);

}  // namespace espalier
