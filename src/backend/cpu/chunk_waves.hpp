// The order of a sweep's tasks over the chunks of a sequence, in waves of a few chunks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/cpu/parallel.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>

namespace espalier::backend {

// Chunks of a wave, and of how many waves what goes from one to the next is kept at once. One thread takes a wave from its
// moments to its rows; more threads work on three waves at once, so that none waits for another to end a phase.
struct WaveLength {
  Index wave, kept;
};
// Together their moments stay in the cores' second caches.
inline WaveLength wave_length(Index moment_elements, Index chunks, Index workers, std::size_t element) {
  const Index in_cache = static_cast<Index>((384u << 10) / element) / std::max<Index>(1, moment_elements);
  const Index cached = std::clamp<Index>(in_cache, 1, 16);
  return workers == 1 ? WaveLength{std::min(chunks, cached), 1}
                      : WaveLength{std::min(chunks, std::max<Index>(workers, cached * workers / 3)), 3};
}
// No number of workers keeps more of anything.
inline Index most_kept_chunks(Index moment_elements, Index chunks, Index most_workers, std::size_t element) {
  return 3 * wave_length(moment_elements, chunks, most_workers, element).wave;
}

// The phases of one wave.
enum class WavePhase {
  prepare,  // one task: coefficients of its steps
  moments,  // a task a chunk
  advance,  // a task a block of elements: the scan
  rows,     // a task a chunk: reads what the scan left
};

// All phases of all waves in one order, for parallel_batches. What holds at any time, with several waves under way:
//   prepare(w) begins after advance(w - 1) and rows(w - 2) have ended,
//   advance(w) after prepare(w) and moments(w),   rows(w) after advance(w),
//   moments(w) after rows(w - 3), advance(w - 2) and prepare(w - 1).
class WaveOrder {
 public:
  WaveOrder(Index chunks, WaveLength length) : chunks_(chunks), wave_(length.wave), ahead_(length.kept > 1) {}

  struct Batch {
    WavePhase phase;
    Index begin, end;  // times of the wave's chunks; the same where there is nothing to do
  };
  Index batches() const { return 4 * (waves() + (ahead_ ? 2 : 0)); }
  Batch batch(Index i) const {
    const Step& step = steps()[static_cast<std::size_t>(i % 4)];
    const Index wave = i / 4 - (ahead_ ? 2 : 0) + step.waves_ahead;
    if (wave < 0 || wave >= waves()) return {step.phase, 0, 0};
    return {step.phase, wave * wave_, std::min(chunks_, (wave + 1) * wave_)};
  }
  Index lag(Index i) const { return steps()[static_cast<std::size_t>(i % 4)].lag; }

 private:
  struct Step {
    WavePhase phase;
    Index waves_ahead, lag;
  };
  // Between a phase and the one that needs it lies another phase's work, so that its last tasks are not waited for.
  static constexpr std::array<Step, 4> kAhead{
      {{WavePhase::prepare, 1, 2}, {WavePhase::rows, 0, 3}, {WavePhase::advance, 1, 2}, {WavePhase::moments, 2, 3}}};
  static constexpr std::array<Step, 4> kOneByOne{
      {{WavePhase::prepare, 0, 1}, {WavePhase::moments, 0, 1}, {WavePhase::advance, 0, 1}, {WavePhase::rows, 0, 1}}};

  Index waves() const { return (chunks_ + wave_ - 1) / std::max<Index>(1, wave_); }
  const std::array<Step, 4>& steps() const { return ahead_ ? kAhead : kOneByOne; }

  Index chunks_, wave_;
  bool ahead_;
};

}  // namespace espalier::backend
