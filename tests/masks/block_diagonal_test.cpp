// BlockDiagonalMask: the laws over blocks of different sizes.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>

#include <limits>

#include "support/composed_samples.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

TEST_CASE_TEMPLATE("block diagonal masks obey the laws", T, float, double) {
  for (const Index n : law_sizes()) {
    check_sample("dense and outer blocks",
                 block_diagonal<T>({dense_sample<T>(n, n), outer_sample<T>(3, 5), dense_sample<T>(2, 1)}));
  }
  check_sample("an empty block", block_diagonal<T>({dense_sample<T>(0, 0), dense_sample<T>(7, 7), outer_sample<T>(1, 1)}));
  check_sample("bordered blocks",
               block_diagonal<T>({bordered(dense_sample<T>(13, 13), 1), bordered(outer_sample<T>(8, 9), 2)}));
  check_sample("causal block diagonal by tile",
               causal(block_diagonal<T>({bordered(dense_sample<T>(63, 63), 1), dense_sample<T>(70, 68)})));
}

TEST_CASE("a block diagonal mask needs a block") {
  CHECK_THROWS_AS(es::BlockDiagonalMask<float>({}), es::ValueError);
}
