// ScaledMask: the laws, also for the factors 0 and -1 and over borders.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>

#include <limits>

#include "support/composed_samples.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

TEST_CASE_TEMPLATE("scaled masks obey the laws", T, float, double) {
  for (const Index n : law_sizes()) {
    check_sample("scaled dense", scaled(dense_sample<T>(n, n), -1.5));
    check_sample("scaled outer", scaled(outer_sample<T>(n, n + 3), 0.25));
  }
  for (const double factor : {0.0, -1.0, 1e3}) {
    check_sample("scaled dense", scaled(dense_sample<T>(13, 8), factor));
    check_sample("scaled outer", scaled(outer_sample<T>(13, 8), factor));
  }
  check_sample("scaled bordered dense", scaled(bordered(dense_sample<T>(13, 8), 2), 0.3));
  check_sample("scaled scaled bordered outer", scaled(scaled(bordered(outer_sample<T>(13, 8), 2), 0.3), 7));
}

TEST_CASE("a factor must be finite") {
  CHECK_THROWS_AS(scaled(dense_sample<float>(2, 2), std::numeric_limits<double>::quiet_NaN()), es::ValueError);
}
