// CausalMask: the laws over tiles, over a formed matrix, over ones.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/masks/ones.hpp>

#include <limits>

#include "support/composed_samples.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

TEST_CASE_TEMPLATE("causal masks obey the laws", T, float, double) {
  for (const Index n : law_sizes()) {
    check_sample("causal dense", causal(dense_sample<T>(n, n)));
    check_sample("causal outer", causal(outer_sample<T>(n, n)));
  }
  for (const Index shift : {Index{-3}, Index{-100}, Index{5}, Index{100}}) {
    check_sample("causal shifted dense", causal(dense_sample<T>(13, 70), shift));
    check_sample("causal shifted outer", causal(outer_sample<T>(70, 13), shift));
  }
  check_sample("causal causal", causal(causal(dense_sample<T>(13, 13), 2), -1));
  check_sample("causal bordered", causal(bordered(dense_sample<T>(64, 64), 2)));
  check_sample("causal bordered outer", causal(bordered(outer_sample<T>(13, 13), 2)));
  const auto ones = [](Index n) {
    return Sample<T>{std::make_shared<es::OnesMask<T>>(n, n),
                     [n](std::span<const double>) { return dense_matrix(n, n, [](Index, Index) { return 1.0; }); }};
  };
  check_sample("causal ones", causal(ones(64), 1));
  check_sample("causal causal ones", causal(causal(ones(13), 4), 2));
}

TEST_CASE("a causal mask over ones is linear, over a large mask without entries an error that names the limit") {
  const auto ones = std::make_shared<es::OnesMask<float>>(20000, 20000);
  CHECK(es::CausalMask<float>(ones).report({.columns = 64, .rank = 64}).engine == "prefix");
  const auto large = std::make_shared<OuterMask<float>>(8193, 4, 1.0, 1.0);
  CHECK_THROWS_WITH_AS(es::CausalMask<float>{large}, doctest::Contains("8192"), es::ValueError);
}
