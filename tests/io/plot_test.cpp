// SVG plots: where points come to lie, gaps, ticks, escaping, well-formedness, refusals.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/io/plot.hpp>

#include <clocale>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace espalier;

namespace {

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Tags closed in order, attributes quoted, no bare & or <.
bool well_formed(const std::string& svg) {
  std::vector<std::string> open;
  std::size_t at = 0;
  while (at < svg.size()) {
    if (svg[at] == '&') {
      const std::string entity = svg.substr(at, svg.find(';', at) - at + 1);
      if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;") return false;
    }
    if (svg[at] != '<') {
      ++at;
      continue;
    }
    const std::size_t end = svg.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = svg.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos || count_of(tag, "\"") % 2 != 0) return false;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end + 1;
  }
  return open.empty();
}

// Coordinates of the circles, in order.
std::vector<std::pair<double, double>> circles(const std::string& svg) {
  std::vector<std::pair<double, double>> result;
  for (std::size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) {
    const std::size_t cx = svg.find("cx=\"", at) + 4, cy = svg.find("cy=\"", at) + 4;
    result.emplace_back(std::stod(svg.substr(cx)), std::stod(svg.substr(cy)));
  }
  return result;
}

Plot powers() {
  Plot plot;
  plot.title = "a < b & \"c\"";
  plot.x = {"L", true};
  plot.y = {"s", true};
  plot.curves = {{"", {1, 10, 100}, {1e-3, 1e-2, 1e-1}, PlotStyle::dots}};
  return plot;
}

}  // namespace

TEST_CASE("the check of SVG is able to fail") {
  CHECK(well_formed("<a b=\"1\"><c/>x &amp; y</a>"));
  for (const char* bad : {"<a>", "</a>", "<a><b></a></b>", "<a>&</a>", "<a b=\"1></a>", "<a"}) CHECK_FALSE(well_formed(bad));
}

TEST_CASE("powers lie on a straight line of a logarithmic plot, as wide as the axes less 3 % at each end") {
  const std::string svg = svg_plot(powers());
  CHECK(well_formed(svg));
  const auto points = circles(svg);
  REQUIRE(points.size() == 3);
  // 480 x 320 with margins 62, 14, 28, 44: axes of 404 x 248; 3 % of the range at both ends.
  CHECK(std::abs(points[0].first - (62 + 404 * 0.03 / 1.06)) < 0.06);
  CHECK(std::abs(points[1].first - (62 + 202)) < 0.06);
  CHECK(std::abs(points[1].second - (28 + 124)) < 0.06);
  CHECK(points[2].second < points[0].second);  // upwards
  CHECK(svg.find(">100</text>") != std::string::npos);
  CHECK(svg.find(">0.001</text>") != std::string::npos);
  CHECK(svg.find("a &lt; b &amp; &quot;c&quot;") != std::string::npos);
}

TEST_CASE("what an axis cannot show is left out and interrupts the line") {
  Plot plot = powers();
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  plot.curves[0] = {"c", {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 0, 4, 5, nan, 7, infinity}, PlotStyle::line_and_dots};
  const std::string svg = svg_plot(plot);
  CHECK(well_formed(svg));
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.find("inf") == std::string::npos);
  CHECK(circles(svg).size() == 6);  // 5 points and the legend's
  const std::size_t path = svg.find("stroke-width");
  const std::size_t start = svg.rfind("<path d=\"", path);
  CHECK(count_of(svg.substr(start, path - start), "M") == 3);
  plot.curves[0].y.assign(8, -1.0);
  CHECK(well_formed(svg_plot(plot)));
  CHECK(circles(svg_plot(plot)).size() == 1);
}

TEST_CASE("ticks of a linear axis are round numbers inside it; a short logarithmic one has twos and fives") {
  Plot plot;
  plot.curves = {{"f", {0, 400}, {0.25, 0.25}, PlotStyle::line}};  // one value: an axis of length 1 around it
  const std::string svg = svg_plot(plot);
  for (const char* label : {">0<", ">100<", ">400<", ">0.2<", ">0.4<"}) CHECK(svg.find(label) != std::string::npos);
  CHECK(svg.find(">500<") == std::string::npos);
  plot.y.logarithmic = true;
  plot.curves[0].y = {1, 30};
  const std::string decade = svg_plot(plot);
  for (const char* label : {">1<", ">2<", ">5<", ">10<", ">20<"}) CHECK(decade.find(label) != std::string::npos);
  CHECK(decade.find(">50<") == std::string::npos);
}

TEST_CASE("the legend goes to the corner where it covers fewest points") {
  Plot plot;
  const auto place_of_name = [&] {
    const std::string svg = svg_plot(plot);
    const std::size_t at = svg.rfind("<text", svg.find(">name<"));
    return std::pair(std::stod(svg.substr(svg.find("x=\"", at) + 3)), std::stod(svg.substr(svg.find("y=\"", at) + 3)));
  };
  plot.curves = {{"name", {0, 1, 2, 3}, {0, 1, 2, 3}, PlotStyle::line}};  // rises: upper left
  CHECK(place_of_name().first < 200);
  CHECK(place_of_name().second < 100);
  plot.curves[0].y = {3, 2, 1, 0};  // falls: upper right
  CHECK(place_of_name().first > 300);
  CHECK(place_of_name().second < 100);
  plot.curves.push_back({"", {0, 3, 3}, {3, 3, 1}, PlotStyle::dots});  // both upper corners taken: lower left
  CHECK(place_of_name().first < 200);
  CHECK(place_of_name().second > 200);
}

TEST_CASE("panels lie side by side; the same bytes twice and in a locale with decimal commas") {
  const std::string svg = svg_plots({powers(), powers(), powers()}, 2);
  CHECK(well_formed(svg));
  CHECK(svg.find("width=\"960\" height=\"640\"") != std::string::npos);
  CHECK(svg.find("translate(480,0)") != std::string::npos);
  CHECK(svg.find("translate(0,320)") != std::string::npos);
  CHECK(svg == svg_plots({powers(), powers(), powers()}, 2));
  if (std::setlocale(LC_NUMERIC, "de_DE.UTF-8") != nullptr) {
    CHECK(svg == svg_plots({powers(), powers(), powers()}, 2));
    std::setlocale(LC_NUMERIC, "C");
  }
}

TEST_CASE("refused plots") {
  Plot plot = powers();
  plot.curves[0].y.pop_back();
  CHECK_THROWS_AS(svg_plot(plot), ValueError);
  plot = powers();
  plot.width = 100;
  CHECK_THROWS_AS(svg_plot(plot), ValueError);
  CHECK_THROWS_AS(svg_plots({}, 1), ValueError);
  CHECK_THROWS_AS(svg_plots({powers()}, 0), ValueError);
}
