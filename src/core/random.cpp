// Philox4x32-10 and the distributions drawn from it.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/random.hpp>

#include <cmath>
#include <numbers>

namespace espalier {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

namespace {

// One Philox block holds two 64-bit words; the block's counter is (position / 2, stream).
std::array<std::uint64_t, 2> block(std::uint64_t seed, std::uint64_t stream, std::uint64_t number) {
  const auto w = philox({static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32),
                         static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return {w[0] | std::uint64_t{w[1]} << 32, w[2] | std::uint64_t{w[3]} << 32};
}

__extension__ using Wide = unsigned __int128;

double open_unit(std::uint64_t bits) {
  return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
}

}  // namespace

std::uint64_t Random::bits(std::uint64_t position) const {
  return block(seed_, stream_, position / 2)[position % 2];
}

double Random::uniform(std::uint64_t position) const {
  return open_unit(bits(position));
}

double Random::normal(std::uint64_t position) const {
  const auto w = block(seed_, stream_, position / 2);
  const double radius = std::sqrt(-2 * std::log(open_unit(w[0])));
  const double angle = 2 * std::numbers::pi * open_unit(w[1]);
  return radius * (position % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

std::uint64_t Random::below(std::uint64_t position, std::uint64_t bound) const {
  // The bias of the plain product is below bound / 2^64; no rejection, so that a position is one draw.
  return static_cast<std::uint64_t>((static_cast<Wide>(bits(position)) * bound) >> 64);
}

}  // namespace espalier
