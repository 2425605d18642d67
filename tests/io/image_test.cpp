// Pictures: PPM and PGM read, PNG written, the colour map.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/io/image.hpp>

#include <cmath>
#include <string>

using namespace espalier;

TEST_CASE("PPM and PGM, ASCII and binary") {
  const Image p6 = parse_pnm(std::string("P6 # c\n2 1\n255\n") + "abcdef", "i");
  CHECK(p6.width == 2);
  CHECK(p6.channels == 3);
  CHECK(p6.pixels[5] == 'f');
  CHECK(parse_pnm("P2 2 2 15 0 15 5 10", "i").pixels == std::vector<std::uint8_t>{0, 255, 85, 170});
  CHECK(parse_pnm(std::string("P5 1 1 65535 \xff\xff", 15), "i").pixels[0] == 255);
  for (const char* bad : {"", "P4 1 1 1 x", "P6 2 2 255 abc", "P5 0 1 255 ", "P5 1 1 0 a", "P2 1 1 255 300", "P2 1 1 255 ",
                          "P5 99999999 99999999 255 "}) {
    CHECK_THROWS_AS(parse_pnm(bad, "i"), FormatError);
  }
}

TEST_CASE("PNG signature and size; refused images") {
  const std::string png = encode_png(Image(300, 2));
  CHECK(png.substr(1, 3) == "PNG");
  CHECK(png.substr(16, 8) == std::string("\0\0\1\x2c\0\0\0\2", 8));
  CHECK(encode_png(Image(3, 3, 1)).size() > 40);
  CHECK_THROWS_AS(encode_png(Image()), ValueError);
  CHECK_THROWS_AS(Image(-1, 2), ValueError);
  CHECK_THROWS_AS(Image(1, 2, 2), ValueError);
}

TEST_CASE("the colour map rises in lightness; strokes stay inside") {
  double last = -1;
  for (int k = 0; k <= 20; ++k) {
    const Colour c = colour_map(k / 20.0);
    const double light = 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
    CHECK(light > last);
    last = light;
  }
  CHECK(colour_map(NAN) == Colour{128, 128, 128});
  CHECK(colour_map(7) == colour_map(1));
  Image image(8, 8);
  fill_rectangle(image, -5, -5, 100, 100, {1, 2, 3});
  draw_line(image, -10, 3, 20, 3, {0, 0, 0});
  draw_text(image, 5, 5, "-1.5e9");
  CHECK(image.pixels[0] == 1);
  CHECK(image.pixels[3 * 8 * 3] == 0);
}
