// Progress on standard error: a line that is redrawn on a terminal, or one every ten seconds elsewhere.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace espalier::tools {

class ProgressLine {
 public:
  enum class When { never, terminal, always };
  explicit ProgressLine(When when);
  ~ProgressLine();

  void show(std::string_view phase, double fraction);
  // Removes the line from a terminal.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_, active_;
  bool drawn_ = false;
  std::string phase_;
  double fraction_ = 0;
  Clock::time_point start_, phase_start_, last_;
};

}  // namespace espalier::tools
