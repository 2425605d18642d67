// Forests from files: Newick, parent lists, parent arrays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace espalier {

// A forest as read: a valid parent array (no cycle, parents in range), finite weights, one a node (the root's means nothing).
struct TreeFile {
  std::vector<Index> parent;       // -1: a root
  std::vector<double> weights;     // length of the edge to the parent; 1 where the file has none
  std::vector<std::string> names;  // empty, or one a node ("" where it has none)
};

// Reads by the name's ending (before .gz): .nwk, .newick, .tree Newick; .txt, .parents a line a node; .npy parents, for which
// weights_path may name an array of as many weights (empty: all 1; refused with the other formats).
// Errors: FormatError with file and line.
ESPALIER_EXPORT TreeFile read_tree_file(const std::string& path, const std::string& weights_path = {});

// Newick: every node counts, numbered in depth-first preorder, the root of the first tree 0; several trees, each ended by ';',
// are a forest. Labels: plain (up to one of ( ) [ ] : ; , ' or a blank) or 'quoted' with '' for a quote; [comments] anywhere,
// nested too; `:length` finite, missing 1, a root's own is ignored. No recursion: depth is bounded by memory alone.
ESPALIER_EXPORT TreeFile parse_newick(std::string_view text, const std::string& file);

// A line a node, in the order of the nodes: `parent [weight]`, -1 for a root; `#` starts a comment, blank lines are skipped.
// labels: a second column that is no finite number is a name, and what follows it is ignored (.parents); otherwise an error.
ESPALIER_EXPORT TreeFile parse_parents(std::string_view text, const std::string& file, bool labels);

}  // namespace espalier
