// Lays out the few kinds of pictures and their colour bar.
// SPDX-License-Identifier: Apache-2.0
#include "pictures.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

namespace espalier::tools {

namespace {

constexpr Index margin = 12, bar_width = 14, bar_space = 84;

// Maps values to 0 .. 1.
class Scale {
 public:
  Scale(std::span<const double> values, PictureStyle style) : log_(style.log_colour) {
    double low = HUGE_VAL, high = -HUGE_VAL;
    for (const double v : values) {
      const double x = log_ ? std::log10(std::abs(v)) : v;
      if (!std::isfinite(x)) continue;
      low = std::min(low, x);
      high = std::max(high, x);
    }
    if (!(low <= high)) low = high = 0;
    if (log_) low = std::max(low, high - 8);
    if (low == high) low = high - 1;
    low_ = low;
    high_ = high;
  }
  double operator()(double v) const {
    if (std::isnan(v)) return v;
    const double x = log_ ? std::log10(std::abs(v)) : v;
    return std::clamp((x - low_) / (high_ - low_), 0.0, 1.0);
  }
  std::string label(double t) const {
    const double x = low_ + t * (high_ - low_);
    char text[32];
    std::snprintf(text, sizeof(text), "%.3g", log_ ? std::pow(10, x) : x);
    return text;
  }

 private:
  bool log_;
  double low_ = 0, high_ = 1;
};

void draw_bar(Image& image, const Scale& scale) {
  const Index x = image.width - bar_space, height = image.height - 2 * margin;
  for (Index j = 0; j < height; ++j) {
    const double t = 1 - static_cast<double>(j) / static_cast<double>(std::max<Index>(height - 1, 1));
    fill_rectangle(image, x, margin + j, bar_width, 1, colour_map(t));
  }
  for (int k = 0; k <= 4; ++k) {
    const Index y = margin + (height - 1) * (4 - k) / 4;
    fill_rectangle(image, x + bar_width, y, 3, 1, {0, 0, 0});
    draw_text(image, x + bar_width + 6, y - 3, scale.label(k / 4.0));
  }
}

Image canvas(Index width, Index height) {
  return Image(width + 2 * margin + bar_space, std::max<Index>(height, 120) + 2 * margin);
}

void draw_dot(Image& image, Index x, Index y, Index radius, Colour colour) {
  for (Index j = -radius; j <= radius; ++j) {
    for (Index i = -radius; i <= radius; ++i) {
      if (i * i + j * j <= radius * radius) fill_rectangle(image, x + i, y + j, 1, 1, colour);
    }
  }
}

}  // namespace

Image curve_picture(std::span<const double> values, PictureStyle style) {
  const Index width = 720, height = 320, left = 70;
  Image image(width + left + margin, height + 2 * margin + 14);
  const Scale scale(values, style);
  const auto n = static_cast<Index>(values.size());
  const auto place = [&](Index i) { return left + (n > 1 ? i * (width - 1) / (n - 1) : width / 2); };
  const auto rise = [&](double v) { return margin + std::lround((1 - scale(v)) * static_cast<double>(height - 1)); };
  fill_rectangle(image, left - 1, margin, 1, height, {0, 0, 0});
  fill_rectangle(image, left - 1, margin + height, width, 1, {0, 0, 0});
  for (int k = 0; k <= 4; ++k) draw_text(image, 4, margin + (height - 1) * (4 - k) / 4 - 3, scale.label(k / 4.0));
  draw_text(image, left, margin + height + 5, "0");
  const std::string last = std::to_string(std::max<Index>(n - 1, 0));
  draw_text(image, left + width - 6 * static_cast<Index>(last.size()), margin + height + 5, last);
  for (Index i = 0; i < n; ++i) {
    const double v = values[static_cast<std::size_t>(i)];
    if (std::isnan(v)) continue;
    const double before = values[static_cast<std::size_t>(std::max<Index>(i - 1, 0))];
    if (!std::isnan(before)) draw_line(image, place(std::max<Index>(i - 1, 0)), rise(before), place(i), rise(v), {63, 69, 135});
  }
  return image;
}

Image heat_picture(std::span<const double> values, const std::vector<Index>& sizes, PictureStyle style) {
  const Index slices = sizes.size() == 3 ? sizes[0] : 1;
  const Index rows = sizes[sizes.size() - 2], cols = sizes[sizes.size() - 1];
  const auto across = static_cast<Index>(std::ceil(std::sqrt(static_cast<double>(slices))));
  const Index down = (slices + across - 1) / across, gap = slices > 1 ? 4 : 0;
  // Cells as large as fit into about 512 pixels, at least one.
  const Index cell = std::max<Index>(1, 512 / std::max(across * cols, down * rows));
  Image image = canvas(across * (cols * cell + gap), down * (rows * cell + gap));
  const Scale scale(values, style);
  for (Index s = 0; s < slices; ++s) {
    const Index x0 = margin + (s % across) * (cols * cell + gap), y0 = margin + (s / across) * (rows * cell + gap);
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        const double v = values[static_cast<std::size_t>((s * rows + i) * cols + j)];
        fill_rectangle(image, x0 + j * cell, y0 + i * cell, cell, cell, colour_map(scale(v)));
      }
    }
  }
  draw_bar(image, scale);
  return image;
}

