// How much memory a piece of work takes at its peak, from what the system says of the process.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <malloc.h>

#include <fstream>
#include <functional>
#include <limits>
#include <string>

namespace espalier::benchmark {

// Bytes by name ("VmRSS:" now, "VmHWM:" at most so far); NaN where the system has no such file.
inline double memory_status(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kilobytes = 0;
    if (word == name && status >> kilobytes) return 1024 * kilobytes;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

// Bytes that `work` takes at its peak beyond what the process had before; NaN where the peak cannot be set back.
inline double peak_memory_of(const std::function<void()>& work) {
  malloc_trim(0);  // pages that malloc holds back would be used again unseen
  std::ofstream reset("/proc/self/clear_refs");
  reset << "5" << std::flush;
  const bool known = reset.good();
  const double before = memory_status("VmRSS:");
  work();
  return known ? memory_status("VmHWM:") - before : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace espalier::benchmark
