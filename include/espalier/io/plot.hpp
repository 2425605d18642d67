// Plots of curves as SVG text: linear or logarithmic axes, lines and marks, a legend, several panels in one picture.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <string>
#include <vector>

namespace espalier {

enum class PlotStyle { line, dots, line_and_dots, rings };  // rings: circles around points of other curves

// Points (x[k], y[k]) in their order. A point that its axes cannot show (NaN, infinite, not positive on a logarithmic axis)
// is left out and interrupts the line.
struct PlotCurve {
  std::string name;  // for the legend; empty: not in it
  std::vector<double> x, y;
  PlotStyle style = PlotStyle::line;
  // Of eight that stay apart for the colour-blind; negative: the curve's place in the plot. Rings are black.
  int colour = -1;
};

struct PlotAxis {
  std::string label;
  bool logarithmic = false;
};

struct Plot {
  std::string title;
  PlotAxis x, y;
  std::vector<PlotCurve> curves;
  Index width = 480, height = 320;  // pixels, at least 160 each
};

// One plot, or several side by side, `across` in a row, row by row (cells as large as the largest plot). Texts are UTF-8 and
// escaped. Coordinates have one decimal: equal input gives equal bytes. The axes reach from the least to the largest shown
// number, and from 0 to 1 (1 to 10) where there is none. A logarithmic axis reaches down at most 12 decades.
// Errors: ValueError for a curve with more x than y or the reverse, a plot below 160 pixels, no plots, across < 1.
ESPALIER_EXPORT std::string svg_plot(const Plot& plot);
ESPALIER_EXPORT std::string svg_plots(const std::vector<Plot>& plots, Index across);

}  // namespace espalier
