// Masks on grids of several axes: tiles, FFT and the far field side by side, set-up and errors included, and what is chosen.
// SPDX-License-Identifier: Apache-2.0
//
// usage: far_field_benchmark [LARGEST_SIDE [ROUNDS]]      float, m = c = 64, one thread (default 256 3)
// Times are thread CPU time, the engines one after the other in every round, the least of all rounds. Errors are against double
// on some fifty rows: of the whole and of the worst row, relative to the same sums of absolute values. Gradients of a, b and x,
// of every engine up to 16,384 points and of the far field beyond: as multiples of the product.
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <string>
#include <vector>

using namespace espalier;

namespace {

constexpr Index kWidth = 64;
const Context<Cpu> kOneThread{.threads = 1};

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Case {
  std::string name;
  std::vector<Index> sizes;
  std::vector<double> table;
};

struct Operands {
  Index length;
  std::vector<float> a, b, x, y, sums, a_bar, b_bar, x_bar;
  explicit Operands(Index n) : length(n) {
    const Random random(3);
    const auto size = static_cast<std::size_t>(n * kWidth);
    a.resize(size), b.resize(size), x.resize(size), y.resize(size), sums.resize(static_cast<std::size_t>(n));
    a_bar.resize(size), b_bar.resize(size), x_bar.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      a[i] = static_cast<float>(random.uniform(3 * i));
      b[i] = static_cast<float>(random.uniform(3 * i + 1));
      x[i] = static_cast<float>(random.uniform(3 * i + 2)) - 0.5f;
    }
  }
  double seconds(const Mask<float>& mask) {
    const double start = cpu_seconds();
    mask.multiply_low_rank({{a.data(), length, kWidth}, {b.data(), length, kWidth}, {x.data(), length, kWidth}},
                           {{y.data(), length, kWidth}, {sums.data(), length}}, kOneThread);
    return cpu_seconds() - start;
  }
  // With the outputs as cotangents.
  double backward_seconds(const Mask<float>& mask) {
    const double start = cpu_seconds();
    mask.multiply_low_rank_vjp(
        {{a.data(), length, kWidth}, {b.data(), length, kWidth}, {x.data(), length, kWidth}},
        {{y.data(), length, kWidth}, {sums.data(), length}},
        {{a_bar.data(), length, kWidth}, {b_bar.data(), length, kWidth}, {x_bar.data(), length, kWidth}, {}}, kOneThread);
    return cpu_seconds() - start;
  }
};

struct Errors {
  double whole = 0, row = 0;
};

Errors errors(const Case& c, const Operands& o) {
  Errors result;
  double all = 0, all_size = 0;
  std::vector<double> exact(kWidth), size(kWidth);
  for (Index i = 0; i < o.length; i += std::max<Index>(1, o.length / 53)) {
    std::fill(exact.begin(), exact.end(), 0.0);
    std::fill(size.begin(), size.end(), 0.0);
    for (Index j = 0; j < o.length; ++j) {
      Index at = 0, step = 1, u = i, v = j;
      for (std::size_t t = c.sizes.size(); t-- > 0; u /= c.sizes[t], v /= c.sizes[t]) {
        at += step * (u % c.sizes[t] - v % c.sizes[t] + c.sizes[t] - 1);
        step *= 2 * c.sizes[t] - 1;
      }
      double w = 0;
      for (Index k = 0; k < kWidth; ++k) {
        w += static_cast<double>(o.a[static_cast<std::size_t>(i * kWidth + k)]) *
             static_cast<double>(o.b[static_cast<std::size_t>(j * kWidth + k)]);
      }
      w *= c.table[static_cast<std::size_t>(at)];
      for (Index k = 0; k < kWidth; ++k) {
        const double term = w * static_cast<double>(o.x[static_cast<std::size_t>(j * kWidth + k)]);
        exact[static_cast<std::size_t>(k)] += term;
        size[static_cast<std::size_t>(k)] += std::abs(term);
      }
    }
    double error = 0, norm = 0;
    for (Index k = 0; k < kWidth; ++k) {
      const auto at = static_cast<std::size_t>(k);
      error += std::pow(static_cast<double>(o.y[static_cast<std::size_t>(i * kWidth + k)]) - exact[at], 2);
      norm += size[at] * size[at];
    }
    all += error, all_size += norm;
    result.row = std::max(result.row, std::sqrt(error / norm));
  }
  result.whole = std::sqrt(all / all_size);
  return result;
}

