// Graph: compressed rows from edges in any order.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/graphs/graph.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

namespace es = espalier;

TEST_CASE("rows are sorted, symmetric, and repeated edges add") {
  const es::Graph g(4, {{2, 0, 1.5}, {0, 1}, {1, 0, 2}, {3, 3, 5}});
  CHECK(g.nodes() == 4);
  CHECK(g.stored() == 5);
  CHECK(g.row_start() == std::vector<es::Index>{0, 2, 3, 4, 5});
  CHECK(g.col_index() == std::vector<std::int32_t>{1, 2, 0, 0, 3});
  CHECK(g.weights() == std::vector<double>{3, 1.5, 3, 1.5, 5});
  CHECK(g.degrees() == std::vector<double>{4.5, 3, 1.5, 5});
}

TEST_CASE("empty graphs and isolated nodes") {
  CHECK(es::Graph(0, {}).nodes() == 0);
  const es::Graph g(3, {});
  CHECK(g.stored() == 0);
  CHECK(g.degrees() == std::vector<double>(3, 0.0));
}

TEST_CASE("bad edges are refused with the edge's number") {
  CHECK_THROWS_WITH_AS(es::Graph(2, {{0, 1}, {0, 2}}), "Graph: edge 1 joins 0 and 2 (expected nodes 0 .. 1)", es::ValueError);
  CHECK_THROWS_AS(es::Graph(2, {{-1, 0}}), es::ValueError);
  CHECK_THROWS_AS(es::Graph(-1, {}), es::ValueError);
  CHECK_THROWS_AS(es::Graph(es::Index{1} << 31, {}), es::ValueError);
  CHECK_THROWS_AS(es::Graph(2, {{0, 1, std::nan("")}}), es::ValueError);
  CHECK_THROWS_AS(es::Graph(2, {{0, 1, std::numeric_limits<double>::infinity()}}), es::ValueError);
  CHECK_THROWS_AS(es::Graph(2, {{0, 1, 1e308}, {1, 0, 1e308}}), es::ValueError);  // the sum is infinite
}