Image tree_picture(std::span<const double> values, const TreeFile& tree, PictureStyle style) {
  const auto n = static_cast<Index>(tree.parent.size());
  std::vector<Index> depth(tree.parent.size(), -1), path;
  Index deepest = 0;
  for (Index v = 0; v < n; ++v) {
    for (Index u = v; u >= 0 && depth[static_cast<std::size_t>(u)] < 0; u = tree.parent[static_cast<std::size_t>(u)])
      path.push_back(u);
    for (; !path.empty(); path.pop_back()) {
      const Index p = tree.parent[static_cast<std::size_t>(path.back())];
      depth[static_cast<std::size_t>(path.back())] = p < 0 ? 0 : depth[static_cast<std::size_t>(p)] + 1;
      deepest = std::max(deepest, depth[static_cast<std::size_t>(path.back())]);
    }
  }
  // Each layer in the order of its parents' places, spread over the width.
  std::vector<std::vector<Index>> layers(static_cast<std::size_t>(deepest) + 1);
  for (Index v = 0; v < n; ++v) layers[static_cast<std::size_t>(depth[static_cast<std::size_t>(v)])].push_back(v);
  const Index width = 800, step = std::clamp<Index>(600 / (deepest + 1), 2, 60), height = step * deepest + 40;
  Image image = canvas(width, height);
  const Scale scale(values, style);
  std::vector<double> place(tree.parent.size(), 0);
  for (auto& layer : layers) {
    std::stable_sort(layer.begin(), layer.end(), [&](Index a, Index b) {
      const Index pa = tree.parent[static_cast<std::size_t>(a)], pb = tree.parent[static_cast<std::size_t>(b)];
      return (pa < 0 ? 0 : place[static_cast<std::size_t>(pa)]) < (pb < 0 ? 0 : place[static_cast<std::size_t>(pb)]);
    });
    for (std::size_t i = 0; i < layer.size(); ++i) {
      place[static_cast<std::size_t>(layer[i])] = (static_cast<double>(i) + 0.5) / static_cast<double>(layer.size());
    }
  }
  const auto x_of = [&](Index v) {
    return margin + std::lround(place[static_cast<std::size_t>(v)] * static_cast<double>(width));
  };
  const auto y_of = [&](Index v) { return margin + 20 + step * depth[static_cast<std::size_t>(v)]; };
  for (Index v = 0; v < n; ++v) {
    const Index p = tree.parent[static_cast<std::size_t>(v)];
    if (p >= 0) draw_line(image, x_of(p), y_of(p), x_of(v), y_of(v), {215, 215, 215});
  }
  const Index radius = n <= 200 ? 5 : n <= 5000 ? 2 : 1;
  for (Index v = 0; v < n; ++v)
    draw_dot(image, x_of(v), y_of(v), radius, colour_map(scale(values[static_cast<std::size_t>(v)])));
  draw_bar(image, scale);
  return image;
}

Image graph_picture(std::span<const double> values, const GraphFile& graph, std::span<const double> coordinates,
                    PictureStyle style) {
  double low[2] = {HUGE_VAL, HUGE_VAL}, high[2] = {-HUGE_VAL, -HUGE_VAL};
  for (std::size_t p = 0; p < coordinates.size(); ++p) {
    low[p % 2] = std::min(low[p % 2], coordinates[p]);
    high[p % 2] = std::max(high[p % 2], coordinates[p]);
  }
  const double span_x = std::max(high[0] - low[0], 1e-300), span_y = std::max(high[1] - low[1], 1e-300);
  const Index width = 900;
  const auto height = static_cast<Index>(std::clamp(900 * span_y / span_x, 200.0, 1200.0));
  Image image = canvas(width, height);
  const Scale scale(values, style);
  const auto x_of = [&](Index v) {
    return margin +
           std::lround((coordinates[static_cast<std::size_t>(2 * v)] - low[0]) / span_x * static_cast<double>(width - 1));
  };
  const auto y_of = [&](Index v) {  // the second coordinate grows upwards
    return margin +
           std::lround((high[1] - coordinates[static_cast<std::size_t>(2 * v + 1)]) / span_y * static_cast<double>(height - 1));
  };
  for (const Edge& e : graph.edges) draw_line(image, x_of(e.u), y_of(e.u), x_of(e.v), y_of(e.v), {225, 225, 225});
  const Index radius = graph.nodes <= 200 ? 5 : graph.nodes <= 20000 ? 2 : 1;
  // Large values last, so that they are not covered.
  std::vector<Index> order(static_cast<std::size_t>(graph.nodes));
  for (Index v = 0; v < graph.nodes; ++v) order[static_cast<std::size_t>(v)] = v;
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
    return scale(values[static_cast<std::size_t>(a)]) < scale(values[static_cast<std::size_t>(b)]);
  });
  for (const Index v : order) draw_dot(image, x_of(v), y_of(v), radius, colour_map(scale(values[static_cast<std::size_t>(v)])));
  draw_bar(image, scale);
  return image;
}

}  // namespace espalier::tools
