// How often masks on grids choose the fastest of their engines: regret over random cases, drawn by a seed.
// SPDX-License-Identifier: Apache-2.0
//
// usage: choice_benchmark [SEED [CASES [shipped|calibrated [engines [CASE]]]]]      (default 4 60 shipped; CASE: that one only)
//
// A case: a grid of one to three axes, thin ones included, 256 to 65,536 points; a smooth, turning, piecewise constant or
// random table, causal or not; the plain product of 1 to 128 columns, or the masked one of 1 to 128 features and columns. Every
// engine that can be forced runs on it, one thread, interleaved, least processor time of several rounds. Regret: the time of
// the engine that the mask chooses by itself over the least, less one; within 5 % counts as 0. `engines` prints every engine's
// time beside the predicted one.
#include <espalier/core/random.hpp>
#include <espalier/masks/calibration.hpp>
#include <espalier/masks/grid.hpp>

#include "peak.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

using namespace espalier;

namespace {

const Context<Cpu> kOneThread{.threads = 1};
// Points times features times columns: the FFT then takes about 0.7 s, everything else less.
constexpr double kMostWork = 1 << 26;
// An engine is not run where it is predicted to take this long and this many times the least prediction.
constexpr double kLongSeconds = 0.5, kLongRatio = 5;
constexpr double kCaseSeconds = 1.5;  // of timing; two rounds in any case

struct Case {
  std::string name;
  std::vector<Index> sizes;
  std::optional<DistanceFunction> f;  // empty: the table
  Distance distance = Distance::l1;
  std::vector<double> table;
  bool causal = false;
  Shape shape;

  Index length() const {
    Index n = 1;
    for (const Index s : sizes) n *= s;
    return n;
  }
  std::unique_ptr<GridMask<float>> mask(const std::string& engine, const CostModel& cost) const {
    GridOptions options;
    options.engine = engine;
    options.cost = cost;
    options.causal = causal;
    if (f) return std::make_unique<GridMask<float>>(sizes, *f, distance, options);
    return std::make_unique<GridMask<float>>(sizes, table, options);
  }
  std::string text() const {
    std::string size;
    for (const Index n : sizes) {
      if (!size.empty()) size += 'x';
      size += std::to_string(n);
    }
    char line[160];
    std::snprintf(line, sizeof line, "%-12s %-26s%s m %3td c %3td", size.c_str(), name.c_str(), causal ? " causal" : "       ",
                  shape.rank, shape.columns);
    return line;
  }
};

// Numbers of one case, in the order they are asked for.
class Draw {
 public:
  Draw(std::uint64_t seed, int number) : random_(seed), at_(static_cast<std::uint64_t>(number) << 32) {}
  double uniform() { return random_.uniform(at_++); }
  bool chance(double p) { return uniform() < p; }
  Index integer(Index first, Index last) {
    return first + static_cast<Index>(uniform() * static_cast<double>(last - first + 1));
  }
  double logarithmic(double low, double high) { return low * std::exp(uniform() * std::log(high / low)); }
  double normal() { return random_.normal(at_++); }

