// Masks on sequences: every engine side by side in one run, their errors, and how often the choice among them is right.
// SPDX-License-Identifier: Apache-2.0
//
// usage: sequence_benchmark table [LARGEST [WIDTH [FILE.csv]]]   engines by length, float, one thread (default 65536 64)
//        sequence_benchmark backward [LENGTH]                    gradients against the product (default 16384)
//        sequence_benchmark long [LENGTH]                        slow decays against double (default 1048576)
//        sequence_benchmark keys                                 rows under keys of wildly different size
//        sequence_benchmark choice [CASES [COSTS]]               regret of the choice over random cases; COSTS: calibrated
#include <espalier/core/random.hpp>
#include <espalier/masks/calibration.hpp>
#include <espalier/masks/grid.hpp>

#include "peak.hpp"
#include "smooth_functions.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace espalier;

namespace {

using Named = benchmark::NamedFunction;

// The smooth ones, and buckets as T5 has them: 32 of them on either side, the furthest from 16,384 on.
std::vector<Named> functions() {
  std::vector<Named> all = benchmark::smooth_functions();
  std::vector<double> values;
  const Random random(6);
  for (std::uint64_t k = 0; k < 32; ++k) values.push_back(std::exp(random.normal(k)));
  all.push_back({"T5 buckets", logarithmic_buckets(values, 16384)});
  return all;
}

const Context<Cpu> kOneThread{.threads = 1};

// Operands of one product: positive features, values of both signs.
struct Operands {
  Index length, width;
  std::vector<float> a, b, x, y, sums;

