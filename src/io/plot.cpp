// Lays out axes, curves and legend, and writes them as SVG.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/plot.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

namespace espalier {

namespace {

constexpr double kLeft = 62, kRight = 14, kTop = 28, kBottom = 44;
// M. Okabe and K. Ito's colours, the yellow left out: it vanishes on white.
constexpr std::array<const char*, 8> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                 "#e69f00", "#56b4e9", "#7f3fbf", "#555555"};

// Not printf: a caller's locale may write decimal commas.
std::string coordinate(double v) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), v, std::chars_format::fixed, 1).ptr};
}
std::string tick_label(double v) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), v, std::chars_format::general, 6).ptr};
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '"') {
      result += "&quot;";
    } else if (static_cast<unsigned char>(c) >= 32) {  // XML has no control characters
      result += c;
    }
  }
  return result;
}

std::string text_element(double x, double y, const char* anchor, const std::string& text, const char* more = "") {
  return "<text x=\"" + coordinate(x) + "\" y=\"" + coordinate(y) + "\" text-anchor=\"" + anchor + "\"" + more + ">" +
         escaped(text) + "</text>\n";
}
std::string line_element(double x0, double y0, double x1, double y1, const char* colour) {
  return "<path d=\"M" + coordinate(x0) + "," + coordinate(y0) + "L" + coordinate(x1) + "," + coordinate(y1) + "\" stroke=\"" +
         colour + "\" fill=\"none\"/>\n";
}
std::string circle_element(double x, double y, double radius, const std::string& paint) {
  return "<circle cx=\"" + coordinate(x) + "\" cy=\"" + coordinate(y) + "\" r=\"" + coordinate(radius) + "\" " + paint + "/>\n";
}

// One axis: the numbers it shows, and where on the picture.
class Scale {
 public:
  Scale(const PlotAxis& axis, double start, double end) : logarithmic_(axis.logarithmic), start_(start), end_(end) {}

  bool shows(double v) const { return std::isfinite(v) && (!logarithmic_ || v > 0); }
  void include(double v) {
    if (!shows(v)) return;
    low_ = std::min(low_, at(v));
    high_ = std::max(high_, at(v));
  }
  // To be called once, after all include().
  void settle() {
    if (low_ > high_) low_ = 0, high_ = 1;
    if (low_ == high_) low_ -= 0.5, high_ += 0.5;
    if (logarithmic_) low_ = std::max(low_, high_ - 12);
    const double margin = 0.03 * (high_ - low_);
    low_ -= margin, high_ += margin;
  }
  bool inside(double v) const { return shows(v) && at(v) >= low_; }
  double place(double v) const { return start_ + (at(v) - low_) / (high_ - low_) * (end_ - start_); }
  // Linear: multiples of 1, 2 or 5 times a power of ten, at most eight. Logarithmic: the same powers apart, and twos and fives
  // between where the axis is shorter than two decades.
  std::vector<double> ticks() const { return logarithmic_ && high_ - low_ >= 2 ? decades() : steps(); }

 private:
  double at(double v) const { return logarithmic_ ? std::log10(v) : v; }
  std::vector<double> decades() const {
    const double step = std::ceil((high_ - low_) / 8);
    std::vector<double> result;
    for (double p = step * std::ceil(low_ / step); p <= high_; p += step) result.push_back(std::pow(10.0, p));
    return result;
  }
  std::vector<double> steps() const {
    std::vector<double> result;
    if (logarithmic_) {
      for (double p = std::floor(low_); p <= high_; p += 1) {
        for (const double digit : {1.0, 2.0, 5.0}) {
          const double v = digit * std::pow(10.0, p);
          if (at(v) >= low_ && at(v) <= high_) result.push_back(v);
        }
      }
      return result;
    }
    const double rough = (high_ - low_) / 8, power = std::pow(10.0, std::floor(std::log10(rough)));
    const double step = power * (rough <= power ? 1 : rough <= 2 * power ? 2 : rough <= 5 * power ? 5 : 10);
    for (double k = std::ceil(low_ / step); k * step <= high_; k += 1) result.push_back(k * step);
    return result;
  }

  bool logarithmic_;
  double start_, end_;
  double low_ = std::numeric_limits<double>::infinity(), high_ = -std::numeric_limits<double>::infinity();
};

const char* colour_of(const Plot& plot, std::size_t curve) {
  if (plot.curves[curve].style == PlotStyle::rings) return "#000000";
  const int colour = plot.curves[curve].colour;
  return kColours[(colour < 0 ? curve : static_cast<std::size_t>(colour)) % kColours.size()];
}

std::string mark(PlotStyle style, double x, double y, const char* colour) {
  if (style == PlotStyle::rings) return circle_element(x, y, 6, std::string("fill=\"none\" stroke=\"") + colour + "\"");
  return circle_element(x, y, 2.5, std::string("fill=\"") + colour + "\"");
}

std::string curve_elements(const Plot& plot, std::size_t number, const Scale& xs, const Scale& ys) {
  const PlotCurve& curve = plot.curves[number];
  const char* colour = colour_of(plot, number);
  std::string path, marks;
  bool interrupted = true;
  for (std::size_t k = 0; k < curve.x.size(); ++k) {
    if (!xs.inside(curve.x[k]) || !ys.inside(curve.y[k])) {
      interrupted = true;
      continue;
    }
    const double x = xs.place(curve.x[k]), y = ys.place(curve.y[k]);
    path += (interrupted ? "M" : "L") + coordinate(x) + "," + coordinate(y);
    interrupted = false;
    if (curve.style != PlotStyle::line) marks += mark(curve.style, x, y, colour);
  }
  if (curve.style == PlotStyle::dots || curve.style == PlotStyle::rings || path.empty()) return marks;
  return "<path d=\"" + path + "\" stroke=\"" + colour + "\" stroke-width=\"1.6\" fill=\"none\"/>\n" + marks;
}