 private:
  Random random_;
  std::uint64_t at_;
};

std::vector<Index> draw_sizes(Draw& draw) {
  const double length = draw.logarithmic(256, 65536), kind = draw.uniform();
  const auto rounded = [](double x) { return std::max<Index>(2, static_cast<Index>(std::lround(x))); };
  std::vector<Index> sizes;
  if (kind < 0.4) {
    sizes = {rounded(length)};
  } else if (kind < 0.6) {  // an image
    const double aspect = draw.logarithmic(0.5, 2);
    sizes = {rounded(std::sqrt(length * aspect)), rounded(std::sqrt(length / aspect))};
  } else if (kind < 0.8) {  // a thin grid
    const double thin = draw.logarithmic(2, 16);
    sizes = {rounded(thin), rounded(length / thin)};
  } else if (kind < 0.9) {  // a volume
    const double p = draw.logarithmic(0.5, 2), q = draw.logarithmic(0.5, 2), side = std::cbrt(length);
    sizes = {rounded(side * p), rounded(side * q), rounded(side / p / q)};
  } else {  // a few frames of an image
    const double frames = draw.logarithmic(2, 16), side = std::sqrt(length / frames);
    sizes = {rounded(frames), rounded(side), rounded(side)};
  }
  if (sizes.size() > 1 && draw.chance(0.3)) std::swap(sizes.front(), sizes.back());
  // Half of all lengths are whole multiples of 8, as users choose them.
  if (draw.chance(0.5)) {
    for (Index& n : sizes) n = n < 12 ? n : (n + 4) / 8 * 8;
  }
  return sizes;
}

Index draw_width(Draw& draw) {
  const double width = draw.logarithmic(1, 128);
  return draw.chance(0.5) ? Index{1} << std::lround(std::log2(width)) : static_cast<Index>(std::lround(width));
}

void draw_values(Draw& draw, Case& c) {
  double reach = 0;
  for (const Index n : c.sizes) reach = std::max(reach, static_cast<double>(n));
  const double kind = draw.uniform(), scale = draw.logarithmic(2, reach), which = draw.uniform();
  char text[64];
  c.distance = c.sizes.size() == 1 || draw.chance(0.5) ? Distance::l1 : draw.chance(0.8) ? Distance::l2 : Distance::max;
  const char* by = c.sizes.size() == 1 ? "" : c.distance == Distance::l1 ? " l1" : c.distance == Distance::l2 ? " l2" : " max";
  if (kind < 0.45) {
    if (which < 0.3) {
      c.f = Exponential{1 / scale};
      std::snprintf(text, sizeof text, "exp(-d/%.3g)%s", scale, by);
    } else if (which < 0.55) {
      c.f = Rational{scale};
      std::snprintf(text, sizeof text, "1/(1+d/%.3g)%s", scale, by);
    } else if (which < 0.8) {
      c.f = Gaussian{scale};
      std::snprintf(text, sizeof text, "exp(-(d/%.3g)^2)%s", scale, by);
    } else {
      c.f = StretchedExponential{scale, 0.5};
      std::snprintf(text, sizeof text, "exp(-sqrt(d/%.3g))%s", scale, by);
    }
  } else if (kind < 0.6) {
    const double period = draw.logarithmic(4, reach);
    c.f = DampedCosine{1 / period, 1 / scale};
    std::snprintf(text, sizeof text, "cos(d/%.3g)exp(-d/%.3g)%s", period, scale, by);
  } else if (kind < 0.8) {
    const Index pieces = which < 0.4 ? 32 : draw.integer(2, 12);
    std::vector<double> values, ends;
    for (Index k = 0; k < pieces; ++k) values.push_back(std::exp(draw.normal()));
    if (which < 0.4) {
      c.f = logarithmic_buckets(values, std::max(64.0, reach));
    } else {
      for (Index k = 1; k < pieces; ++k) ends.push_back(std::ceil(draw.logarithmic(1, reach)) - 0.5);
      std::sort(ends.begin(), ends.end());
      ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
      values.resize(ends.size() + 1);
      c.f = PiecewiseConstant{ends, values};
    }
    std::snprintf(text, sizeof text, "%td pieces%s", static_cast<Index>(values.size()), by);
  } else {
    std::size_t size = 1;
    for (const Index n : c.sizes) size *= static_cast<std::size_t>(2 * n - 1);
    for (std::size_t k = 0; k < size; ++k) c.table.push_back(draw.normal());
    std::snprintf(text, sizeof text, "white noise");
  }
  c.name = text;
}

Case draw_case(std::uint64_t seed, int number) {
  Draw draw(seed, number);
  Case c;
  c.sizes = draw_sizes(draw);
  c.causal = draw.chance(0.3);
  c.shape.columns = draw_width(draw);
  if (draw.chance(0.5)) c.shape.rank = draw.chance(0.5) ? c.shape.columns : draw_width(draw);
  const double width = static_cast<double>(std::max<Index>(1, c.shape.rank) * c.shape.columns);
  while (static_cast<double>(c.length()) * width > kMostWork) {
    Index& longest = *std::max_element(c.sizes.begin(), c.sizes.end());
    longest = (longest + 1) / 2;
  }
  draw_values(draw, c);
  return c;
}

// Positive features, values of both signs.
struct Operands {
  Shape shape;
  Index length;
  std::vector<float> a, b, x, y, sums;
  explicit Operands(const Case& c) : shape(c.shape), length(c.length()) {
    const Random random(31);
    const auto fill = [&](std::vector<float>& v, Index width, std::uint64_t stream, float shift) {
      v.resize(static_cast<std::size_t>(length * width));
      for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(random.uniform(3 * i + stream)) - shift;
    };
    fill(a, shape.rank, 0, 0), fill(b, shape.rank, 1, 0), fill(x, shape.columns, 2, 0.5f);
    y.resize(x.size()), sums.resize(static_cast<std::size_t>(length));
  }
  void product(const Mask<float>& mask) {
    const MatrixView<float> in(x.data(), length, shape.columns), out(y.data(), length, shape.columns);
    if (shape.rank == 0) return mask.multiply(in, out, kOneThread);
    mask.multiply_low_rank({{a.data(), length, shape.rank}, {b.data(), length, shape.rank}, in}, {out, {sums.data(), length}},
                           kOneThread);
  }
};

struct Timed {
  std::string engine;
  std::unique_ptr<GridMask<float>> mask;
  double predicted = 0, set_up = 0;
  int repeats = 1;
  double least = std::numeric_limits<double>::infinity();
};

// Those that can serve; not the ones that are predicted to take far longer than others, unless chosen.
std::vector<Timed> engines_of(const Case& c, const std::string& chosen, const CostModel& cost) {
  std::vector<Timed> engines;
  double least = std::numeric_limits<double>::infinity();
  for (const char* name : {"direct", "fft", "piecewise", "exponentials", "band", "separable", "far-field"}) {
    // Never chosen on causal masks: their zeros would be rounding errors.
    if (c.causal && std::string(name) == "separable") continue;
    Timed t;
    t.engine = name;
    try {
      t.set_up = benchmark::time_of(1, [&] {
        t.mask = c.mask(name, cost);
        t.predicted = t.mask->report(c.shape).predicted_seconds;
      });
    } catch (const std::exception&) {
      continue;
    }
    least = std::min(least, t.predicted);
    engines.push_back(std::move(t));
  }
  engines.erase(std::remove_if(engines.begin(), engines.end(),
                               [&](const Timed& t) {
                                 return t.engine != chosen && t.predicted > kLongSeconds && t.predicted > kLongRatio * least;
                               }),
                engines.end());
  return engines;
}

void measure(std::vector<Timed>& engines, const std::string& chosen, Operands& o) {
  double spent = 0;
  const auto round = [&](Timed& t) {
    const double seconds = benchmark::time_of(1, [&] {
      for (int k = 0; k < t.repeats; ++k) o.product(*t.mask);
    });
    spent += seconds;
    return seconds / t.repeats;
  };
  for (Timed& t : engines) {
    (void)round(t);  // plans and spectra
    t.repeats = std::clamp(static_cast<int>(3e-4 / round(t)), 1, 100);
  }
  spent = 0;
  for (int r = 0; r < 12 && (r < 2 || spent < kCaseSeconds); ++r) {
    double best = std::numeric_limits<double>::infinity();
    for (const Timed& t : engines) best = std::min(best, t.least);
    for (Timed& t : engines) {
      // What has lost clearly is not run again.
      if (r < 2 || t.engine == chosen || t.least < 1.5 * best) t.least = std::min(t.least, round(t));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto seed = static_cast<std::uint64_t>(argc > 1 ? std::atoll(argv[1]) : 4);
  const int cases = argc > 2 ? std::atoi(argv[2]) : 60, only = argc > 5 ? std::atoi(argv[5]) : -1;
  const bool calibrated = argc > 3 && std::string(argv[3]) == "calibrated", details = argc > 4;
  const CostModel cost = calibrated ? calibrated_cost_model() : GridMask<float>({2}, Exponential{1}).options().cost;
  std::printf("Gflop/s: tiles %.0f, chunks %.0f, plain %.0f, FFT %.0f; %.0f GB/s, %.2f us a call\n", 1e-9 * cost.tile_flops,
              1e-9 * cost.chunk_flops, 1e-9 * cost.chunk_plain_flops, 1e-9 * cost.fft_flops, 1e-9 * cost.bandwidth,
              1e6 * cost.call_seconds);
  int within = 0, counted = 0;
  double worst = 0;
  for (int k = 0; k < cases; ++k) {
    if (only >= 0 && k != only) continue;
    const Case c = draw_case(seed, k);
    std::string chosen;
    const double planning = benchmark::time_of(1, [&] { chosen = c.mask("auto", cost)->report(c.shape).engine; });
    std::vector<Timed> engines = engines_of(c, chosen, cost);
    Operands o(c);
    measure(engines, chosen, o);
    const auto mine = std::find_if(engines.begin(), engines.end(), [&](const Timed& t) { return t.engine == chosen; });
    // A far field whose set-up takes longer than the whole product is not looked for.
    const auto time = [&](const Timed& t) {
      const bool counts = t.engine != "far-field" || chosen == "far-field" || t.set_up < mine->least;
      return counts ? t.least : std::numeric_limits<double>::infinity();
    };
    const auto best =
        std::min_element(engines.begin(), engines.end(), [&](const Timed& p, const Timed& q) { return time(p) < time(q); });
    double regret = mine->least / best->least - 1;
    if (regret <= 0.05) regret = 0;
    within += regret <= 0.10;
    ++counted;
    worst = std::max(worst, regret);
    std::printf("%2d %s chosen %-12s best %-12s %9.3f ms regret %.0f %%\n", k, c.text().c_str(), chosen.c_str(),
                best->engine.c_str(), 1e3 * best->least, 100 * regret);
    if (details) {
      std::printf("     planned in %.1f ms\n", 1e3 * planning);
      for (const Timed& t : engines) {
        std::printf("     %-12s %10.3f ms, predicted %10.3f (%.2f), set up in %.1f ms\n", t.engine.c_str(), 1e3 * t.least,
                    1e3 * t.predicted, t.predicted / t.least, 1e3 * t.set_up);
      }
    }
    std::fflush(stdout);
  }
  std::printf("seed %llu, %s costs: regret at most 10 %% in %d of %d cases, worst %.0f %%\n",
              static_cast<unsigned long long>(seed), calibrated ? "calibrated" : "shipped", within, counted, 100 * worst);
  return 0;
}
