// When to draw progress and what it says.
// SPDX-License-Identifier: Apache-2.0
#include "progress_line.hpp"

#include <unistd.h>

#include <cstdio>

namespace espalier::tools {

ProgressLine::ProgressLine(When when)
    : terminal_(isatty(STDERR_FILENO) == 1),
      active_(when == When::always || (when == When::terminal && terminal_)),
      start_(Clock::now()),
      phase_start_(start_),
      last_(start_) {}

ProgressLine::~ProgressLine() {
  clear();
}

void ProgressLine::show(std::string_view phase, double fraction) {
  if (!active_) return;
  const auto now = Clock::now();
  // The same phase again from its beginning: another head, panel or repetition.
  if (phase != phase_ || fraction < fraction_) {
    phase_ = phase;
    phase_start_ = now;
  }
  fraction_ = fraction;
  const auto seconds = [](auto d) { return std::chrono::duration<double>(d).count(); };
  // Short work says nothing; a terminal is redrawn five times a second, a log gets a line every ten seconds.
  if (seconds(now - start_) < 1 || seconds(now - last_) < (terminal_ ? 0.2 : 10.0)) return;
  last_ = now;
  const double done = seconds(now - phase_start_);
  const double left = fraction > 0.01 ? done * (1 - fraction) / fraction : -1;
  std::fprintf(stderr, "%sespalier: %s %3.0f %%", terminal_ ? "\r\033[K" : "", phase_.c_str(), 100 * fraction);
  if (left >= 0) std::fprintf(stderr, ", about %.0f s left", left);
  if (!terminal_) std::fputc('\n', stderr);
  std::fflush(stderr);
  drawn_ = terminal_;
}

void ProgressLine::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace espalier::tools
