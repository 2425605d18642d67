// Parent lists and parent arrays, and the choice of the reader by the file's name.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/io/npy.hpp>
#include <espalier/io/tree_files.hpp>

#include "io/lines.hpp"

#include <cstdint>

namespace espalier {

namespace {

// Parents in range, no cycle. `line` gives the line of a node (0: the format has none).
template <class LineOf>
void check_forest(const std::vector<Index>& parent, const std::string& file, LineOf line) {
  const auto n = static_cast<Index>(parent.size());
  for (Index v = 0; v < n; ++v) {
    const Index p = parent[static_cast<std::size_t>(v)];
    if (p < -1 || p >= n) {
      throw FormatError(file, line(v),
                        "node " + std::to_string(v) + " has the parent " + std::to_string(p) + " (expected -1 .. " +
                            std::to_string(n - 1) + ")");
    }
  }
  // state: 0 not seen, 1 on the path being walked, 2 known to reach a root.
  std::vector<std::uint8_t> state(parent.size(), 0);
  for (Index v = 0; v < n; ++v) {
    Index u = v;
    for (; u >= 0 && state[static_cast<std::size_t>(u)] == 0; u = parent[static_cast<std::size_t>(u)]) {
      state[static_cast<std::size_t>(u)] = 1;
    }
    if (u >= 0 && state[static_cast<std::size_t>(u)] == 1) {
      throw FormatError(file, line(u), "node " + std::to_string(u) + " is its own ancestor (expected a forest)");
    }
    for (u = v; u >= 0 && state[static_cast<std::size_t>(u)] == 1; u = parent[static_cast<std::size_t>(u)]) {
      state[static_cast<std::size_t>(u)] = 2;
    }
  }
}

std::vector<double> finite_weights(const std::string& path, Index nodes) {
  const NpyArray a = read_npy(path);
  if (!a.is_floating()) throw FormatError(path, 0, "weights of type " + name_of(a.type) + " (expected floats)");
  if (a.shape.size() != 1 || a.shape[0] != nodes) {
    throw FormatError(path, 0, "shape " + shape_text(a.shape) + " (expected [" + std::to_string(nodes) + "], a weight a node)");
  }
  std::vector<double> weights = convert<double>(a);
  for (std::size_t v = 0; v < weights.size(); ++v) {
    if (!std::isfinite(weights[v])) {
      throw FormatError(path, 0, "weight " + std::to_string(v) + " is not finite (expected finite weights)");
    }
  }
  return weights;
}

TreeFile read_parent_array(const std::string& path, const std::string& weights_path) {
  const NpyArray a = read_npy(path);
  if (!a.is_integer()) throw FormatError(path, 0, "parents of type " + name_of(a.type) + " (expected int32 or int64)");
  if (a.shape.size() != 1) throw FormatError(path, 0, "shape " + shape_text(a.shape) + " (expected [L], a parent a node)");
  TreeFile tree;
  for (const std::int64_t p : convert<std::int64_t>(a)) tree.parent.push_back(static_cast<Index>(p));
  check_forest(tree.parent, path, [](Index) { return Index{0}; });
  const auto n = static_cast<Index>(tree.parent.size());
  tree.weights = weights_path.empty() ? std::vector<double>(tree.parent.size(), 1.0) : finite_weights(weights_path, n);
  return tree;
}

}  // namespace

TreeFile parse_parents(std::string_view text, const std::string& file, bool labels) {
  TreeFile tree;
  std::vector<Index> line_of;
  bool named = false;
  for (Lines lines(text, file); lines.next();) {
    lines.drop_comment("#");
    if (lines.blank()) continue;
    tree.parent.push_back(lines.integer("a parent's number, -1 for a root"));
    line_of.push_back(lines.number());
    const std::string_view second = lines.word();
    const auto weight = second.empty() ? std::optional<double>(1.0) : number_of(second);
    // Beside labels: 1e400 is a weight that no double holds, not a name.
    if (!weight && (!labels || beyond_double(second))) lines.fail("weight " + shown(second) + " (expected a finite number)");
    tree.weights.push_back(weight.value_or(1.0));
    tree.names.emplace_back(weight ? std::string_view() : second);
    named = named || !weight;
    if (weight) lines.expect_end("`parent [weight]`");
  }
  if (tree.parent.empty()) throw FormatError(file, 0, "no node (expected a line a node: parent [weight])");
  if (!named) tree.names.clear();
  check_forest(tree.parent, file, [&](Index v) { return line_of[static_cast<std::size_t>(v)]; });
  return tree;
}

TreeFile read_tree_file(const std::string& path, const std::string& weights_path) {
  const std::string name = name_without_gz(path);
  if (name.ends_with(".npy")) return read_parent_array(path, weights_path);
  if (!weights_path.empty()) {
    throw FormatError(path, 0, "has weights of its own (a file of weights goes with parents in a .npy file)");
  }
  if (name.ends_with(".nwk") || name.ends_with(".newick") || name.ends_with(".tree")) {
    return parse_newick(read_whole_file(path), path);
  }
  if (name.ends_with(".txt") || name.ends_with(".parents")) {
    return parse_parents(read_whole_file(path), path, name.ends_with(".parents"));
  }
  throw FormatError(path, 0, "unknown kind of tree file (expected .nwk, .txt, .parents or .npy)");
}

}  // namespace espalier
