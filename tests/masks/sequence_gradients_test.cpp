// All gradients of masks on 4,096 tokens by exponentials against those by tiles in double, at tight tolerances.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <cmath>
#include <set>
#include <string>
#include <string_view>
#include <vector>

using namespace espalier;

namespace {

struct Named {
  std::string name;
  DistanceFunction f;
};

const std::vector<Named>& functions() {
  static const std::vector<Named> all = {{"exp(-x/200)", Exponential{1 / 200.0}},
                                         {"1/(1+x/16)", Rational{16}},
                                         {"exp(-(x/300)^2)", Gaussian{300}},
                                         {"exp(-sqrt(x)/6)", StretchedExponential{36, 0.5}},
                                         {"cos(x/50)exp(-x/400)", DampedCosine{1 / 50.0, 1 / 400.0}}};
  return all;
}

// Gradients by a, b, x and the parameters, one after the other.
template <class T>
std::vector<std::vector<double>> gradients(const Mask<T>& mask, Index m, Index c, const std::vector<double>& numbers,
                                           const Context<Cpu>& context = {}) {
  const Index n = mask.rows();
  const std::vector<T> all(numbers.begin(), numbers.end());
  const T *a = all.data(), *b = a + n * m, *x = b + n * m, *y_bar = x + n * c, *r_bar = y_bar + n * c;
  std::vector<std::vector<T>> bars = {
      std::vector<T>(static_cast<std::size_t>(n * m)), std::vector<T>(static_cast<std::size_t>(n * m)),
      std::vector<T>(static_cast<std::size_t>(n * c)), std::vector<T>(mask.parameters().size())};
  mask.multiply_low_rank_vjp({{a, n, m}, {b, n, m}, {x, n, c}}, {{y_bar, n, c}, {r_bar, n}},
                             {{bars[0].data(), n, m},
                              {bars[1].data(), n, m},
                              {bars[2].data(), n, c},
                              {bars[3].data(), static_cast<Index>(bars[3].size())}},
                             context);
  std::vector<std::vector<double>> result;
  result.reserve(bars.size());
  for (const std::vector<T>& bar : bars) result.emplace_back(bar.begin(), bar.end());
  return result;
}

}  // namespace

// Entries of a, b, x and the cotangents in (0, 1), exact in float: nothing cancels but what the mask itself turns, and the
// error of a gradient is about the tolerance's share of it. The bounds leave a factor of 10 (float) and 100 (double).
TEST_CASE_TEMPLATE("exponentials: gradients of 4,096 tokens match dense ones", T, float, double) {
  const Index n = 4096, m = 8, c = 5;
  const bool single = sizeof(T) == 4;
  const double tolerance = single ? 1e-6 : 1e-11, allowed = single ? 1e-5 : 1e-9;
  const Random random(31);
  std::vector<double> numbers;
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * (2 * m + 2 * c + 1)); ++k) {
    numbers.push_back(static_cast<double>(static_cast<float>(random.uniform(k))));
  }
  for (const Named& named : functions()) {
    GridOptions exact, fast;
    exact.engine = "direct";
    fast.engine = "exponentials";
    fast.tolerance = tolerance;
    const auto expected = gradients<double>(GridMask<double>({n}, named.f, Distance::l1, exact), m, c, numbers);
    const auto got = gradients<T>(GridMask<T>({n}, named.f, Distance::l1, fast), m, c, numbers);
    for (std::size_t g = 0; g < expected.size(); ++g) {
      double error = 0, norm = 0;
      for (std::size_t k = 0; k < expected[g].size(); ++k) {
        error += std::pow(got[g][k] - expected[g][k], 2);
        norm += std::pow(expected[g][k], 2);
      }
      CAPTURE(named.name);
      CAPTURE(g);
      CHECK(std::sqrt(error) <= allowed * std::sqrt(norm));
    }
  }
}

// The derivative of a Gaussian in its width reaches further than the Gaussian: over one chunk more than the band has for some
// widths. Its gradient is then taken by a wider band, in the same pass, not by FFT or by all tiles.
TEST_CASE("band: parameters' gradients in one pass, whatever the width") {
  const Index n = 3000, m = 8, c = 5;
  const Random random(32);
  std::vector<double> numbers;
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * (2 * m + 2 * c + 1)); ++k) numbers.push_back(random.uniform(k));
  for (const double width : {10.0, 20.0, 25.0, 40.0, 60.0}) {
    GridOptions exact, fast;
    exact.engine = "direct";
    fast.engine = "band";
    fast.tolerance = 1e-6;
    const GridMask<double> mask({n}, Gaussian{width}, Distance::l1, fast);
    const auto expected = gradients<double>(GridMask<double>({n}, Gaussian{width}, Distance::l1, exact), m, c, numbers);
    std::set<std::string> phases;
    Progress progress;
    progress.callback = [&](std::string_view phase, double) { phases.emplace(phase); };
    const auto got = gradients<double>(mask, m, c, numbers, {.threads = 1, .progress = &progress});
    CAPTURE(width);
    CHECK(phases == std::set<std::string>{"chunks, backward"});
    for (std::size_t g = 0; g < expected.size(); ++g) {
      double error = 0, norm = 0;
      for (std::size_t k = 0; k < expected[g].size(); ++k) {
        error += std::pow(got[g][k] - expected[g][k], 2);
        norm += std::pow(expected[g][k], 2);
      }
      CHECK(std::sqrt(error) <= 1e-5 * std::sqrt(norm));
    }
  }
}
