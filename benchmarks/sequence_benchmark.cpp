// Masks on sequences: every engine side by side in one run, and their errors.
// SPDX-License-Identifier: Apache-2.0
//
// usage: sequence_benchmark table [LARGEST [WIDTH [FILE.csv [FILE.svg]]]]
//                                                                engines by length, float, one thread (default 65536 64)
//        sequence_benchmark backward [LENGTH]                    gradients against the product (default 16384)
//        sequence_benchmark long [LENGTH]                        slow decays against double (default 1048576)
//        sequence_benchmark keys                                 rows under keys of wildly different size
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include "engine_times.hpp"
#include "memory.hpp"
#include "peak.hpp"
#include "smooth_functions.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace espalier;

namespace {

using Named = benchmark::NamedFunction;

// 32 of them on either side, the furthest from 16,384 on.
DistanceFunction buckets() {
  std::vector<double> values;
  const Random random(6);
  for (std::uint64_t k = 0; k < 32; ++k) values.push_back(std::exp(random.normal(k)));
  return logarithmic_buckets(values, 16384);
}

std::vector<Named> functions() {
  std::vector<Named> all = benchmark::smooth_functions();
  all.push_back({"T5 buckets", buckets()});
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

// Evenly spaced rows of the product in double: values, and for each the sum of what was added up, signs left out.
struct ExactRows {
  std::vector<Index> rows;
  std::vector<double> values, sizes;  // [row, column]
};
ExactRows exact_rows(const Operands& o, const DistanceFunction& f, int count) {
  ExactRows exact;
  const auto width = static_cast<std::size_t>(o.width);
  std::vector<double> f_of(static_cast<std::size_t>(o.length));
  for (Index d = 0; d < o.length; ++d) f_of[static_cast<std::size_t>(d)] = f(static_cast<double>(d));
  for (int k = 0; k < count; ++k) {
    const Index i = (o.length - 1) * k / std::max(1, count - 1);
    exact.rows.push_back(i);
    std::vector<double> y(width, 0.0), size(y);
    for (Index j = 0; j < o.length; ++j) {
      const float *a = o.a.data() + i * o.width, *b = o.b.data() + j * o.width, *x = o.x.data() + j * o.width;
      double s = 0;
      for (std::size_t c = 0; c < width; ++c) s += static_cast<double>(a[c]) * b[c];
      s *= f_of[static_cast<std::size_t>(i > j ? i - j : j - i)];
      for (std::size_t c = 0; c < width; ++c) {
        const double t = s * x[c];
        y[c] += t, size[c] += std::abs(t);
      }
    }
    exact.values.insert(exact.values.end(), y.begin(), y.end());
    exact.sizes.insert(exact.sizes.end(), size.begin(), size.end());
  }
  return exact;
}

// ||y~ - y|| / || |M o A B^T| |X| || over these rows, and the worst of them.
struct RowErrors {
  double norm = 0, worst = 0;
};
RowErrors row_errors(const Operands& o, const ExactRows& exact) {
  RowErrors e;
  double error = 0, magnitude = 0;
  const auto width = static_cast<std::size_t>(o.width);
  for (std::size_t k = 0; k < exact.rows.size(); ++k) {
    double row = 0, row_size = 0;
    for (std::size_t c = 0; c < width; ++c) {
      const double got = o.y[static_cast<std::size_t>(exact.rows[k]) * width + c];
      row += std::pow(exact.values[k * width + c] - got, 2);
      row_size += std::pow(exact.sizes[k * width + c], 2);
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

// Those that the mask offers by itself, and those that can be forced although it would not look at them.
std::vector<Timed> timed_engines(const DistanceFunction& f, Index length, Shape shape, const GridMask<float>& automatic) {
  // What is predicted to take longer is left out: tiles at 65,536 tokens (16 s), FFT at 2^18 (11 s).
  constexpr double longest_seconds = 6;
  std::vector<std::string> names = {"direct", "band", "fft", "piecewise", "exponentials"};
  for (const Report& report : automatic.engines(shape)) {
    if (std::find(names.begin(), names.end(), report.engine) == names.end()) names.push_back(report.engine);
  }
  std::vector<Timed> engines;
  for (const std::string& name : names) {
    auto mask = forced(f, length, name, shape);
    if (mask && mask->report(shape).predicted_seconds < longest_seconds) engines.push_back({name, std::move(mask)});
  }
  return engines;
}

// One function at one length: every engine once for memory and errors, then interleaved; appends to `times`.
void measure(const Named& named, Operands& o, std::vector<benchmark::EngineTime>& times) {
  const Shape shape{.columns = o.width, .rank = o.width};
  const GridMask<float> automatic({o.length}, named.f, Distance::l1, with_engine("auto"));
  const std::string chosen = automatic.report(shape).engine;
  std::vector<Timed> engines = timed_engines(named.f, o.length, shape, automatic);
  std::vector<benchmark::EngineTime> results;
  std::vector<int> rounds;
  const ExactRows exact = exact_rows(o, named.f, 9);
  for (const Timed& t : engines) {
    const Report report = t.mask->report(shape);
    benchmark::EngineTime r{named.name, t.engine, o.length, o.width, t.engine == chosen};
    double first = 0;
    r.extra_bytes = benchmark::peak_memory_of([&] { first = benchmark::time_of(1, [&] { o.product(*t.mask); }); });
    r.bytes_bound = static_cast<double>(report.extra_bytes);
    const RowErrors e = row_errors(o, exact);
    r.row_error = e.worst, r.norm_error = e.norm;
    results.push_back(r);
    // Two seconds each, at least twice: what takes long is disturbed less.
    rounds.push_back(std::clamp(static_cast<int>(2 / first), 2, 7));
  }
  double peak = 0;
  for (int r = 0; r < 7; ++r) {
    peak = std::max(peak, benchmark::peak(1));
    for (std::size_t e = 0; e < engines.size(); ++e) {
      if (r >= rounds[e]) continue;
      engines[e].least = std::min(engines[e].least, benchmark::time_of(1, [&] { o.product(*engines[e].mask); }));
    }
  }
  for (std::size_t e = 0; e < engines.size(); ++e) {
    results[e].seconds = engines[e].least;
    results[e].of_peak = engines[e].mask->report(shape).flops / engines[e].least / peak;
    times.push_back(results[e]);
  }
}

void table(Index largest, Index width, const char* csv_name, const char* picture_name) {
  std::printf("m = c = %td, float, tolerance 1e-5, one thread; least of 2 to 7 interleaved; MB: peak of a product\n", width);
  std::printf("%-22s %8s %-13s %10s %8s %8s %9s %9s %10s %10s\n", "f", "L", "engine", "ms", "of peak", "chosen", "x tiles",
              "MB", "row error", "error");
  std::vector<benchmark::EngineTime> times, thrown_away;
  // The first call of each engine also loads its code, and FFTW's.
  Operands small(256, width, 11);
  measure(benchmark::smooth_functions().front(), small, thrown_away);
  for (const Named& named : benchmark::smooth_functions()) {
    // Tiles beyond their last measured length by their speed there (marked ~): their time is proportional to the pairs.
    double tiles_a_pair = 0;
    for (Index length = 256; length <= largest; length *= length < 4096 ? 2 : 4) {  // finer where the curves cross
      Operands o(length, width, 11);
      const std::size_t before = times.size();
      measure(named, o, times);
      const double pairs = static_cast<double>(length) * static_cast<double>(length);
      bool measured = false;
      for (std::size_t e = before; e < times.size(); ++e) {
        if (times[e].engine == "direct") tiles_a_pair = times[e].seconds / pairs, measured = true;
      }
      for (std::size_t e = before; e < times.size(); ++e) {
        const benchmark::EngineTime& t = times[e];
        std::printf("%-22s %8td %-13s %10.3f %8.2f %8s %s%8.1f %9.1f %10.1e %10.1e\n", t.function.c_str(), t.length,
                    t.engine.c_str(), 1e3 * t.seconds, t.of_peak, t.chosen ? "*" : "", measured ? " " : "~",
                    tiles_a_pair * pairs / t.seconds, 1e-6 * t.extra_bytes, t.row_error, t.norm_error);
      }
      std::fflush(stdout);
    }
  }
  if (csv_name != nullptr) benchmark::write_csv(csv_name, times);
  if (picture_name != nullptr) {
    WholeFile picture(picture_name);
    picture.write(benchmark::time_picture(times));
    picture.commit();
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
      const RowErrors e = row_errors(o, exact_rows(o, f, 9));
      std::printf("rate %.0e%s: row error %.1e, %.0f ns a token\n", rate, turning ? ", frequency 0.02" : "", e.worst,
                  1e9 * seconds / static_cast<double>(length));
    }
  }
}

// Of several draws: how far apart the largest keys are decides, and no draw stands for all.
void keys() {
  const Index length = 8192;
  constexpr int kRows = 2048, kDraws = 8;
  std::printf("log-normal keys (log-std 8), L = %td, worst row of %d, and all of them together; largest of %d draws\n", length,
              kRows, kDraws);
  for (const auto& [name, f] : std::vector<Named>{{"exp(-x/20)", Exponential{1 / 20.0}},
                                                  {"1/(1+x/16)", Rational{16}},
                                                  {"exp(-sqrt(x)/6)", StretchedExponential{36, 0.5}},
                                                  {"exp(-(x/300)^2)", Gaussian{300}}}) {
    struct Way {
      std::string name;
      std::unique_ptr<GridMask<float>> mask;
      std::string refused;
      RowErrors worst{};
    };
    std::vector<Way> ways;
    for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::pointwise}) {
      Way way{std::string("exponentials, kind ") + (kind == ToleranceKind::row ? "row" : "pointwise"), nullptr, {}};
      GridOptions options = with_engine("exponentials");
      options.tolerance_kind = kind;
      try {
        way.mask = std::make_unique<GridMask<float>>(std::vector<Index>{length}, f, Distance::l1, options);
        way.mask->report({.columns = 64, .rank = 64});
      } catch (const std::exception& error) {
        way.refused = error.what();
      }
      ways.push_back(std::move(way));
    }
    for (const auto& [way, engine] : {std::pair{"FFT", "fft"}, std::pair{"tiles", "direct"}}) {
      if (auto mask = forced(f, length, engine, {.columns = 64, .rank = 64})) ways.push_back({way, std::move(mask), {}});
    }
    for (int draw = 0; draw < kDraws; ++draw) {
      Operands o(length, 64, static_cast<std::uint64_t>(21 + 2 * draw));
      const Random random(static_cast<std::uint64_t>(22 + 2 * draw));
      for (Index j = 0; j < length; ++j) {
        const double size = std::exp(8 * random.normal(static_cast<std::uint64_t>(j)) - 20);
        for (Index c = 0; c < 64; ++c) o.b[static_cast<std::size_t>(j * 64 + c)] *= static_cast<float>(size);
      }
      const ExactRows exact = exact_rows(o, f, kRows);
      for (Way& way : ways) {
        if (!way.refused.empty()) continue;
        o.product(*way.mask);
        const RowErrors e = row_errors(o, exact);
        way.worst = {std::max(way.worst.norm, e.norm), std::max(way.worst.worst, e.worst)};
      }
    }
    for (const Way& way : ways) {
      if (!way.refused.empty()) {
        std::printf("%-18s %s: %s\n", name.c_str(), way.name.c_str(), way.refused.c_str());
        continue;
      }
      std::printf("%-18s %-29s %.1e  %.1e\n", name.c_str(), way.name.c_str(), way.worst.worst, way.worst.norm);
      for (const std::string& warning : way.mask->report({.columns = 64, .rank = 64}).warnings) {
        std::printf("%-18s   warns: %s\n", "", warning.c_str());
      }
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "table";
  const auto number = [&](int at, Index otherwise) { return argc > at ? static_cast<Index>(std::atoll(argv[at])) : otherwise; };
  if (what == "table") {
    table(number(2, 65536), number(3, 64), argc > 4 ? argv[4] : nullptr, argc > 5 ? argv[5] : nullptr);
  } else if (what == "backward") {
    backward(number(2, 16384));
  } else if (what == "long") {
    long_decays(number(2, 1048576));
  } else if (what == "keys") {
    keys();
  } else {
    std::fprintf(stderr, "usage: sequence_benchmark table|backward|long|keys (see the first lines of the source)\n");
    return 2;
  }
  return 0;
}
