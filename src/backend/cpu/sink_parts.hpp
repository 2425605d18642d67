// The gradient of a mask's entries as the tasks of a backward kernel keep it, and its sum in a fixed order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/entries.hpp>

#include <algorithm>
#include <functional>

#include "backend/elementwise.hpp"

namespace espalier::backend {

// The entries' gradient as one stripe (a task of a backward kernel) keeps it.
template <class T>
class SinkParts {
 public:
  // Where every pair (i, j) belongs to one stripe (`disjoint`), entries of a dense or sparse mask have one stripe each: stripes
  // write them in place and keep only the border apart. For other kinds each stripe has its own copy of the whole sink. One
  // stripe writes everything in place.
  SinkParts(const EntriesGradient<T, Cpu>& sink, Index sink_size, EntryKind kind, Index stripes, bool disjoint = true)
      : sink_(sink), stripes_(stripes), in_place_(stripes == 1) {
    if (!sink || in_place_) return;
    exclusive_ = disjoint && (kind == EntryKind::dense || kind == EntryKind::sparse);
    for (T* p : {sink.values, sink.left, sink.right, sink.table, sink.border, sink.source}) {
      if (p != nullptr && (lowest_ == nullptr || std::less<T*>()(p, lowest_))) lowest_ = p;
    }
    if (exclusive_) lowest_ = sink.border;
    size_ = !exclusive_ ? sink_size : sink.border != nullptr ? 3 : 0;
    parts_ = Buffer<T, Cpu>(stripes * size_);
    std::fill_n(parts_.data(), stripes * size_, T(0));
  }

  EntriesGradient<T, Cpu> of(Index stripe) const {
    if (!sink_ || in_place_) return sink_;
    T* base = parts_.data() + stripe * size_;
    const auto moved = [&](T* p) { return p == nullptr ? nullptr : base + (p - lowest_); };
    EntriesGradient<T, Cpu> part;
    part.border = moved(sink_.border);
    if (exclusive_) {
      part.values = sink_.values;
      return part;
    }
    part.values = moved(sink_.values);
    part.left = moved(sink_.left);
    part.right = moved(sink_.right);
    part.table = moved(sink_.table);
    part.source = moved(sink_.source);
    return part;
  }

  void add_up() const {
    for (Index s = 0; s < stripes_ && size_ > 0; ++s) {
      const T* from = parts_.data() + s * size_;
      for (Index k = 0; k < size_; ++k) lowest_[k] += from[k];
    }
  }

 private:
  EntriesGradient<T, Cpu> sink_;
  Index stripes_, size_ = 0;
  bool in_place_, exclusive_ = false;
  T* lowest_ = nullptr;
  Buffer<T, Cpu> parts_;
};

}  // namespace espalier::backend
