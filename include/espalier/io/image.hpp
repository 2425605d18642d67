// Small pictures: PPM and PGM read, PNG written, a colour map, and the few strokes that plots need.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

using Colour = std::array<std::uint8_t, 3>;

// height x width x channels bytes, row-major, top row first; channels 1 (grey) or 3 (RGB).
struct Image {
  Index width = 0, height = 0, channels = 3;
  std::vector<std::uint8_t> pixels;

  Image() = default;
  // Filled with one colour. Errors: ValueError for negative sizes, more than 2^28 pixels, or channels other than 1 and 3.
  ESPALIER_EXPORT Image(Index width, Index height, Index channels = 3, std::uint8_t fill = 255);
};

// Reads P2, P3, P5 or P6 (ASCII or binary, grey or RGB, at most 16 bits, scaled to 8); a name ending in ".gz" is unpacked.
// Errors: FormatError.
ESPALIER_EXPORT Image read_pnm(const std::string& path);
ESPALIER_EXPORT Image parse_pnm(std::string_view bytes, const std::string& file);

// The bytes of a PNG file. Errors: ValueError for an empty image, BackendError with libpng's words.
ESPALIER_EXPORT std::string encode_png(const Image& image);
// Writes it whole or not at all.
ESPALIER_EXPORT void write_png(const std::string& path, const Image& image);

// Dark blue over green to yellow, even steps of lightness (so that it reads in grey too); t is clamped to [0, 1], NaN is grey.
ESPALIER_EXPORT Colour colour_map(double t);

// Strokes; parts outside the image are dropped.
ESPALIER_EXPORT void fill_rectangle(Image& image, Index x, Index y, Index width, Index height, Colour colour);
ESPALIER_EXPORT void draw_line(Image& image, Index x0, Index y0, Index x1, Index y1, Colour colour);
// Text in a 5 x 7 raster, 6 pixels a character: digits, - + . , e and blank; others appear as blanks.
ESPALIER_EXPORT void draw_text(Image& image, Index x, Index y, std::string_view text, Colour colour = {0, 0, 0});

}  // namespace espalier
