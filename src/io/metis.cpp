// The graph format of METIS (G. Karypis, V. Kumar, METIS manual 5.1, section 4.1.1).
// SPDX-License-Identifier: Apache-2.0
#include <espalier/io/graph_files.hpp>

#include "io/arcs.hpp"
#include "io/lines.hpp"

namespace espalier {

namespace {

struct MetisHeader {
  Index nodes = 0, edges = 0;
  Index skipped = 0;  // numbers before the neighbours: node size and node weights
  bool edge_weights = false;
};

// A line that is no comment; blank lines count, they are nodes without neighbours.
bool next_line(Lines& lines) {
  while (lines.next()) {
    if (lines.line().empty() || lines.line()[0] != '%') return true;
  }
  return false;
}

MetisHeader read_header(Lines& lines) {
  do {
    if (!next_line(lines)) lines.fail("no header (expected `nodes edges [fmt [ncon]]`)");
  } while (lines.blank());
  MetisHeader h;
  h.nodes = lines.integer("the number of nodes");
  h.edges = lines.integer("the number of edges");
  if (h.nodes < 0 || h.nodes > most_nodes) lines.fail(std::to_string(h.nodes) + " nodes (expected 0 .. 2147483647)");
  if (h.edges < 0) lines.fail(std::to_string(h.edges) + " edges (expected >= 0)");
  std::string fmt(lines.word());
  if (fmt.empty()) fmt = "0";
  if (fmt.size() > 3 || fmt.find_first_not_of("01") != std::string::npos) {
    lines.fail("fmt " + shown(fmt) + " (expected up to three digits 0 or 1)");
  }
  fmt.insert(0, 3 - fmt.size(), '0');
  Index constraints = fmt[1] == '1' ? 1 : 0;
  if (!lines.blank()) {
    const Index ncon = lines.integer("ncon");
    if (ncon < 0 || ncon > 1000) lines.fail("ncon " + std::to_string(ncon) + " (expected 0 .. 1000)");
    if (fmt[1] == '1') constraints = ncon;
  }
  lines.expect_end("`nodes edges [fmt [ncon]]`");
  h.skipped = (fmt[0] == '1' ? 1 : 0) + constraints;
  h.edge_weights = fmt[2] == '1';
  return h;
}

}  // namespace

GraphFile parse_metis(std::string_view text, const std::string& file) {
  Lines lines(text, file);
  const MetisHeader h = read_header(lines);
  std::vector<Arc> arcs;
  Index loops = 0;
  for (Index u = 0; u < h.nodes; ++u) {
    if (!next_line(lines)) {
      lines.fail("the file ends after " + std::to_string(u) + " nodes (expected " + std::to_string(h.nodes) +
                 " by the header)");
    }
    for (Index k = 0; k < h.skipped; ++k) (void)lines.number("a node's size or weight");
    while (!lines.blank()) {
      Arc arc{u, lines.integer("a neighbour"), 1.0, lines.number()};
      if (arc.v < 1 || arc.v > h.nodes) {
        lines.fail("neighbour " + std::to_string(arc.v) + " (expected 1 .. " + std::to_string(h.nodes) + ")");
      }
      --arc.v;
      if (h.edge_weights) arc.weight = lines.number("the edge's finite weight");
      if (arc.v == u) ++loops;
      arcs.push_back(arc);
    }
  }
  while (next_line(lines)) {
    if (!lines.blank()) lines.fail("more lines than the " + std::to_string(h.nodes) + " nodes of the header");
  }
  OneWay one_way;
  const auto given = static_cast<Index>(arcs.size());
  GraphFile graph = merge_arcs(h.nodes, std::move(arcs), file, &one_way);
  if (one_way.count > 0) {
    throw FormatError(file, one_way.line,
                      "node " + std::to_string(one_way.u + 1) + " names node " + std::to_string(one_way.v + 1) +
                          ", which does not name it (expected each edge in the lines of both ends)");
  }
  // Writers disagree whether a self-loop counts as one edge or a half, and whether edges given twice count twice.
  const auto distinct = static_cast<Index>(graph.edges.size());
  const bool right = h.edges == distinct || h.edges == given / 2 || h.edges == (given + loops) / 2;
  if (!right) {
    throw FormatError(file, 0, std::to_string(distinct) + " edges (expected " + std::to_string(h.edges) + " by the header)");
  }
  return graph;
}

}  // namespace espalier
