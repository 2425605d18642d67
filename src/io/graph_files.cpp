// The rules for edges given twice, and the choice of the reader by the file's name.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/files.hpp>
#include <espalier/io/graph_files.hpp>

#include "io/arcs.hpp"
#include "io/lines.hpp"

#include <algorithm>
#include <cctype>
#include <sstream>
#include <tuple>

namespace espalier {

namespace {

std::string weight_text(double w) {
  std::ostringstream out;
  out.precision(10);
  out << w;
  return out.str();
}

}  // namespace

GraphFile merge_arcs(Index nodes, std::vector<Arc> arcs, const std::string& file, OneWay* one_way) {
  // By pair, then direction, then line: equal arcs become neighbours, and u v stands beside v u.
  std::sort(arcs.begin(), arcs.end(), [](const Arc& a, const Arc& b) {
    return std::tuple(std::min(a.u, a.v), std::max(a.u, a.v), a.u > a.v, a.line) <
           std::tuple(std::min(b.u, b.v), std::max(b.u, b.v), b.u > b.v, b.line);
  });
  GraphFile graph;
  graph.nodes = nodes;
  Index repeated = 0, first_line = 0;
  for (std::size_t i = 0; i < arcs.size();) {
    Arc arc = arcs[i++];
    const bool first_direction =
        graph.edges.empty() || graph.edges.back().u != std::min(arc.u, arc.v) || graph.edges.back().v != std::max(arc.u, arc.v);
    for (; i < arcs.size() && arcs[i].u == arc.u && arcs[i].v == arc.v; ++i) {
      arc.weight += arcs[i].weight;
      if (repeated++ == 0 || arcs[i].line < first_line) first_line = arcs[i].line;
      arc.line = arcs[i].line;
    }
    if (!std::isfinite(arc.weight)) throw FormatError(file, arc.line, "the sum of an edge's weights overflows");
    if (arc.weight < 0 && (graph.negative_line == 0 || arc.line < graph.negative_line)) {
      graph.negative_line = arc.line;
      graph.negative = {arc.u, arc.v, arc.weight};
    }
    if (first_direction) {
      graph.edges.push_back({std::min(arc.u, arc.v), std::max(arc.u, arc.v), arc.weight});
      const bool other = i < arcs.size() && arcs[i].u == arc.v && arcs[i].v == arc.u;
      if (one_way != nullptr && !other && arc.u != arc.v && one_way->count++ == 0) {
        one_way->line = arc.line;
        one_way->u = arc.u;
        one_way->v = arc.v;
      }
    } else if (graph.edges.back().weight != arc.weight) {
      throw FormatError(file, arc.line,
                        "the edge between " + std::to_string(arc.u) + " and " + std::to_string(arc.v) +
                            " (0-based) has the weight " + weight_text(arc.weight) + " (expected " +
                            weight_text(graph.edges.back().weight) + " as in the other direction: the graph is undirected)");
    }
  }
  if (repeated > 0) {
    graph.warnings.push_back(file + ":" + std::to_string(first_line) + ": " + std::to_string(repeated) +
                             (repeated == 1 ? " edge is" : " edges are") +
                             " given again in the same direction (weights added)");
  }
  return graph;
}

GraphFile parse_edge_list(std::string_view text, const std::string& file) {
  std::vector<Arc> arcs;
  Index nodes = -1, largest = -1;
  bool leading = true;
  for (Lines lines(text, file); lines.next();) {
    if (leading && nodes < 0 && !lines.line().empty() && lines.line()[0] == '#') {
      std::string words(lines.line());
      for (char& c : words)
        c = c == ':' || c == ',' || c == '=' || c == '#' ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      const std::string none;
      Lines header(words, none);
      header.next();
      for (auto w = header.word(); !w.empty(); w = header.word()) {
        if (w != "nodes") continue;
        const auto n = integer_of(header.word());
        if (!n) continue;
        if (*n < 0 || *n > most_nodes) lines.fail("nodes " + std::to_string(*n) + " (expected 0 .. 2147483647)");
        nodes = *n;
        break;
      }
    }
    lines.drop_comment("#%");
    if (lines.blank()) continue;
    leading = false;
    Arc arc{lines.integer("a node's number"), lines.integer("the other node's number"), 1.0, lines.number()};
    if (!lines.blank()) arc.weight = lines.number("a finite weight");
    lines.expect_end("`u v [weight]`");
    for (const Index v : {arc.u, arc.v}) {
      const Index limit = nodes >= 0 ? nodes : most_nodes;
      if (v < 0 || v >= limit) {
        lines.fail("node " + std::to_string(v) + " (expected 0 .. " + std::to_string(limit - 1) +
                   (nodes >= 0 ? ", by the header's nodes)" : ")"));
      }
      largest = std::max(largest, v);
    }
    arcs.push_back(arc);
  }
  return merge_arcs(nodes >= 0 ? nodes : largest + 1, std::move(arcs), file);
}

GraphFile read_graph_file(const std::string& path, Index nodes) {
  const std::string name = name_without_gz(path);
  GraphFile graph;
  if (name.ends_with(".mtx")) {
    graph = parse_matrix_market(read_whole_file(path), path);
  } else if (name.ends_with(".graph") || name.ends_with(".metis")) {
    graph = parse_metis(read_whole_file(path), path);
  } else if (name.ends_with(".txt") || name.ends_with(".edges")) {
    graph = parse_edge_list(read_whole_file(path), path);
  } else {
    throw FormatError(path, 0, "unknown kind of graph file (expected .mtx, .graph, .txt or .edges)");
  }
  if (nodes < 0) return graph;
  if (nodes < graph.nodes) {
    throw ValueError(std::to_string(nodes) + " nodes (expected at least the " + std::to_string(graph.nodes) + " of " + path +
                     ")");
  }
  if (nodes > most_nodes) throw ValueError(std::to_string(nodes) + " nodes (expected at most 2147483647)");
  graph.nodes = nodes;
  return graph;
}

}  // namespace espalier
