// Tree: validation, depth-first order with the heavy child last, distance bound.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/graphs/tree.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

namespace espalier {

namespace {

void check_parents(const std::vector<Index>& parent) {
  const auto n = static_cast<Index>(parent.size());
  if (n > std::numeric_limits<std::int32_t>::max()) {
    throw ValueError("tree: " + std::to_string(n) + " nodes; at most 2147483647 are supported");
  }
  for (Index v = 0; v < n; ++v) {
    if (parent[v] < -1 || parent[v] >= n) {
      throw ValueError("tree: parent of node " + std::to_string(v) + " is " + std::to_string(parent[v]) +
                       "; expected -1 (a root) or a node 0 .. " + std::to_string(n - 1));
    }
  }
}

// Children of v: child[start[v]] .. child[start[v + 1] - 1], ascending; roots are the children of node n.
struct Children {
  std::vector<Index> start, child;
  explicit Children(const std::vector<Index>& parent) {
    const auto n = static_cast<Index>(parent.size());
    const auto owner = [&](Index v) { return parent[v] < 0 ? n : parent[v]; };
    start.assign(static_cast<std::size_t>(n) + 2, 0);
    child.resize(static_cast<std::size_t>(n));
    for (Index v = 0; v < n; ++v) ++start[owner(v) + 1];
    for (Index v = 0; v <= n; ++v) start[v + 1] += start[v];
    std::vector<Index> next(start.begin(), start.end() - 1);
    for (Index v = 0; v < n; ++v) child[next[owner(v)]++] = v;
  }
};

[[noreturn]] void throw_cycle(const std::vector<Index>& parent, const std::vector<char>& reached) {
  Index v = std::find(reached.begin(), reached.end(), 0) - reached.begin();
  // A node that no root reaches has only such ancestors, so as many steps up as there are nodes end on the cycle.
  for (std::size_t step = 0; step < parent.size(); ++step) v = parent[v];
  throw ValueError("tree: the parents form a cycle through node " + std::to_string(v) + "; a root has parent -1");
}

}  // namespace

Tree::Tree(std::vector<Index> parent, std::vector<double> weights, Index weight_width)
    : parent_(std::move(parent)), weights_(std::move(weights)), weight_width_(weight_width) {
  const Index n = size();
  if (weight_width < 1) throw ValueError("tree: weight_width is " + std::to_string(weight_width) + "; expected at least 1");
  check_parents(parent_);
  if (weights_.empty()) weights_.assign(static_cast<std::size_t>(n * weight_width), 1.0);
  if (static_cast<Index>(weights_.size()) != n * weight_width) {
    throw ShapeError("tree weights", static_cast<Index>(weights_.size()), n * weight_width);
  }
  for (Index v = 0; v < n; ++v) {
    for (Index k = 0; k < weight_width; ++k) {
      double& w = weights_[v * weight_width + k];
      if (parent_[v] < 0) {
        w = 0;
      } else if (!std::isfinite(w)) {
        throw ValueError("tree: the weight of node " + std::to_string(v) + " is not finite");
      }
    }
  }

  // Breadth-first from the roots: parents before children, whatever the numbering; what is not reached hangs on a cycle.
  const Children children(parent_);
  std::vector<Index> breadth(children.child.begin() + children.start[n], children.child.end());
  trees_ = static_cast<Index>(breadth.size());
  breadth.reserve(static_cast<std::size_t>(n));
  for (std::size_t q = 0; q < breadth.size(); ++q) {
    const Index v = breadth[q];
    breadth.insert(breadth.end(), children.child.begin() + children.start[v], children.child.begin() + children.start[v + 1]);
  }
  if (static_cast<Index>(breadth.size()) < n) {
    std::vector<char> reached(static_cast<std::size_t>(n), 0);
    for (const Index v : breadth) reached[v] = 1;
    throw_cycle(parent_, reached);
  }

  std::vector<Index> subtree(static_cast<std::size_t>(n), 1);
  for (Index q = n - 1; q >= 0; --q) {
    const Index v = breadth[q];
    if (parent_[v] >= 0) subtree[parent_[v]] += subtree[v];
  }
  // A node's position is its parent's, plus one, plus the subtrees placed before its own.
  std::vector<Index> position(static_cast<std::size_t>(n));
  component_.resize(static_cast<std::size_t>(n));
  Index next_root = 0;
  for (Index t = 0; t < trees_; ++t) {
    position[breadth[t]] = next_root;
    component_[breadth[t]] = t;
    next_root += subtree[breadth[t]];
  }
  for (const Index v : breadth) {
    const Index first = children.start[v], last = children.start[v + 1];
    Index heavy = first;
    for (Index q = first; q < last; ++q) {
      if (subtree[children.child[q]] >= subtree[children.child[heavy]]) heavy = q;
    }
    Index at = position[v] + 1;
    const auto place = [&](Index child) {
      position[child] = at;
      at += subtree[child];
      component_[child] = component_[v];
    };
    for (Index q = first; q < last; ++q) {
      if (q != heavy) place(children.child[q]);
    }
    if (first < last) place(children.child[heavy]);
  }
  order_.resize(static_cast<std::size_t>(n));
  parent_position_.resize(static_cast<std::size_t>(n));
  for (Index v = 0; v < n; ++v) {
    order_[position[v]] = v;
    parent_position_[position[v]] = parent_[v] < 0 ? -1 : position[parent_[v]];
  }
}

double Tree::distance_bound() const {
  std::vector<double> depth(order_.size(), 0.0);
  double deepest = 0;
  for (std::size_t p = 0; p < order_.size(); ++p) {
    if (parent_position_[p] >= 0) depth[p] = depth[parent_position_[p]] + std::abs(weights_[order_[p] * weight_width_]);
    deepest = std::max(deepest, depth[p]);
  }
  return 2 * deepest;
}

Tree Tree::unweighted() const {
  return Tree(parent_);
}

}  // namespace espalier