  Operands(Index n, Index w, std::uint64_t seed) : length(n), width(w) {
    const Random random(seed);
    const auto size = static_cast<std::size_t>(n * w);
    a.resize(size), b.resize(size), x.resize(size), y.resize(size), sums.resize(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < size; ++i) {
      a[i] = static_cast<float>(random.uniform(3 * i));
      b[i] = static_cast<float>(random.uniform(3 * i + 1));
      x[i] = static_cast<float>(random.uniform(3 * i + 2)) - 0.5f;
    }
  }
  MatrixView<float> view(std::vector<float>& v) const { return {v.data(), length, width}; }
  void product(const Mask<float>& mask) {
    mask.multiply_low_rank({view(a), view(b), view(x)}, {view(y), {sums.data(), length}}, kOneThread);
  }
  void plain(const Mask<float>& mask) { mask.multiply(view(x), view(y), kOneThread); }
};

// ||y~ - y|| / || |M o A B^T| |X| || over a few rows, and the worst of them, against double.
struct RowErrors {
  double norm = 0, worst = 0;
};
RowErrors row_errors(const Operands& o, const DistanceFunction& f, int rows) {
  RowErrors e;
  double error = 0, magnitude = 0;
  for (int k = 0; k < rows; ++k) {
    const Index i = (o.length - 1) * k / std::max(1, rows - 1);
    std::vector<double> y(static_cast<std::size_t>(o.width), 0.0), size(y);
    for (Index j = 0; j < o.length; ++j) {
      double s = 0;
      for (Index c = 0; c < o.width; ++c) {
        s += static_cast<double>(o.a[static_cast<std::size_t>(i * o.width + c)]) *
             o.b[static_cast<std::size_t>(j * o.width + c)];
      }
      s *= f(static_cast<double>(i > j ? i - j : j - i));
      for (std::size_t c = 0; c < y.size(); ++c) {
        const double t = s * o.x[static_cast<std::size_t>(j * o.width) + c];
        y[c] += t, size[c] += std::abs(t);
      }
    }
    double row = 0, row_size = 0;
    for (std::size_t c = 0; c < y.size(); ++c) {
      row += std::pow(y[c] - o.y[static_cast<std::size_t>(i * o.width) + c], 2);
      row_size += size[c] * size[c];
    }
    error += row, magnitude += row_size;
    if (row_size > 0) e.worst = std::max(e.worst, std::sqrt(row / row_size));
  }
  e.norm = std::sqrt(error / magnitude);
  return e;
}

GridOptions with_engine(const std::string& engine, const CostModel& cost = {}) {
  GridOptions options;
  options.engine = engine;
  options.tolerance = 1e-5;
  options.cost = cost;
  options.measure_fft = true;
  return options;
}

// The mask with one engine forced; null where it has none.
std::unique_ptr<GridMask<float>> forced(const DistanceFunction& f, Index length, const std::string& engine, Shape shape) {
  auto mask = std::make_unique<GridMask<float>>(std::vector<Index>{length}, f, Distance::l1, with_engine(engine));
  try {
    (void)mask->report(shape);
  } catch (const std::exception&) {
    return nullptr;
  }
  return mask;
}

struct Timed {
  std::string engine;
  std::unique_ptr<GridMask<float>> mask;
  double least = std::numeric_limits<double>::infinity();
};

void table(Index largest, Index width, const char* csv_name) {
  std::ofstream csv;
  if (csv_name != nullptr)
    csv.open(csv_name), csv << "function,length,width,engine,seconds,of_peak,extra_bytes,row_error,norm_error\n";
  std::printf("m = c = %td, float, tolerance 1e-5, one thread; least of 7 interleaved (3 beyond 65,536)\n", width);
  std::printf("%-22s %8s %-13s %10s %8s %8s %9s %10s %10s\n", "f", "L", "engine", "ms", "of peak", "chosen", "x tiles",
              "row error", "error");
  for (const auto& [name, f] : functions()) {
    for (Index length = 256; length <= largest; length *= length < 4096 ? 4 : 4) {
      Operands o(length, width, 11);
      const Shape shape{.columns = width, .rank = width};
      std::vector<Timed> engines;
      for (const char* engine : {"direct", "band", "fft", "piecewise", "exponentials"}) {
        // Tiles take 10 s at 65,536 and FFT as long at 2^18.
        if (std::string(engine) == "direct" && length > 16384) continue;
        if (std::string(engine) == "fft" && length > 65536) continue;
        if (auto mask = forced(f, length, engine, shape)) engines.push_back({engine, std::move(mask)});
      }
      double peak = 0;
      for (Timed& t : engines) o.product(*t.mask);  // plans, spectra
      const int rounds = length > 65536 ? 3 : 7;
      for (int r = 0; r < rounds; ++r) {
        peak = std::max(peak, benchmark::peak(1));
        for (Timed& t : engines) t.least = std::min(t.least, benchmark::time_of(1, [&] { o.product(*t.mask); }));
      }
      const GridMask<float> automatic({length}, f, Distance::l1, with_engine("auto"));
      const std::string chosen = automatic.report(shape).engine;
      const double pairs = static_cast<double>(length) * static_cast<double>(length);
      // Tiles beyond 16,384 by their speed there: their time is proportional to the pairs.
      static double tile_speed = 0;
      for (const Timed& t : engines) {
        if (t.engine == "direct") tile_speed = 4 * pairs * static_cast<double>(width) / t.least;
      }
      const double tiles = 4 * pairs * static_cast<double>(width) / tile_speed;
      for (Timed& t : engines) {
        const Report report = t.mask->report(shape);
        o.product(*t.mask);
        const RowErrors e = row_errors(o, f, 9);
        std::printf("%-22s %8td %-13s %10.3f %8.2f %8s %9.1f %10.1e %10.1e\n", name.c_str(), length, t.engine.c_str(),
                    1e3 * t.least, report.flops / t.least / peak, t.engine == chosen ? "*" : "", tiles / t.least, e.worst,
                    e.norm);
        std::fflush(stdout);
        if (csv.is_open()) {
          csv << name << ',' << length << ',' << width << ',' << t.engine << ',' << t.least << ','
              << report.flops / t.least / peak << ',' << report.extra_bytes << ',' << e.worst << ',' << e.norm << '\n';
        }
      }
    }
  }
}

void backward(Index length) {
  std::printf("gradients against the product, L = %td, m = c = 64, tolerance 1e-5\n", length);
  std::printf("%-22s %10s %10s %16s\n", "f", "product ms", "gradients", "with parameters");
  for (const auto& [name, f] : functions()) {
    Operands o(length, 64, 5);
    std::vector<float> y_bar = o.b, r_bar(static_cast<std::size_t>(length), 0.1f), a_bar(o.a.size()), b_bar(o.a.size()),
                       x_bar(o.a.size());
    const GridMask<float> mask({length}, f, Distance::l1, with_engine(f.constant_pieces() ? "piecewise" : "exponentials"));
    std::vector<float> p(mask.parameters().size());
    const auto gradients = [&](bool learn) {
      VectorView<float> parameters;
      if (learn) parameters = {p.data(), static_cast<Index>(p.size())};
      mask.multiply_low_rank_vjp({o.view(o.a), o.view(o.b), o.view(o.x)}, {o.view(y_bar), {r_bar.data(), length}},
                                 {o.view(a_bar), o.view(b_bar), o.view(x_bar), parameters}, kOneThread);
    };
    gradients(true);
    double least[3] = {1e9, 1e9, 1e9};
    for (int k = 0; k < 7; ++k) {
      least[0] = std::min(least[0], benchmark::time_of(1, [&] { o.product(mask); }));
      least[1] = std::min(least[1], benchmark::time_of(1, [&] { gradients(false); }));
      least[2] = std::min(least[2], benchmark::time_of(1, [&] { gradients(true); }));
    }
    std::printf("%-22s %10.2f %9.2fx %15.2fx\n", name.c_str(), 1e3 * least[0], least[1] / least[0], least[2] / least[0]);
  }
}

void long_decays(Index length) {
  std::printf("slow decays at L = %td, plain product of one row sum and masked product, worst of 9 rows against double\n",
              length);
  for (const double rate : {1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7}) {
    for (const bool turning : {false, true}) {
      const DistanceFunction f = turning ? DistanceFunction(DampedCosine{0.02, rate}) : DistanceFunction(Exponential{rate});
      const GridMask<float> mask({length}, f, Distance::l1, with_engine("exponentials"));
      Operands o(length, 16, 3);
      const double seconds = benchmark::time_of(1, [&] { o.product(mask); });
      const RowErrors e = row_errors(o, f, 9);
      std::printf("rate %.0e%s: row error %.1e, %.0f ns a token\n", rate, turning ? ", frequency 0.02" : "", e.worst,
                  1e9 * seconds / static_cast<double>(length));
    }
  }
}

void keys() {
  const Index length = 8192;
  std::printf("log-normal keys (log-std 8), L = %td, worst row of 65\n", length);
  for (const auto& [name, f] : std::vector<Named>{{"exp(-x/20)", Exponential{1 / 20.0}},
                                                  {"1/(1+x/16)", Rational{16}},
                                                  {"exp(-sqrt(x)/6)", StretchedExponential{36, 0.5}},
                                                  {"exp(-(x/300)^2)", Gaussian{300}}}) {
    Operands o(length, 64, 21);
    const Random random(22);
    for (Index j = 0; j < length; ++j) {
      const double size = std::exp(8 * random.normal(static_cast<std::uint64_t>(j)) - 20);
      for (Index c = 0; c < 64; ++c) o.b[static_cast<std::size_t>(j * 64 + c)] *= static_cast<float>(size);
    }
    for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::pointwise}) {
      GridOptions options = with_engine("exponentials");
      options.tolerance_kind = kind;
      try {
        const GridMask<float> mask({length}, f, Distance::l1, options);
        o.product(mask);
        std::printf("%-18s exponentials, kind %-9s %.1e\n", name.c_str(), kind == ToleranceKind::row ? "row" : "pointwise",
                    row_errors(o, f, 65).worst);
      } catch (const std::exception& error) {
        std::printf("%-18s exponentials, kind pointwise: %s\n", name.c_str(), error.what());
      }
    }
    if (const auto fft = forced(f, length, "fft", {.columns = 64, .rank = 64})) {
      o.product(*fft);
      std::printf("%-18s FFT %.1e\n", name.c_str(), row_errors(o, f, 65).worst);
    }
  }
}

