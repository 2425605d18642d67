// SumMask: the laws over terms with and without entries.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>

#include <limits>

#include "support/composed_samples.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

TEST_CASE_TEMPLATE("sums obey the laws", T, float, double) {
  for (const Index n : law_sizes()) {
    check_sample("dense + outer", sum_of<T>({dense_sample<T>(n, n + 1), outer_sample<T>(n, n + 1)}));
    check_sample("outer + outer", sum_of<T>({outer_sample<T>(n, n), scaled(outer_sample<T>(n, n), 2)}));
  }
  check_sample("three by tile",
               sum_of<T>({dense_sample<T>(64, 64), causal(dense_sample<T>(64, 64)), scaled(dense_sample<T>(64, 64), 0.5)}));
  check_sample("one term", sum_of<T>({outer_sample<T>(7, 8)}));
}

TEST_CASE("sums refuse terms that do not fit") {
  CHECK_THROWS_AS(es::SumMask<float>({}), es::ValueError);
  CHECK_THROWS_AS(sum_of<float>({dense_sample<float>(3, 3), dense_sample<float>(3, 4)}), es::ShapeError);
  CHECK(sum_of<float>({dense_sample<float>(64, 64), outer_sample<float>(64, 64)}).mask->report({.columns = 3}).engine ==
        "dense+product");
}
