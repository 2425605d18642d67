// Counter-based random numbers: the value depends on (seed, stream, position) alone, never on threads or call order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <array>
#include <cstdint>

namespace espalier {

// Philox4x32-10 of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011:
// a bijection of a 128-bit counter under a 64-bit key. Cost: about 10 ns a call for four 32-bit words.
ESPALIER_EXPORT std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// Numbers of one (seed, stream): position p (>= 0) always gives the same value.
class ESPALIER_EXPORT Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  // 64 random bits.
  std::uint64_t bits(std::uint64_t position) const;
  // Uniform in the open interval (0, 1), 53 random bits.
  double uniform(std::uint64_t position) const;
  // Standard normal by the Box-Muller transform (positions 2p and 2p + 1 share one pair).
  double normal(std::uint64_t position) const;
  // Uniform in 0 .. bound - 1 (bound >= 1), by the high half of a 128-bit product.
  std::uint64_t below(std::uint64_t position, std::uint64_t bound) const;

 private:
  std::uint64_t seed_, stream_;
};

}  // namespace espalier
