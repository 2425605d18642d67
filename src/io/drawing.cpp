// The colour map and the strokes of small plots.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/io/image.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace espalier {

namespace {

void put(Image& image, Index x, Index y, Colour colour) {
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
  auto* p = image.pixels.data() + (y * image.width + x) * image.channels;
  if (image.channels == 3) {
    std::copy(colour.begin(), colour.end(), p);
  } else {
    *p = static_cast<std::uint8_t>((299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000);
  }
}

// Seven rows of five pixels a character, the leftmost pixel the highest of the five bits.
struct Glyph {
  char character;
  std::uint8_t rows[7];
};
constexpr Glyph glyphs[] = {
    {'0', {14, 17, 19, 21, 25, 17, 14}}, {'1', {4, 12, 4, 4, 4, 4, 14}},  {'2', {14, 17, 1, 2, 4, 8, 31}},
    {'3', {31, 2, 4, 2, 1, 17, 14}},     {'4', {2, 6, 10, 18, 31, 2, 2}}, {'5', {31, 16, 30, 1, 1, 17, 14}},
    {'6', {6, 8, 16, 30, 17, 17, 14}},   {'7', {31, 1, 2, 4, 8, 8, 8}},   {'8', {14, 17, 17, 14, 17, 17, 14}},
    {'9', {14, 17, 17, 15, 1, 2, 12}},   {'-', {0, 0, 0, 31, 0, 0, 0}},   {'+', {0, 4, 4, 31, 4, 4, 0}},
    {'.', {0, 0, 0, 0, 0, 12, 12}},      {',', {0, 0, 0, 0, 12, 4, 8}},   {'e', {0, 0, 14, 17, 31, 16, 14}},
};

}  // namespace

Colour colour_map(double t) {
  if (std::isnan(t)) return {128, 128, 128};
  // Six points of rising lightness (about 15, 32, 46, 60, 76, 91 of 100), straight lines between.
  static constexpr double points[6][3] = {{58, 10, 82},   {63, 69, 135},  {43, 113, 142},
                                          {32, 155, 131}, {112, 200, 86}, {250, 229, 40}};
  const double at = std::clamp(t, 0.0, 1.0) * 5;
  const auto k = std::min<std::size_t>(static_cast<std::size_t>(at), 4);
  const double f = at - static_cast<double>(k);
  Colour colour{};
  for (std::size_t c = 0; c < 3; ++c)
    colour[c] = static_cast<std::uint8_t>(std::lround(points[k][c] * (1 - f) + points[k + 1][c] * f));
  return colour;
}

void fill_rectangle(Image& image, Index x, Index y, Index width, Index height, Colour colour) {
  for (Index j = std::max<Index>(y, 0); j < std::min(y + height, image.height); ++j) {
    for (Index i = std::max<Index>(x, 0); i < std::min(x + width, image.width); ++i) put(image, i, j, colour);
  }
}

void draw_line(Image& image, Index x0, Index y0, Index x1, Index y1, Colour colour) {
  const Index steps = std::max<Index>({std::abs(x1 - x0), std::abs(y1 - y0), 1});
  for (Index s = 0; s <= steps; ++s) {
    const double f = static_cast<double>(s) / static_cast<double>(steps);
    put(image, std::lround(static_cast<double>(x0) + f * static_cast<double>(x1 - x0)),
        std::lround(static_cast<double>(y0) + f * static_cast<double>(y1 - y0)), colour);
  }
}

void draw_text(Image& image, Index x, Index y, std::string_view text, Colour colour) {
  for (const char c : text) {
    for (const Glyph& glyph : glyphs) {
      if (glyph.character != c) continue;
      for (Index row = 0; row < 7; ++row) {
        for (Index bit = 0; bit < 5; ++bit) {
          if ((glyph.rows[row] >> (4 - bit) & 1) != 0) put(image, x + bit, y + row, colour);
        }
      }
    }
    x += 6;
  }
}

}  // namespace espalier