void choice(int cases, bool calibrated) {
  const CostModel cost = calibrated ? calibrated_cost_model() : CostModel{};
  const Random random(4);
  int within = 0;
  double worst = 0;
  const std::vector<Named> all = functions();
  for (int k = 0; k < cases; ++k) {
    const auto draw = [&](std::uint64_t n) { return random.uniform(16 * static_cast<std::uint64_t>(k) + n); };
    const Named& named = all[static_cast<std::size_t>(draw(0) * static_cast<double>(all.size()))];
    const auto length = static_cast<Index>(std::exp(std::log(128.0) + draw(1) * std::log(16384.0 / 128)));
    const Index width = Index{16} << static_cast<int>(draw(2) * 4);
    const bool features = draw(3) < 0.7;
    const Shape shape{.columns = width, .rank = features ? width : 0};
    Operands o(length, width, 31);
    const GridMask<float> automatic({length}, named.f, Distance::l1, with_engine("auto", cost));
    const std::string chosen = automatic.report(shape).engine;
    std::vector<Timed> engines;
    for (const char* engine : {"direct", "band", "fft", "piecewise", "exponentials"}) {
      if (auto mask = forced(named.f, length, engine, shape)) engines.push_back({engine, std::move(mask)});
    }
    const auto run = [&](const GridMask<float>& mask) { features ? o.product(mask) : o.plain(mask); };
    for (Timed& t : engines) run(*t.mask);
    for (int r = 0; r < 7; ++r) {
      for (Timed& t : engines) t.least = std::min(t.least, benchmark::time_of(1, [&] { run(*t.mask); }));
    }
    const auto best =
        std::min_element(engines.begin(), engines.end(), [](const Timed& p, const Timed& q) { return p.least < q.least; });
    const auto mine = std::find_if(engines.begin(), engines.end(), [&](const Timed& t) { return t.engine == chosen; });
    double regret = mine->least / best->least - 1;
    if (regret <= 0.05) regret = 0;
    within += regret <= 0.10;
    worst = std::max(worst, regret);
    std::printf("%-22s L %6td width %4td %-8s chosen %-13s best %-13s regret %.0f %%\n", named.name.c_str(), length, width,
                features ? "features" : "plain", chosen.c_str(), best->engine.c_str(), 100 * regret);
    std::fflush(stdout);
  }
  std::printf("%s costs: regret at most 10 %% in %d of %d cases, worst %.0f %%\n", calibrated ? "calibrated" : "shipped",
              within, cases, 100 * worst);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "table";
  const auto number = [&](int at, Index otherwise) { return argc > at ? static_cast<Index>(std::atoll(argv[at])) : otherwise; };
  if (what == "table") {
    table(number(2, 65536), number(3, 64), argc > 4 ? argv[4] : nullptr);
  } else if (what == "backward") {
    backward(number(2, 16384));
  } else if (what == "long") {
    long_decays(number(2, 1048576));
  } else if (what == "keys") {
    keys();
  } else if (what == "choice") {
    choice(static_cast<int>(number(2, 60)), argc > 3);
  } else {
    std::fprintf(stderr, "usage: sequence_benchmark table|backward|long|keys|choice (see the first lines of the source)\n");
    return 2;
  }
  return 0;
}
