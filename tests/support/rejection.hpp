// Checks that a call refuses its arguments: the right exception, and outputs untouched.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/inputs.hpp"

#include <exception>
#include <string>
#include <vector>

namespace espalier::test {

// Empty where `call` throws Expected and leaves every output as it was; otherwise what went wrong.
template <class Expected, class T, class F>
std::string rejection_failure(const F& call, const std::vector<Guarded<T>*>& outputs) {
  std::vector<Guarded<T>> before;
  for (const Guarded<T>* o : outputs) before.push_back(*o);
  std::string failure = "accepted";
  try {
    call();
  } catch (const Expected&) {
    failure.clear();
  } catch (const std::exception& e) {
    failure = std::string("threw another exception: ") + e.what();
  }
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    if (!outputs[o]->same_bits(before[o])) return failure + (failure.empty() ? "" : ", and ") + "wrote to an output";
  }
  return failure;
}

}  // namespace espalier::test
