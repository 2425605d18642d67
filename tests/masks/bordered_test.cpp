// BorderedMask: the laws over masks with and without entries, over causal and bordered ones.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>

#include <limits>

#include "support/composed_samples.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

TEST_CASE_TEMPLATE("bordered masks obey the laws", T, float, double) {
  for (const Index n : law_sizes()) {
    check_sample("bordered dense", bordered(dense_sample<T>(n, n), 1));
    check_sample("bordered outer", bordered(outer_sample<T>(n, n + 2), 1 + n % 3));
  }
  check_sample("no border", bordered(outer_sample<T>(8, 8), 0));
  check_sample("border alone", bordered(dense_sample<T>(0, 0), 2));
  check_sample("more border than tokens", bordered(outer_sample<T>(3, 2), 70));
}

TEST_CASE_TEMPLATE("bordered masks nest", T, float, double) {
  check_sample("bordered bordered", bordered(bordered(dense_sample<T>(13, 9), 2), 1, {0.5, -2, 3}));
  check_sample("bordered causal", bordered(causal(dense_sample<T>(66, 66)), 1));
  check_sample("bordered bordered outer", bordered(bordered(outer_sample<T>(13, 9), 2), 1, {0.5, -2, 3}));
  check_sample("bordered sum of scaled",
               bordered(sum_of<T>({scaled(dense_sample<T>(13, 13), 0.6), scaled(outer_sample<T>(13, 13), -1.2)}), 1));
  check_sample("bordered sum of scaled, by tile",
               bordered(sum_of<T>({scaled(dense_sample<T>(13, 13), 0.6), scaled(causal(outer_sample<T>(13, 13)), -1.2)}), 1));
}

TEST_CASE("a bordered mask names the inner engine and refuses what it cannot do") {
  const auto outer = outer_sample<float>(64, 64);
  CHECK(bordered(outer, 1).mask->report({.columns = 4, .rank = 4}).engine == "product");
  CHECK(bordered(dense_sample<float>(64, 64), 1).mask->report({.columns = 4}).engine == "dense");
  const es::BorderedMask<float> forced(outer.mask, 1, {}, {.engine = "fft"});
  CHECK_THROWS_AS(forced.report({.columns = 4}), es::ValueError);
  CHECK_THROWS_AS(es::BorderedMask<float>(outer.mask, -1), es::ValueError);
  CHECK_THROWS_AS(es::BorderedMask<float>(nullptr, 1), es::ValueError);
  CHECK_THROWS_AS(es::BorderedMask<float>(outer.mask, 1, {.row = std::numeric_limits<double>::infinity()}), es::ValueError);
}
