// Gradients between chunks: near tiles that a thread keeps for later rows, or makes again where another thread had them.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace espalier;

namespace {

// Gradients of one masked product, in one vector: a, b, x, parameters.
template <class T>
std::vector<T> gradients(const GridMask<T>& mask, Index n, Index m, Index c, bool with_y, bool with_sums, int threads) {
  const Random random(12);
  std::vector<T> in(static_cast<std::size_t>(n * (2 * m + 2 * c + 1)));
  for (std::size_t k = 0; k < in.size(); ++k) in[k] = static_cast<T>(0.5 + random.uniform(k));
  const T *a = in.data(), *b = a + n * m, *x = b + n * m, *y_bar = x + n * c, *r_bar = y_bar + n * c;
  const auto count = static_cast<Index>(mask.parameters().size());
  std::vector<T> out(static_cast<std::size_t>(n * (2 * m + c) + count), std::numeric_limits<T>::quiet_NaN());
  T *a_bar = out.data(), *b_bar = a_bar + n * m, *x_bar = b_bar + n * m;
  mask.multiply_low_rank_vjp({{a, n, m}, {b, n, m}, {x, n, c}},
                             {with_y ? MatrixView<const T>(y_bar, n, c) : MatrixView<const T>(),
                              with_sums ? VectorView<const T>{r_bar, n} : VectorView<const T>()},
                             {{a_bar, n, m}, {b_bar, n, m}, {x_bar, n, c}, {x_bar + n * c, count}}, {.threads = threads});
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("gradients between chunks: those of tiles, and the same bits on any number of threads", T, float, double) {
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-9;
  const std::vector<std::pair<std::string, DistanceFunction>> functions = {
      {"1/(1+x/16)", Rational{16}}, {"exp(-sqrt(x)/6)", StretchedExponential{36, 0.5}}, {"exp(-(x/300)^2)", Gaussian{300}}};
  for (const auto& [name, f] : functions) {
    for (const bool causal : {false, true}) {
      for (const Index n : {1024, 1009}) {
        GridOptions exact, fast;
        exact.engine = "direct";
        fast.engine = "exponentials";
        fast.tolerance = tolerance;
        exact.causal = fast.causal = causal;
        const GridMask<T> tiles({n}, f, Distance::l1, exact), mask({n}, f, Distance::l1, fast);
        for (const auto& [with_y, with_sums] : std::vector<std::pair<bool, bool>>{{true, true}, {false, true}}) {
          const Index m = 9, c = 5;
          const std::string what = name + (causal ? ", causal" : "") + (with_y ? "" : ", row sums alone");
          CAPTURE(what);
          CAPTURE(n);
          const std::vector<T> expected = gradients(tiles, n, m, c, with_y, with_sums, 1);
          const std::vector<T> got = gradients(mask, n, m, c, with_y, with_sums, 1);
          // Inputs and cotangents are within a factor of 3 of one another: entries of a gradient are of one size.
          const auto size = static_cast<std::size_t>(n * (2 * m + c));
          double largest = 0, worst = 0;
          for (std::size_t k = 0; k < size; ++k) {
            largest = std::max(largest, std::abs(static_cast<double>(expected[k])));
            worst = std::max(worst, std::abs(static_cast<double>(got[k]) - static_cast<double>(expected[k])));
          }
          CHECK(worst <= 10 * tolerance * largest);
          for (std::size_t k = size; k < got.size(); ++k) CHECK(got[k] == doctest::Approx(expected[k]).epsilon(1e-4));
          for (const int threads : {2, 3, 8}) CHECK(gradients(mask, n, m, c, with_y, with_sums, threads) == got);
        }
      }
    }
  }
}
