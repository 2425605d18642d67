// Philox and what is drawn from it: published answers, moments, independence of order.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <set>

namespace es = espalier;

TEST_CASE("Philox4x32-10 gives the known answers of its authors' test vectors") {
  using Words = std::array<std::uint32_t, 4>;
  CHECK(es::philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(es::philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(es::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("moments of the distributions") {
  const es::Random random(42, 7);
  const int n = 200000;
  double uniform = 0, normal = 0, square = 0, fourth = 0;
  for (int p = 0; p < n; ++p) {
    const double u = random.uniform(static_cast<std::uint64_t>(p)), z = random.normal(static_cast<std::uint64_t>(p));
    REQUIRE(u > 0);
    REQUIRE(u < 1);
    uniform += u, normal += z, square += z * z, fourth += z * z * z * z;
  }
  // Four standard errors of each mean: sqrt(1/12), 1, sqrt(2), sqrt(96) over sqrt(n).
  const double root = std::sqrt(static_cast<double>(n));
  CHECK(std::abs(uniform / n - 0.5) < 4 * 0.2887 / root);
  CHECK(std::abs(normal / n) < 4 / root);
  CHECK(std::abs(square / n - 1) < 4 * std::sqrt(2.0) / root);
  CHECK(std::abs(fourth / n - 3) < 4 * std::sqrt(96.0) / root);
}

TEST_CASE("bounded integers cover their range evenly") {
  const es::Random random(1);
  std::array<int, 7> count{};
  for (std::uint64_t p = 0; p < 70000; ++p) {
    const auto k = random.below(p, 7);
    REQUIRE(k < 7);
    ++count[k];
  }
  for (const int c : count) CHECK(std::abs(c - 10000) < 4 * 93);  // binomial: sqrt(70000 * 6 / 49) = 93
  CHECK(random.below(3, 1) == 0);
}

TEST_CASE("seeds, streams and positions give different numbers, the same ones the same") {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    for (std::uint64_t stream = 0; stream < 10; ++stream) {
      for (std::uint64_t p = 0; p < 10; ++p) seen.insert(es::Random(seed, stream).bits(p));
    }
  }
  CHECK(seen.size() == 1000);
  CHECK(es::Random(3, 4).bits(5) == es::Random(3, 4).bits(5));
}
