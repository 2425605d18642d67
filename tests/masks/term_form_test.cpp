// Gradients of parameters that act on a mask's own terms, against those by tiles.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <string>
#include <utility>
#include <vector>

using namespace espalier;

// Rates, frequencies and factors of exponentials act on the mask's own terms: their gradients come from what gradients by a and
// b read. Whatever is asked for beside them, with whichever cotangents, of any width, and the same bits on two threads.
TEST_CASE("exponentials: gradients of a mask's own terms, whatever else is wanted") {
  const Index n = 700, m = 5;
  const std::vector<std::pair<std::string, DistanceFunction>> own = {
      {"exp(-x/200)", Exponential{1 / 200.0, 0.5}},
      {"exp(-x/2)", Exponential{0.5}},
      {"exp(-1e-6 x)", Exponential{1e-6, -3}},
      {"cos(x/50)exp(-x/400)", DampedCosine{1 / 50.0, 1 / 400.0, 2}},
      {"cos(x/7)", DampedCosine{1 / 7.0, 0}}};
  for (const Index c : {3, 600}) {
    const Random random(33);
    std::vector<double> numbers;
    for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * (2 * m + 2 * c + 1)); ++k) {
      numbers.push_back(random.normal(k));
    }
    const double *a = numbers.data(), *b = a + n * m, *x = b + n * m, *y_bar = x + n * c, *r_bar = y_bar + n * c;
    for (const auto& named : own) {
      const DistanceFunction& f = named.second;
      for (const bool causal : {false, true}) {
        GridOptions exact, fast;
        exact.engine = "direct";
        fast.engine = "exponentials";
        fast.tolerance = 1e-11;
        exact.causal = fast.causal = causal;
        const GridMask<double> tiles({n}, f, Distance::l1, exact), mask({n}, f, Distance::l1, fast);
        const auto parameter_count = static_cast<Index>(mask.parameters().size());
        // Which gradients, and which cotangents: bits 0 to 2 for a, b, x, 3 for y_bar, 4 for r_bar.
        for (const unsigned wanted : {31U, 24U, 8U, 16U, 26U, 25U, 12U}) {
          if (c > 100 && wanted != 31U && wanted != 24U) continue;
          const auto gradient = [&](const GridMask<double>& of, int threads) {
            std::vector<double> bar(static_cast<std::size_t>(parameter_count)), ab(static_cast<std::size_t>(n * m)), bb(ab),
                xb(static_cast<std::size_t>(n * c));
            const MatrixView<double> none;
            const MatrixView<const double> y = wanted & 8U ? MatrixView<const double>(y_bar, n, c) : MatrixView<const double>();
            const VectorView<const double> r = wanted & 16U ? VectorView<const double>{r_bar, n} : VectorView<const double>{};
            of.multiply_low_rank_vjp({{a, n, m}, {b, n, m}, {x, n, c}}, {y, r},
                                     {wanted & 1U ? MatrixView<double>(ab.data(), n, m) : none,
                                      wanted & 2U ? MatrixView<double>(bb.data(), n, m) : none,
                                      wanted & 4U ? MatrixView<double>(xb.data(), n, c) : none,
                                      {bar.data(), parameter_count}},
                                     {.threads = threads});
            return bar;
          };
          const std::vector<double> expected = gradient(tiles, 1), got = gradient(mask, 1);
          CAPTURE(named.first);
          CAPTURE(causal);
          CAPTURE(wanted);
          CAPTURE(c);
          CHECK(got == gradient(mask, 2));
          for (std::size_t p = 0; p < expected.size(); ++p) CHECK(got[p] == doctest::Approx(expected[p]).epsilon(1e-9));
        }
      }
    }
  }
}
