// Terms by decay.
// SPDX-License-Identifier: Apache-2.0
#include "functions/decay_groups.hpp"

#include <algorithm>

namespace espalier {

std::vector<DecayGroup> decay_groups(const ExponentialSum& sum) {
  std::vector<DecayGroup> groups;
  for (const ExponentialTerm& t : sum.terms) {
    auto at = std::find_if(groups.begin(), groups.end(), [&](const DecayGroup& g) { return g.decay == t.decay; });
    if (at == groups.end()) at = groups.insert(groups.end(), DecayGroup{t.decay, true, {}});
    at->real = at->real && t.real();
    const auto power = static_cast<std::size_t>(t.power);
    if (at->coefficients.size() <= power) at->coefficients.resize(power + 1);
    at->coefficients[power] += t.coefficient;
  }
  return groups;
}

double factorial(int n) {
  return n < 2 ? 1 : n * factorial(n - 1);
}

}  // namespace espalier
