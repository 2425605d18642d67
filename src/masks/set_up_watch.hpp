// What a set-up that takes seconds may be asked and told: to stop, and how far it is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/core/progress.hpp>

#include <stop_token>
#include <string_view>

namespace espalier {

class SetUpWatch {
 public:
  // progress: null where nobody watches.
  explicit SetUpWatch(const Progress* progress = nullptr) : progress_(progress) {}

  std::stop_token stop() const { return progress_ == nullptr ? std::stop_token() : progress_->stop; }
  // Throws Cancelled where a stop was asked for.
  void look() const {
    if (progress_ != nullptr && progress_->stop.stop_requested()) throw Cancelled();
  }
  // The same, and tells how far the phase is.
  void tell(std::string_view phase, double fraction) const {
    look();
    if (progress_ != nullptr && progress_->callback) progress_->callback(phase, fraction);
  }

 private:
  const Progress* progress_;
};

}  // namespace espalier
