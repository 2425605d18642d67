// A sweep over the chunks of a sequence in waves of a few chunks, each wave on one thread.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/cpu/parallel.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string_view>

namespace espalier::backend {

// Chunks of a wave, and of how many waves what goes from one to the next is kept at once.
struct WaveLength {
  Index wave, kept;
};
// A wave's moments stay in its core's second cache; threads have equally many waves, four or more where there are as many
// chunks. One wave more is kept than threads work on, so that none waits for the slowest.
inline WaveLength wave_length(Index moment_elements, Index chunks, Index workers, std::size_t element) {
  const Index in_cache = static_cast<Index>((384u << 10) / element) / std::max<Index>(1, moment_elements);
  const Index cached = std::clamp<Index>(in_cache, 1, 16);
  if (workers == 1) return {std::min(chunks, cached), 1};
  const Index waves = std::max((chunks + cached - 1) / cached, 4 * workers), even = (waves + workers - 1) / workers * workers;
  return {std::max<Index>(1, (chunks + even - 1) / even), workers + 1};
}
// No number of workers keeps more.
inline Index most_kept_chunks(Index moment_elements, Index chunks, Index most_workers, std::size_t element) {
  return (most_workers + 1) * wave_length(moment_elements, chunks, 1, element).wave;
}

// What a wave does, chunks [t0, t1) in time, with the memory of a worker: its moments; the scan through its chunks, one block
// of elements after the other, each after the wave before; its rows. What is said about one place in memory that waves share
// holds for all: wave w begins when wave w - kept has ended.
struct WaveTasks {
  std::function<void(Index t0, Index t1, int worker)> moments;
  Index blocks;  // of the scan; 0: none
  std::function<void(Index t0, Index t1, Index block, int worker)> advance;
  std::function<void(Index t0, Index t1, int worker)> rows;
  // After rows, in the order of waves; may be empty.
  std::function<void(Index t0, Index t1, int worker)> gather;
};
inline void run_waves(const Context<Cpu>& context, Index chunks, WaveLength waves, const WaveTasks& tasks,
                      std::string_view phase) {
  // Of the blocks, of the places that waves take, of what is gathered.
  const Index places = tasks.blocks, gathered = places + waves.kept;
  Gates gates(gathered + 1);
  parallel_in_order(
      context, (chunks + waves.wave - 1) / waves.wave, gates,
      [&](Index w, int worker) {
        const Index t0 = w * waves.wave, t1 = std::min(chunks, t0 + waves.wave), place = places + w % waves.kept;
        gates.wait(place, w - waves.kept + 1);
        tasks.moments(t0, t1, worker);
        for (Index block = 0; block < tasks.blocks; ++block) {
          gates.wait(block, w);
          tasks.advance(t0, t1, block, worker);
          gates.open(block, w + 1);
        }
        tasks.rows(t0, t1, worker);
        if (tasks.gather) {
          gates.wait(gathered, w);
          tasks.gather(t0, t1, worker);
          gates.open(gathered, w + 1);
        }
        gates.open(place, w + 1);
      },
      phase);
}

}  // namespace espalier::backend
