// Progress reports and cancellation of long calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <stop_token>
#include <string_view>

namespace espalier {

// Given to a call through its context. The library calls `callback` from the calling thread only, with the phase's name
// and the fraction done in [0, 1], and looks at `stop` between blocks of work; when a stop was asked for, the call ends
// with Cancelled. Both members may be left empty.
struct Progress {
  std::function<void(std::string_view phase, double fraction)> callback{};
  std::stop_token stop{};
};

}  // namespace espalier