std::vector<double> noise(const std::vector<Index>& sizes) {
  Index count = 1;
  for (const Index n : sizes) count *= 2 * n - 1;
  std::vector<double> table(static_cast<std::size_t>(count));
  for (std::size_t k = 0; k < table.size(); ++k) table[k] = Random(5).normal(k);
  return table;
}

void run(const Case& c, int rounds) {
  Index length = 1;
  for (const Index n : c.sizes) length *= n;
  Operands o(length);
  const Shape shape{.columns = kWidth, .rank = kWidth};
  struct Engine {
    std::string name;
    GridMask<float> mask;
    double best = std::numeric_limits<double>::infinity(), backward = best;
    Errors error{};
  };
  std::vector<Engine> engines;
  double set_up = 0;
  for (const char* name : {"direct", "fft", "far-field"}) {
    // The FFT takes minutes where it has lost long ago.
    if (std::string(name) == "fft" && length > 16384) continue;
    GridOptions options;
    options.engine = name;
    options.tolerance = 1e-5;
    GridMask<float> mask(c.sizes, c.table, options);
    const double start = cpu_seconds();
    try {
      (void)mask.report(shape);
    } catch (const std::exception& error) {
      std::printf("  %-10s %s (found out in %.3f s)\n", name, error.what(), cpu_seconds() - start);
      continue;
    }
    if (std::string(name) == "far-field") set_up = cpu_seconds() - start;
    engines.push_back({name, std::move(mask)});
  }
  for (int round = 0; round < rounds; ++round) {
    for (Engine& e : engines) {
      e.best = std::min(e.best, o.seconds(e.mask));
      if (round == 0) e.error = errors(c, o);
      if (e.name == "far-field" || length <= 16384) e.backward = std::min(e.backward, o.backward_seconds(e.mask));
    }
  }
  GridOptions options;
  options.tolerance = 1e-5;
  const std::string chosen = GridMask<float>(c.sizes, c.table, options).report(shape).engine;
  for (const Engine& e : engines) {
    const Report report = e.mask.report(shape);
    std::printf("  %-10s %9.4f s  %6.2f x tiles  error %.1e  worst row %.1e", e.name.c_str(), e.best,
                engines.front().best / e.best, e.error.whole, e.error.row);
    if (std::isfinite(e.backward)) std::printf("  gradients %.2f x", e.backward / e.best);
    std::printf("%s\n", e.name == chosen ? "  <- chosen" : "");
    if (report.certificate) {
      std::printf("             set-up %.3f s, certified row error %.1e, %s\n", set_up, report.certificate->row.value_or(1),
                  report.reason.c_str());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Index largest = argc > 1 ? std::atoll(argv[1]) : 256;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 3;
  struct Named {
    const char* name;
    DistanceFunction f;
    Distance distance;
  };
  const std::vector<Named> functions = {{"1/(1+d/16), L2", Rational{16}, Distance::l2},
                                        {"exp(-(d/40)^2), L2", Gaussian{40}, Distance::l2},
                                        {"exp(-d/20), L2", Exponential{1 / 20.0}, Distance::l2},
                                        {"1/(1+d/16), L1", Rational{16}, Distance::l1}};
  for (const std::vector<Index>& sizes :
       std::vector<std::vector<Index>>{{32, 32}, {64, 64}, {8, 32, 32}, {128, 128}, {256, 256}}) {
    if (sizes.back() > largest) continue;
    std::string text;
    for (const Index n : sizes) text += (text.empty() ? "" : " x ") + std::to_string(n);
    for (const Named& named : functions) {
      std::printf("%s, %s\n", text.c_str(), named.name);
      run({named.name, sizes, GridMask<float>(sizes, named.f, named.distance).table()}, rounds);
    }
    std::printf("%s, white noise\n", text.c_str());
    run({"white noise", sizes, noise(sizes)}, sizes.back() >= 256 ? 1 : rounds);
    std::fflush(stdout);
  }
  return 0;
}
