// A part of a long call: what it reports as its own progress is a stretch of the whole call's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>

#include <string_view>

namespace espalier::backend {

// context() is the given one, its callback told from + (to - from) f where the part says f. Lives as long as the part runs.
class ProgressPart {
 public:
  ProgressPart(const Context<Cpu>& context, double from, double to) : inner_(context) {
    if (context.progress == nullptr) return;
    mine_.stop = context.progress->stop;
    if (context.progress->callback) {
      mine_.callback = [whole = context.progress, from, to](std::string_view phase, double fraction) {
        // At the end `to` itself: the sum may be rounded beyond it, or short of 1.
        whole->callback(phase, fraction < 1 ? from + (to - from) * fraction : to);
      };
    }
    inner_.progress = &mine_;
  }
  ProgressPart(const ProgressPart&) = delete;
  ProgressPart& operator=(const ProgressPart&) = delete;

  const Context<Cpu>& context() const { return inner_; }

 private:
  Context<Cpu> inner_;
  Progress mine_;
};

}  // namespace espalier::backend
