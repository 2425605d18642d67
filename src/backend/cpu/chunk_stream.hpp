// What goes from chunk to chunk in one sweep: moments in, states or window sums on the way, what the other chunks read out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/cpu/chunk_waves.hpp"
#include "backend/cpu/chunk_windows.hpp"
#include "backend/cpu/chunked_call.hpp"

#include <algorithm>
#include <vector>

namespace espalier::backend {

// One step of the scan for elements from .. to - 1 (chunk_scan-inl.hpp).
template <class T>
void run_scan(const ScanStep<T>& scan, Index from, Index to, T* moments, T* state);

// Coefficients of the steps of one wave; each worker has its own.
template <class T>
struct ChunkSteps {
  Index begin = 0;
  std::vector<T> in, out;
};

// Of each wave: moments(t) of its chunks are filled; prepare; advance, in blocks of elements; read(t). Several waves may be
// under way, as run_waves has them.
// States take moments `gap` chunks late and leave what is read in their place. Windows keep moments for as long as they reach.
template <class T>
class ChunkStream {
 public:
  ChunkStream() = default;
  // basis: 0 where nothing of this side is wanted; else the side's. Nothing but `memory` (elements() of them) depends on it.
  ChunkStream(const ChunkSweep<T>& sweep, Index basis, Index step, Index gap, WaveLength waves)
      : sweep_(&sweep),
        windows_(basis > 0 ? sweep.side->windows : kNone),
        basis_(basis),
        states_(basis > 0 ? sweep.side->states : 0),
        step_(step),
        reads_(waves.wave * waves.kept),
        lag_(windowed() ? windows_.first : gap),
        ring_(waves.wave * waves.kept + (windowed() ? windows_.depth : gap)),
        shared_(waves.kept > 1) {}

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
  // What the chunk of time t reads, or null.
  const T* read(Index t) const {
    if (!exists() || t < lag_) return nullptr;
    return windowed() ? read_at_ + t % reads_ * step_ : moments(t - lag_);
  }

  // Coefficients of the steps to come, times [t0, t1).
  void prepare(Index t0, Index t1, ChunkSteps<T>& steps) const {
    if (windowed() || !exists()) return;
    steps.begin = t0;
    steps.in.resize(static_cast<std::size_t>((t1 - t0) * states_ * basis_));
    steps.out.resize(steps.in.size());
    for (Index t = std::max(t0, lag_); t < t1; ++t) {
      const auto at = static_cast<std::size_t>((t - t0) * states_ * basis_);
      sweep_->coefficients(t, steps.in.data() + at, steps.out.data() + at);
    }
  }
  // The times [from, to) of a wave, for elements [first, last); different elements are independent. rows, dots: with windows,
  // see WindowSteps; rows of time `from` on.
  void advance(const ChunkSteps<T>& steps, Index from, Index to, Index first, Index last, const T* rows = nullptr,
               double* dots = nullptr) const {
    if (!exists()) return;
    const Index begin = from;
    from = std::max(from, lag_);
    if (from >= to) return;
    if (windowed()) {
      run_windows<T>({&windows_, step_, ring_, ring_at_, state_at_, from, to, read_at_ + from % reads_ * step_,
                      rows == nullptr ? rows : rows + (from - begin) * step_, dots},
                     first, last);
      return;
    }
    for (Index t = from; t < to; ++t) {
      const Index at = (t - steps.begin) * states_ * basis_;
      run_scan(sweep_->scan_step(step_, steps.in.data() + at, steps.out.data() + at, state_at_), first, last, moments(t - lag_),
               state_at_);
    }
  }
  // Asks for states, which another core has moved last.
  void fetch(Index first, Index last) const {
    if (!shared_ || windowed() || !exists()) return;
    for (Index q = 0; q < states_; ++q) {
      for (Index u = first; u < last; u += static_cast<Index>(64 / sizeof(T))) {
        __builtin_prefetch(state_at_ + q * step_ + u, 1, 3);
      }
    }
  }

 private:
  inline static const std::vector<ChunkWindow<T>> kNone{};

  Index ring_elements() const { return align_elements<T>(ring_ * basis_ * step_); }
  Index state_elements() const {
    if (windowed()) return align_elements<T>(windows_.vectors * step_);
    return basis_ > 0 ? align_elements<T>(sweep_->state_elements(step_)) : 0;
  }
  Index read_elements() const { return windowed() ? align_elements<T>(reads_ * step_) : 0; }

  const ChunkSweep<T>* sweep_ = nullptr;
  WindowPlan<T> windows_{kNone};
  Index basis_ = 0, states_ = 0, step_ = 0, reads_ = 0, lag_ = 0, ring_ = 0;
  bool shared_ = false;  // by several threads
  T* ring_at_ = nullptr;
  T* state_at_ = nullptr;
  T* read_at_ = nullptr;
};

// Elements that windows keep for each element of a moment, in a sweep that keeps `kept` chunks' moments and reads at once.
template <class T>
Index window_elements(const ChunkSide<T>& side, Index kept) {
  const WindowPlan<T> plan(side.windows);
  return side.windows.empty() ? 0 : plan.depth + 2 * kept + plan.vectors;
}

}  // namespace espalier::backend
