// Ctrl-C: a stop token for the library, and an end within two seconds where it does not look.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <set>
#include <stop_token>
#include <string>

namespace espalier::tools {

// Takes SIGINT and SIGTERM from the time it is made; make it before any other thread starts.
class Interrupts {
 public:
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  std::stop_token token() const { return source_.get_token(); }
  bool requested() const { return source_.stop_requested(); }

  // Temporary files, removed where the process must be ended by force.
  void add_temporary(const std::string& path);
  // While held, no forced end: outputs are being put in place, all or none.
  std::unique_lock<std::mutex> hold() { return std::unique_lock(mutex_); }

 private:
  void watch();
  std::stop_source source_;
  std::mutex mutex_;
  std::set<std::string> temporaries_;
};

}  // namespace espalier::tools
