// A forest as a parent array with edge weights, in sweep order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <vector>

namespace espalier {

// A forest of `size` nodes, at most 2^31 - 1. parent[v] is v's parent or -1 for a root; weight[v * weight_width + k] is
// component k of the edge from v to its parent (ignored for roots; any sign; default 1). Parents may come after their children
// in the input. Immutable after construction. Memory: about 40 bytes a node. Set-up: O(size), no recursion.
class ESPALIER_EXPORT Tree {
 public:
  // Errors: ValueError for a parent outside -1 .. size - 1, a cycle (the text names one node on it), NaN or infinite
  // weights (of nodes that are no roots), weight_width < 1; ShapeError when weights has not size * weight_width elements
  // (empty: all 1).
  explicit Tree(std::vector<Index> parent, std::vector<double> weights = {}, Index weight_width = 1);

  Index size() const { return static_cast<Index>(parent_.size()); }
  Index weight_width() const { return weight_width_; }
  const std::vector<Index>& parent() const { return parent_; }
  // [size, weight_width]; 0 at roots, whatever was given there.
  const std::vector<double>& weights() const { return weights_; }

  // Nodes so that every parent comes before its children, each tree in one piece, trees by the number of their root:
  // depth-first, children by number except that one with the largest subtree (of equals the last) comes last. Subtrees are
  // contiguous, and because the largest comes last a sweep in either direction has at most log2(size) + 1 unfinished nodes that
  // it must come back to: its states stay in the first-level cache, on a path of 10^6 nodes as on a star. order()[p] is the
  // node at position p.
  const std::vector<Index>& order() const { return order_; }
  // parent_position()[p]: position of the parent of the node at position p, -1 for roots; always < p.
  const std::vector<Index>& parent_position() const { return parent_position_; }
  // Number of the tree that a node belongs to, 0 .. trees() - 1, in the order of the roots.
  const std::vector<Index>& component() const { return component_; }
  Index trees() const { return trees_; }
  // Sum of |weight| (component 0) on the longest root-to-node path, times 2: a bound on any distance.
  double distance_bound() const;
  // The same tree with all weights 1 (one component).
  Tree unweighted() const;

 private:
  std::vector<Index> parent_;
  std::vector<double> weights_;
  Index weight_width_;
  std::vector<Index> order_, parent_position_, component_;
  Index trees_ = 0;
};

}  // namespace espalier