std::string axis_elements(const Plot& plot, const Scale& xs, const Scale& ys, double right, double bottom) {
  std::string svg;
  for (const double v : xs.ticks()) {
    svg += line_element(xs.place(v), kTop, xs.place(v), bottom, "#dddddd");
    svg += text_element(xs.place(v), bottom + 15, "middle", tick_label(v));
  }
  for (const double v : ys.ticks()) {
    svg += line_element(kLeft, ys.place(v), right, ys.place(v), "#dddddd");
    svg += text_element(kLeft - 5, ys.place(v) + 4, "end", tick_label(v));
  }
  svg += line_element(kLeft, kTop, kLeft, bottom, "#000000") + line_element(kLeft, bottom, right, bottom, "#000000");
  svg += text_element((kLeft + right) / 2, 17, "middle", plot.title, " font-weight=\"bold\"");
  svg += text_element((kLeft + right) / 2, bottom + 33, "middle", plot.x.label);
  const std::string turn = " transform=\"rotate(-90 12 " + coordinate((kTop + bottom) / 2) + ")\"";
  return svg + text_element(12, (kTop + bottom) / 2, "middle", plot.y.label, turn.c_str());
}

// Names under each other, right of the marks of their curves, in the corner of the axes where they cover fewest points.
std::string legend_elements(const Plot& plot, const Scale& xs, const Scale& ys, double right, double bottom) {
  std::size_t names = 0, longest = 0;
  for (const PlotCurve& curve : plot.curves) {
    if (!curve.name.empty()) ++names, longest = std::max(longest, curve.name.size());
  }
  const double width = 40 + 6 * static_cast<double>(longest), height = 15 * static_cast<double>(names) + 6;
  double left = 0, top = 0;
  std::size_t fewest = std::numeric_limits<std::size_t>::max();
  for (const double y : {kTop, bottom - height}) {
    for (const double x : {kLeft, right - width}) {
      std::size_t covered = 0;
      for (const PlotCurve& curve : plot.curves) {
        for (std::size_t k = 0; k < curve.x.size(); ++k) {
          if (!xs.inside(curve.x[k]) || !ys.inside(curve.y[k])) continue;
          const double dx = xs.place(curve.x[k]) - x, dy = ys.place(curve.y[k]) - y;
          if (dx >= 0 && dx <= width && dy >= 0 && dy <= height) ++covered;
        }
      }
      if (covered < fewest) fewest = covered, left = x, top = y;
    }
  }
  std::string svg;
  double y = top + 14;
  for (std::size_t c = 0; c < plot.curves.size(); ++c) {
    const PlotCurve& curve = plot.curves[c];
    if (curve.name.empty()) continue;
    const bool line = curve.style == PlotStyle::line || curve.style == PlotStyle::line_and_dots;
    if (line) svg += line_element(left + 8, y - 4, left + 26, y - 4, colour_of(plot, c));
    if (curve.style != PlotStyle::line) svg += mark(curve.style, left + 17, y - 4, colour_of(plot, c));
    svg += text_element(left + 32, y, "start", curve.name);
    y += 15;
  }
  return svg;
}

std::string panel(const Plot& plot) {
  if (plot.width < 160 || plot.height < 160) throw ValueError("plot: width and height must be at least 160 pixels");
  const double right = static_cast<double>(plot.width) - kRight, bottom = static_cast<double>(plot.height) - kBottom;
  Scale xs(plot.x, kLeft, right), ys(plot.y, bottom, kTop);
  for (const PlotCurve& curve : plot.curves) {
    if (curve.x.size() != curve.y.size()) {
      throw ValueError("plot: curve \"" + curve.name + "\" has " + std::to_string(curve.x.size()) + " x and " +
                       std::to_string(curve.y.size()) + " y");
    }
    for (std::size_t k = 0; k < curve.x.size(); ++k) {
      if (!xs.shows(curve.x[k]) || !ys.shows(curve.y[k])) continue;
      xs.include(curve.x[k]);
      ys.include(curve.y[k]);
    }
  }
  xs.settle();
  ys.settle();
  std::string svg = axis_elements(plot, xs, ys, right, bottom);
  for (std::size_t c = 0; c < plot.curves.size(); ++c) svg += curve_elements(plot, c, xs, ys);
  return svg + legend_elements(plot, xs, ys, right, bottom);
}

}  // namespace

std::string svg_plots(const std::vector<Plot>& plots, Index across) {
  if (plots.empty()) throw ValueError("plots: there are none");
  if (across < 1) throw ValueError("plots: across must be at least 1, got " + std::to_string(across));
  Index width = 0, height = 0;
  for (const Plot& plot : plots) width = std::max(width, plot.width), height = std::max(height, plot.height);
  const auto count = static_cast<Index>(plots.size());
  const Index columns = std::min(across, count), rows = (count + columns - 1) / columns;
  const std::string w = std::to_string(columns * width), h = std::to_string(rows * height);
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h + "\" viewBox=\"0 0 " + w +
                    " " + h + "\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"" + w + "\" height=\"" + h +
                    "\" fill=\"#ffffff\"/>\n";
  for (Index p = 0; p < count; ++p) {
    svg += "<g transform=\"translate(" + std::to_string(p % columns * width) + "," + std::to_string(p / columns * height) +
           ")\">\n" + panel(plots[static_cast<std::size_t>(p)]) + "</g>\n";
  }
  return svg + "</svg>\n";
}

std::string svg_plot(const Plot& plot) {
  return svg_plots({plot}, 1);
}

}  // namespace espalier
