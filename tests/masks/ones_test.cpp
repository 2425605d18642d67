// OnesMask: the laws with every alignment, and long sequences in which groups of rows carry states over.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/masks/ones.hpp>

#include <algorithm>
#include <array>
#include <cmath>

#include "support/inputs.hpp"
#include "support/mask_laws.hpp"

namespace es = espalier;
using es::Index;

namespace {

template <class T>
void check(Index rows, Index cols, bool causal, Index shift, bool engines) {
  const auto make = [=](const std::string& engine) {
    return std::make_shared<es::OnesMask<T>>(rows, cols, causal, shift, es::MaskOptions{.engine = engine});
  };
  es::test::MaskCase<T> c{.name = "ones " + std::to_string(rows) + " x " + std::to_string(cols) +
                                  (causal ? ", causal " + std::to_string(shift) : std::string()),
                          .mask = make("auto"),
                          .reference = [=](std::span<const double>) {
                            return es::test::dense_matrix(
                                rows, cols, [=](Index i, Index j) { return causal && j - i > shift ? 0.0 : 1.0; });
                          }};
  if (engines) c.with_engine = make;
  es::test::check_mask_laws(c);
}

}  // namespace

TEST_CASE_TEMPLATE("ones obey the laws", T, float, double) {
  for (const Index n : es::test::law_sizes()) {
    check<T>(n, n, false, 0, true);
    check<T>(n, n, true, 0, true);
  }
  check<T>(13, 64, false, 0, true);
  check<T>(0, 0, false, 0, false);
  check<T>(0, 3, true, 0, false);
  check<T>(3, 0, true, 0, false);
}

TEST_CASE_TEMPLATE("causal ones obey the laws for rows != cols and any shift", T, float, double) {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{13, 70}, {70, 13}, {101, 64}}) {
    for (const Index shift : {Index{0}, cols - rows, Index{5}, Index{-5}, Index{-200}, Index{200}}) {
      check<T>(rows, cols, true, shift, shift == 5);
    }
  }
}

// 3000 rows: several groups of 512, each starting from the state of those before it.
TEST_CASE_TEMPLATE("long causal products carry their state", T, float, double) {
  for (const auto& [rows, cols, shift] : {std::array<Index, 3>{3000, 3000, 0}, {1500, 3100, 1600}, {3100, 1500, -700}}) {
    const es::OnesMask<T> mask(rows, cols, true, shift, {.engine = "prefix"});
    const auto a = es::test::make_input<T>(rows, 2, es::test::InputKind::positive, 1);
    const auto b = es::test::make_input<T>(cols, 2, es::test::InputKind::positive, 2);
    const auto x = es::test::make_input<T>(cols, 3, es::test::InputKind::positive, 3);
    es::test::Guarded<T> y(rows, 3), plain(rows, 3), again(rows, 3), row_sum(1, rows);
    mask.multiply_low_rank({a.view(), b.view(), x.view()}, {y.view(), row_sum.vector()}, {.threads = 1});
    mask.multiply_low_rank({a.view(), b.view(), x.view()}, {again.view()}, {.threads = 3});
    mask.multiply(x.view(), plain.view());
    const auto da = a.dense(), db = b.dense(), dx = x.dense();
    double worst = 0;
    // Running sums in double, straight from the definition; all terms are positive, so errors are relative row by row.
    std::vector<double> state(8), sum(3);
    Index j = 0;
    for (Index i = 0; i < rows; ++i) {
      for (; j < cols && j <= i + shift; ++j) {
        for (Index r = 0; r < 2; ++r) {
          for (Index k = 0; k < 3; ++k) state[static_cast<std::size_t>(4 * r + k)] += db(j, r) * dx(j, k);
          state[static_cast<std::size_t>(4 * r + 3)] += db(j, r);
        }
        for (Index k = 0; k < 3; ++k) sum[static_cast<std::size_t>(k)] += dx(j, k);
      }
      const auto compare = [&](double got, double expected) {
        worst = std::max(worst, expected == 0 ? std::abs(got) : std::abs(got / expected - 1));
      };
      for (std::size_t k = 0; k < 4; ++k) {
        const double expected = da(i, 0) * state[k] + da(i, 1) * state[4 + k];
        compare(static_cast<double>(k < 3 ? y.view()(i, static_cast<Index>(k)) : row_sum.vector()[i]), expected);
        if (k < 3) compare(static_cast<double>(plain.view()(i, static_cast<Index>(k))), sum[k]);
      }
    }
    CHECK(worst <= (sizeof(T) == 4 ? 1e-6 : 1e-13));
    CHECK(y.same_bits(again));
  }
}

// The toy answer of linear attention: q = k = ones [3, 1], v = (1, 0, 0): 1, 1/2, 1/3.
TEST_CASE("causal linear attention of three ones") {
  const es::OnesMask<double> mask(3, 3, true);
  const double one[3] = {1, 1, 1}, v[3] = {1, 0, 0};
  double y[3], d[3];
  mask.multiply_low_rank({{one, 3, 1}, {one, 3, 1}, {v, 3, 1}}, {{y, 3, 1}, {d, 3}});
  for (int i = 0; i < 3; ++i) CHECK(y[i] / d[i] == doctest::Approx(1.0 / (i + 1)));
}
