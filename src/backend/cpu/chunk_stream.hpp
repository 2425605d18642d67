// What goes from chunk to chunk in one sweep: moments in, states or window sums on the way, what the other chunks read out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/cpu/chunk_windows.hpp"
#include "backend/cpu/chunked_call.hpp"

#include <algorithm>
#include <vector>

namespace espalier::backend {

// One step of the scan for elements from .. to - 1 (chunk_scan-inl.hpp).
template <class T>
void run_scan(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state);

// A wave at a time: moments(t) of its chunks are filled; prepare; advance, in blocks of elements; read(t).
// States take moments `gap` chunks late and leave what is read in their place. Windows keep moments for as long as they reach.
template <class T>
class ChunkStream {
 public:
  ChunkStream() = default;
  // basis: 0 where nothing of this side is wanted; else the side's. Nothing but `memory` (elements() of them) depends on it.
  ChunkStream(const ChunkSweep<T>& sweep, Index basis, Index step, Index gap, Index wave)
      : sweep_(&sweep),
        windows_(basis > 0 ? sweep.side->windows : kNone),
        basis_(basis),
        states_(basis > 0 ? sweep.side->states : 0),
        step_(step),
        wave_(wave),
        lag_(windowed() ? windows_.first : gap),
        ring_(wave + (windowed() ? windows_.depth : gap)) {
    in_.resize(static_cast<std::size_t>(windowed() ? 0 : wave * states_ * basis));
    out_.resize(in_.size());
  }

  bool exists() const { return basis_ > 0; }
  bool windowed() const { return !windows_.windows->empty(); }
  Index basis() const { return basis_; }
  Index states() const { return states_; }
  // Nothing is read before this time, and as many last chunks are nobody's past.
  Index lag() const { return lag_; }

  Index elements() const { return ring_elements() + state_elements() + read_elements(); }
  void place(T* memory) {
    ring_at_ = memory;
    state_at_ = memory + ring_elements();
    read_at_ = state_at_ + state_elements();
    std::fill_n(state_at_, windowed() ? 0 : state_elements(), T(0));
  }

  T* moments(Index t) const { return ring_at_ + t % ring_ * (basis_ * step_); }
  const T* state() const { return state_at_; }
  // What the chunk of time t reads, or null; t0: where its wave begins.
  const T* read(Index t, Index t0) const {
    if (!exists() || t < lag_) return nullptr;
    return windowed() ? read_at_ + (t - t0) * step_ : moments(t - lag_);
  }

  // Coefficients of the steps to come, times [t0, t1).
  void prepare(Index t0, Index t1) {
    if (windowed()) return;
    for (Index t = std::max(t0, lag_); exists() && t < t1; ++t) {
      const auto at = static_cast<std::size_t>((t - t0) * states_ * basis_);
      sweep_->coefficients(t, in_.data() + at, out_.data() + at);
    }
  }
  // Steps [from, to) of the wave from t0 on, for elements [first, last); tasks of different elements are independent. rows,
  // dots: with windows, see WindowSteps.
  void advance(Index t0, Index from, Index to, Index first, Index last, const T* rows = nullptr, double* dots = nullptr) const {
    if (!exists()) return;
    from = std::max(from, lag_);
    if (from >= to) return;
    if (windowed()) {
      const Index at = (from - t0) * step_;
      run_windows<T>(
          {&windows_, step_, ring_, ring_at_, state_at_, from, to, read_at_ + at, rows == nullptr ? rows : rows + at, dots},
          first, last);
      return;
    }
    for (Index t = from; t < to; ++t) {
      const Index at = (t - t0) * states_ * basis_;
      run_scan(sweep_->scan_step(step_, in_.data() + at, out_.data() + at, state_at_), first, last, moments(t - lag_),
               state_at_);
    }
  }

 private:
  inline static const std::vector<ChunkWindow<T>> kNone{};

  Index ring_elements() const { return align_elements<T>(ring_ * basis_ * step_); }
  Index state_elements() const {
    if (windowed()) return align_elements<T>(windows_.vectors * step_);
    return basis_ > 0 ? align_elements<T>(sweep_->state_elements(step_)) : 0;
  }
  Index read_elements() const { return windowed() ? align_elements<T>(wave_ * step_) : 0; }

  const ChunkSweep<T>* sweep_ = nullptr;
  WindowPlan<T> windows_{kNone};
  Index basis_ = 0, states_ = 0, step_ = 0, wave_ = 0, lag_ = 0, ring_ = 0;
  T* ring_at_ = nullptr;
  T* state_at_ = nullptr;
  T* read_at_ = nullptr;
  std::vector<T> in_, out_;  // of one wave
};

// Elements that windows keep for each element of a moment, in a sweep whose waves are `wave` chunks.
template <class T>
Index window_elements(const ChunkSide<T>& side, Index wave) {
  const WindowPlan<T> plan(side.windows);
  return side.windows.empty() ? 0 : plan.depth + 2 * wave + plan.vectors;
}

}  // namespace espalier::backend
