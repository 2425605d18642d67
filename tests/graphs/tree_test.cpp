// Tree: validation, the sweep order's promises, distance bound.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/graphs/tree.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

using espalier::Index;
using espalier::Tree;

namespace {

// Random forest whose nodes are numbered at random, so that parents come before and after their children.
std::vector<Index> random_parents(Index n, Index roots, std::uint64_t seed) {
  const espalier::Random random(seed);
  std::vector<Index> name(static_cast<std::size_t>(n));
  for (Index v = 0; v < n; ++v) name[static_cast<std::size_t>(v)] = v;
  for (Index v = n - 1; v > 0; --v) {
    std::swap(name[static_cast<std::size_t>(v)],
              name[random.below(static_cast<std::uint64_t>(v), static_cast<std::uint64_t>(v) + 1)]);
  }
  std::vector<Index> parent(static_cast<std::size_t>(n), -1);
  for (Index v = roots; v < n; ++v) {
    const auto p = random.below(static_cast<std::uint64_t>(n + v), static_cast<std::uint64_t>(v));
    parent[static_cast<std::size_t>(name[static_cast<std::size_t>(v)])] = name[p];
  }
  return parent;
}

void check_order(const Tree& tree) {
  const Index n = tree.size();
  std::vector<Index> position(static_cast<std::size_t>(n), -1), subtree(static_cast<std::size_t>(n), 1);
  REQUIRE(static_cast<Index>(tree.order().size()) == n);
  for (Index p = 0; p < n; ++p) {
    const Index v = tree.order()[static_cast<std::size_t>(p)];
    REQUIRE(position[static_cast<std::size_t>(v)] == -1);
    position[static_cast<std::size_t>(v)] = p;
  }
  std::vector<Index> last(static_cast<std::size_t>(n), -1);  // last child by position
  bool parents_right = true, components_right = true;
  for (Index p = 0; p < n; ++p) {
    const auto v = static_cast<std::size_t>(tree.order()[static_cast<std::size_t>(p)]);
    const Index q = tree.parent_position()[static_cast<std::size_t>(p)];
    if (tree.parent()[v] < 0) {
      parents_right = parents_right && q == -1;
    } else {
      const auto u = static_cast<std::size_t>(tree.parent()[v]);
      parents_right = parents_right && q == position[u] && q < p;
      components_right = components_right && tree.component()[v] == tree.component()[u];
      last[static_cast<std::size_t>(q)] = p;
    }
  }
  CHECK(parents_right);
  CHECK(components_right);
  for (Index p = n - 1; p >= 0; --p) {
    const Index q = tree.parent_position()[static_cast<std::size_t>(p)];
    if (q >= 0) subtree[static_cast<std::size_t>(q)] += subtree[static_cast<std::size_t>(p)];
  }
  // Contiguous subtrees: the node after the first child's subtree is the next child, and the last child is a largest one.
  bool contiguous = true, heavy_last = true;
  for (Index p = 0; p < n; ++p) {
    const Index q = tree.parent_position()[static_cast<std::size_t>(p)];
    if (q < 0) continue;
    contiguous = contiguous && p + subtree[static_cast<std::size_t>(p)] <= q + subtree[static_cast<std::size_t>(q)];
    heavy_last = heavy_last &&
                 subtree[static_cast<std::size_t>(last[static_cast<std::size_t>(q)])] >= subtree[static_cast<std::size_t>(p)];
  }
  CHECK(contiguous);
  CHECK(heavy_last);
}

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const espalier::Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("order: parents first, subtrees contiguous, heavy child last") {
  for (const Index n : {1, 2, 3, 10, 1000}) {
    for (const Index roots : {1, 3}) {
      if (roots > n) continue;
      CAPTURE(n);
      CAPTURE(roots);
      const Tree tree(random_parents(n, roots, 5));
      CHECK(tree.trees() == roots);
      check_order(tree);
    }
  }
  CHECK(Tree({}).size() == 0);
  CHECK(Tree({}).trees() == 0);
}

TEST_CASE("a known tree") {
  // Node 2 is the root with children 0 and 3; 0 has the children 1 and 4, so its subtree is the heavy one and comes last.
  // Of the equal subtrees 1 and 4 the last counts as heavy.
  const Tree tree({2, 0, -1, 2, 0}, {1, 2, 99, -4, 8});
  CHECK(tree.order() == std::vector<Index>{2, 3, 0, 1, 4});
  CHECK(tree.parent_position() == std::vector<Index>{-1, 0, 0, 2, 2});
  CHECK(tree.distance_bound() == 18);
  CHECK(tree.weights()[2] == 0);
  CHECK(tree.unweighted().distance_bound() == 4);
}

TEST_CASE("a path and a star of a million nodes") {
  const Index n = 1000000;
  std::vector<Index> path(static_cast<std::size_t>(n)), star(static_cast<std::size_t>(n), n - 1);
  for (Index v = 0; v < n; ++v) path[static_cast<std::size_t>(v)] = v + 1 < n ? v + 1 : -1;
  star.back() = -1;
  const Tree p(path);
  CHECK(p.order()[0] == n - 1);
  CHECK(p.distance_bound() == 2.0 * static_cast<double>(n - 1));
  CHECK(Tree(star).distance_bound() == 2);
}

TEST_CASE("bad trees are named") {
  using espalier::ShapeError;
  using espalier::ValueError;
  CHECK_THROWS_AS(Tree({-1, 2}), ValueError);
  CHECK_THROWS_AS(Tree({-2}), ValueError);
  CHECK(message([] { Tree({-1, 7}); }).find("node 1 is 7") != std::string::npos);
  CHECK_THROWS_AS(Tree({0}), ValueError);
  // 3 hangs on the cycle 1 -> 2 -> 1; the text names a node on the cycle itself.
  const std::string text = message([] { Tree({-1, 2, 1, 1}); });
  CHECK((text.find("node 1;") != std::string::npos || text.find("node 2;") != std::string::npos));
  CHECK_THROWS_AS(Tree({-1, 0}, {0, std::nan("")}), ValueError);
  CHECK_THROWS_AS(Tree({-1, 0}, {0, std::numeric_limits<double>::infinity()}), ValueError);
  CHECK_NOTHROW(Tree({-1, 0}, {std::nan(""), 1}));  // a root has no edge
  CHECK_THROWS_AS(Tree({-1, 0}, {1}), ShapeError);
  CHECK_THROWS_AS(Tree({-1, 0}, {1, 2}, 2), ShapeError);
  CHECK_THROWS_AS(Tree({-1, 0}, {}, 0), ValueError);
}
