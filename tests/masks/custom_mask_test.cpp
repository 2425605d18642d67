// The example's own mask obeys the laws, alone and inside bordered, summed, scaled and causal masks.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>

#include "circulant_mask.hpp"
#include "support/composed_samples.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

namespace {

template <class T>
Sample<T> circulant_sample(Index n) {
  std::vector<double> column;
  for (Index d = 0; d < n; ++d)
    column.push_back(std::exp(-0.1 * static_cast<double>(d)) + 0.2 * std::cos(static_cast<double>(d)));
  return {std::make_shared<CirculantMask<T>>(column), [n](std::span<const double> p) {
            return dense_matrix(n, n, [&](Index i, Index j) { return p[static_cast<std::size_t>((i - j + n) % n)]; });
          }};
}

}  // namespace

TEST_CASE_TEMPLATE("a circulant mask of the user's own obeys the laws", T, float, double) {
  for (const Index n : {1, 2, 8, 64, 128}) check_sample("circulant", circulant_sample<T>(n));
}

TEST_CASE_TEMPLATE("the user's own mask inside other masks", T, float, double) {
  check_sample("bordered", bordered(circulant_sample<T>(64), 1));
  check_sample("sum", sum_of<T>({circulant_sample<T>(8), dense_sample<T>(8, 8), scaled(circulant_sample<T>(8), -0.5)}));
  check_sample("causal", causal(bordered(circulant_sample<T>(8), 2)));
  check_sample("block diagonal", block_diagonal<T>({circulant_sample<T>(8), bordered(circulant_sample<T>(4), 1)}));
}

TEST_CASE("a circulant mask needs a power of two") {
  CHECK_THROWS_AS(CirculantMask<float>(std::vector<double>(6, 1.0)), es::ShapeError);
  CHECK_THROWS_AS(CirculantMask<float>(std::vector<double>{}), es::ShapeError);
}
