// Pictures of one row of a mask: curve, heat map, slices, layered tree, graph in the plane.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/io/graph_files.hpp>
#include <espalier/io/image.hpp>
#include <espalier/io/tree_files.hpp>

#include <span>
#include <vector>

namespace espalier::tools {

// values: a number a point. log_colour: by log10 of the absolute value, over at most 8 decades.
struct PictureStyle {
  bool log_colour = false;
};

// A curve over 0 .. n - 1.
Image curve_picture(std::span<const double> values, PictureStyle style);
// n1 x n2 cells (row-major) with a colour bar; 3-D: the n1 slices of n2 x n3 side by side. sizes: 2 or 3 numbers.
Image heat_picture(std::span<const double> values, const std::vector<Index>& sizes, PictureStyle style);
// Nodes by depth from top to bottom, siblings side by side.
Image tree_picture(std::span<const double> values, const TreeFile& tree, PictureStyle style);
// Nodes at their coordinates (nodes x 2, row-major), edges as grey lines.
Image graph_picture(std::span<const double> values, const GraphFile& graph, std::span<const double> coordinates,
                    PictureStyle style);

}  // namespace espalier::tools
