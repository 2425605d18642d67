// Matrix Market, METIS and edge lists: good and malformed files, and the rules for edges given twice.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/io/graph_files.hpp>

#include <string>

using namespace espalier;

namespace {

template <class F>
std::string error_of(F f) {
  try {
    (void)f();
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}

std::string edges_of(const GraphFile& g) {
  std::string text = std::to_string(g.nodes) + ":";
  for (const Edge& e : g.edges) {
    std::string w = std::to_string(e.weight);
    w.erase(w.find_last_not_of('0') + 1);
    text += " " + std::to_string(e.u) + "-" + std::to_string(e.v) + "=" + w;
  }
  return text;
}

}  // namespace

TEST_CASE("edge lists: header, comments, both directions, repeated edges") {
  CHECK(edges_of(parse_edge_list("# toy, nodes 5 edges 2\n0 1\n% c\n2 1 0.5 # tail\n", "g")) == "5: 0-1=1. 1-2=0.5");
  CHECK(edges_of(parse_edge_list("# Nodes: 4 Edges: 1\n3 0\n", "g")) == "4: 0-3=1.");
  CHECK(edges_of(parse_edge_list("1 0 2\n0 1 2\n1 1\n", "g")) == "2: 0-1=2. 1-1=1.");
  const auto g = parse_edge_list("0 1 2\n0 1 3\n1 0 5\n", "g");
  CHECK(edges_of(g) == "2: 0-1=5.");
  REQUIRE(g.warnings.size() == 1);
  CHECK(g.warnings[0] == "g:2: 1 edge is given again in the same direction (weights added)");
  CHECK(edges_of(parse_edge_list("", "g")) == "0:");
}

TEST_CASE("the first edge of negative weight is known by its line") {
  const auto where = [](const GraphFile& g) {
    return std::to_string(g.negative_line) + ": " + std::to_string(g.negative.u) + "-" + std::to_string(g.negative.v) + " " +
           std::to_string(static_cast<int>(g.negative.weight));
  };
  CHECK(parse_edge_list("0 1\n1 2 0.5\n", "g").negative_line == 0);
  // Edges are sorted by node, lines are not.
  CHECK(where(parse_edge_list("# c\n5 4 -2\n0 1 -3\n", "g")) == "2: 5-4 -2");
  // The same arc twice adds: what counts is the sum, where it is complete.
  CHECK(parse_edge_list("0 1 -1\n0 1 2\n", "g").negative_line == 0);
  CHECK(where(parse_edge_list("0 1 1\n2 3\n0 1 -8\n", "g")) == "3: 0-1 -7");
  CHECK(where(parse_matrix_market("%%MatrixMarket matrix coordinate real symmetric\n3 3 2\n2 1 1\n3 1 -4\n", "g")) ==
        "4: 2-0 -4");
  CHECK(where(parse_metis("3 2 1\n2 1\n1 1 3 -6\n2 -6\n", "g")) == "3: 1-2 -6");
}

TEST_CASE("edge lists: malformed files name the line") {
  const std::pair<std::string, std::string> cases[] = {
      {"0 1 1\n1 0 2\n",
       "g:2: the edge between 1 and 0 (0-based) has the weight 2 (expected 1 as in the other direction: the graph is "
       "undirected)"},
      {"0\n", "g:1: the line ends early (expected the other node's number)"},
      {"a b\n", "g:1: 'a' (expected a node's number)"},
      {"0 1 x\n", "g:1: 'x' (expected a finite weight)"},
      {"0 1 inf\n", "g:1: 'inf' (expected a finite weight)"},
      {"0 1 1 1\n", "g:1: extra '1' (expected `u v [weight]`)"},
      {"\n-1 0\n", "g:2: node -1 (expected 0 .. 2147483646)"},
      {"# nodes 3\n0 3\n", "g:2: node 3 (expected 0 .. 2, by the header's nodes)"},
      {"0 99999999999\n", "g:1: node 99999999999 (expected 0 .. 2147483646)"},
      {"0 1 1e308\n0 1 1e308\n", "g:2: the sum of an edge's weights overflows"},
  };
  for (const auto& [text, expected] : cases) {
    CHECK(error_of([&, &input = text] { return parse_edge_list(input, "g"); }) == expected);
  }
}

TEST_CASE("Matrix Market: fields, symmetry") {
  CHECK(edges_of(parse_matrix_market("%%MatrixMarket matrix coordinate pattern symmetric\n% c\n\n3 3 2\n2 1\n3 3\n", "m")) ==
        "3: 0-1=1. 2-2=1.");
  CHECK(edges_of(parse_matrix_market("%%MatrixMarket MATRIX Coordinate Real General\n3 3 3\n1 2 0.5\n2 1 0.5\n3 1 -2e0\n",
                                     "m")) == "3: 0-1=0.5 0-2=-2.");
  CHECK(edges_of(parse_matrix_market("%%MatrixMarket matrix coordinate integer general\n2 2 1\n1 2 7\n", "m")) == "2: 0-1=7.");
  const auto xy = parse_matrix_market_array("%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n4\n", "m");
  CHECK(xy.values == std::vector<double>{1, 3, 2, 4});
}

TEST_CASE("Matrix Market: malformed files") {
  const std::string h = "%%MatrixMarket matrix coordinate real general\n";
  const std::pair<std::string, std::string> cases[] = {
      {"", "m: no Matrix Market file (expected %%MatrixMarket)"},
      {"1 1 1\n", "m:1: no Matrix Market file (expected %%MatrixMarket)"},
      {"%%MatrixMarket matrix array real general\n", "m:1: format 'array' (expected coordinate)"},
      {"%%MatrixMarket matrix coordinate complex general\n", "m:1: field 'complex' (expected real or integer or pattern)"},
      {"%%MatrixMarket matrix coordinate real hermitian\n", "m:1: symmetry 'hermitian' (expected general or symmetric)"},
      {h, "m:1: the file ends before the sizes"},
      {h + "2 3 1\n1 1 1\n", "m:2: a matrix of 2 x 3 (expected a square one for a graph)"},
      {h + "2 2 2\n1 1 1\n", "m: 1 entries (expected 2 by the header)"},
      {h + "2 2 1\n1 1 1\n1 2 1\n", "m:4: more than the 1 entries of the header"},
      {h + "2 2 1\n0 1 1\n", "m:3: index 0 (expected 1 .. 2)"},
      {h + "2 2 1\n1 3 1\n", "m:3: index 3 (expected 1 .. 2)"},
      {h + "2 2 1\n1 1\n", "m:3: the line ends early (expected a finite weight)"},
      {h + "2 2 1\n1 1 nan\n", "m:3: 'nan' (expected a finite weight)"},
      {h + "2 2\n", "m:2: the line ends early (expected the number of entries)"},
      {h + "99999999999 99999999999 0\n", "m:2: 99999999999 nodes (expected 0 .. 2147483647)"},
      {h + "2 2 2\n1 2 1\n2 1 3\n",
       "m:4: the edge between 1 and 0 (0-based) has the weight 3 (expected 1 as in the other direction: the graph is "
       "undirected)"},
  };
  for (const auto& [text, expected] : cases) {
    CHECK(error_of([&, &input = text] { return parse_matrix_market(input, "m"); }) == expected);
  }
}

TEST_CASE("METIS: weights, skipped numbers, isolated nodes") {
  CHECK(edges_of(parse_metis("% c\n4 2\n2\n1 3\n2\n\n", "g")) == "4: 0-1=1. 1-2=1.");
  CHECK(edges_of(parse_metis("2 1 1\n2 5\n1 5\n", "g")) == "2: 0-1=5.");
  CHECK(edges_of(parse_metis("2 1 10\n9 2\n9 1\n", "g")) == "2: 0-1=1.");
  CHECK(edges_of(parse_metis("2 1 11 2\n9 9 2 4\n9 9 1 4\n", "g")) == "2: 0-1=4.");
  CHECK(edges_of(parse_metis("2 1 100\n9 2\n9 1\n", "g")) == "2: 0-1=1.");
  CHECK(edges_of(parse_metis("2 1 0\n2 \n1 \n\n\n", "g")) == "2: 0-1=1.");
}

TEST_CASE("METIS: malformed files") {
  const std::pair<std::string, std::string> cases[] = {
      {"", "g: no header (expected `nodes edges [fmt [ncon]]`)"},
      {"3\n", "g:1: the line ends early (expected the number of edges)"},
      {"2 1 2\n2\n1\n", "g:1: fmt '2' (expected up to three digits 0 or 1)"},
      {"2 1\n2\n", "g:2: the file ends after 1 nodes (expected 2 by the header)"},
      {"2 1\n2\n1\n1\n", "g:4: more lines than the 2 nodes of the header"},
      {"2 1\n3\n1\n", "g:2: neighbour 3 (expected 1 .. 2)"},
      {"2 1\n0\n1\n", "g:2: neighbour 0 (expected 1 .. 2)"},
      {"2 1\n2\n\n", "g:2: node 1 names node 2, which does not name it (expected each edge in the lines of both ends)"},
      {"2 3\n2\n1\n", "g: 1 edges (expected 3 by the header)"},
      {"2 1 1\n2\n1 1\n", "g:2: the line ends early (expected the edge's finite weight)"},
      {"2 1 1\n2 1\n1 2\n",
       "g:3: the edge between 1 and 0 (0-based) has the weight 2 (expected 1 as in the other direction: the graph is "
       "undirected)"},
  };
  for (const auto& [text, expected] : cases) {
    CHECK(error_of([&, &input = text] { return parse_metis(input, "g"); }) == expected);
  }
}
