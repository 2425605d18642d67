// What the side-by-side run of sequence engines has measured, as CSV and as a picture of time against length.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/io/files.hpp>
#include <espalier/io/plot.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

namespace espalier::benchmark {

struct EngineTime {
  std::string function, engine;
  Index length = 0, width = 0;
  bool chosen = false;                   // what the mask would run by itself
  double seconds = 0;                    // least
  double of_peak = 0;                    // useful flops a second over the multiply-add peak
  double extra_bytes = 0;                // measured peak of the first product, with plans and spectra; NaN: unknown
  double bytes_bound = 0;                // Report::extra_bytes
  double row_error = 0, norm_error = 0;  // worst row, and all of them, against double
};

inline void write_csv(const std::string& path, const std::vector<EngineTime>& times) {
  std::ostringstream csv;
  csv << "function,length,width,engine,chosen,seconds,of_peak,extra_bytes,extra_bytes_bound,row_error,norm_error\n";
  for (const EngineTime& t : times) {
    csv << t.function << ',' << t.length << ',' << t.width << ',' << t.engine << ',' << t.chosen << ',' << t.seconds << ','
        << t.of_peak << ',';
    if (!std::isnan(t.extra_bytes)) csv << static_cast<long long>(t.extra_bytes);
    csv << ',' << static_cast<long long>(t.bytes_bound) << ',' << t.row_error << ',' << t.norm_error << '\n';
  }
  WholeFile file(path);
  file.write(csv.str());
  file.commit();
}

// A panel a function, a curve an engine, rings around what the mask chooses by itself.
inline std::string time_picture(const std::vector<EngineTime>& times) {
  const std::array<std::string, 4> colours = {"fft", "direct", "exponentials", "band"};
  std::vector<std::string> functions, engines;
  for (const EngineTime& t : times) {
    if (std::find(functions.begin(), functions.end(), t.function) == functions.end()) functions.push_back(t.function);
    if (std::find(engines.begin(), engines.end(), t.engine) == engines.end()) engines.push_back(t.engine);
  }
  std::vector<Plot> plots;
  for (const std::string& function : functions) {
    Plot plot;
    plot.title = "f(x) = " + function;
    plot.x = {"tokens", true};
    plot.y = {"seconds", true};
    PlotCurve chosen{"chosen", {}, {}, PlotStyle::rings};
    for (const std::string& engine : engines) {
      PlotCurve curve{engine, {}, {}, PlotStyle::line_and_dots};
      const auto known = std::find(colours.begin(), colours.end(), engine);
      const auto place = std::find(engines.begin(), engines.end(), engine) - engines.begin();
      curve.colour = static_cast<int>(known != colours.end() ? known - colours.begin() : 4 + place % 4);
      for (const EngineTime& t : times) {
        if (t.function != function || t.engine != engine) continue;
        curve.x.push_back(static_cast<double>(t.length));
        curve.y.push_back(t.seconds);
        if (t.chosen) chosen.x.push_back(curve.x.back()), chosen.y.push_back(t.seconds);
      }
      if (!curve.x.empty()) plot.curves.push_back(std::move(curve));
    }
    plot.curves.push_back(std::move(chosen));
    plots.push_back(std::move(plot));
  }
  return svg_plots(plots, 2);
}

}  // namespace espalier::benchmark
