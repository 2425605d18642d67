// Sums over sliding windows of a stream of vectors, by additions alone: where their numbers lie, and one call of the kernel.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/chunked.hpp"

#include <algorithm>
#include <vector>

namespace espalier::backend {

// At time t vector P_t arrives, and every window wants the sum of P_{t - n}, first <= n <= last. The arrivals of a window of w
// steps are cut into blocks of w: its sum is the block's sum so far plus a sum over the end of the block before, all of which
// are made when that block is complete: about three additions a step whatever w.
// Source: M. van Herk, "A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels", Pattern
// Recognition Letters 13 (1992); J. Gil, M. Werman, "Computing 2-D min, median, and max filters", IEEE TPAMI 15 (1993).
// Differences of running sums would be cheaper, and lose every row whose own terms are small beside what has left the window.
template <class T>
struct WindowPlan {
  // Windows up to this length are summed anew.
  static constexpr Index kDirect = 4;

  const std::vector<ChunkWindow<T>>* windows = nullptr;
  Index first = 0;  // no window begins nearer
  Index depth = 0;  // steps back that vectors are read
  std::vector<Index>
      places;         // of each window's vectors: the block's sum, what rounding left out of it, the ends' sums 1 .. w-1
  Index vectors = 0;  // of all windows

  WindowPlan() = default;
  explicit WindowPlan(const std::vector<ChunkWindow<T>>& all) : windows(&all), first(all.empty() ? 0 : all.front().first) {
    for (const ChunkWindow<T>& w : all) {
      first = std::min(first, w.first);
      places.push_back(vectors);
      depth = std::max(depth, w.last == kOpenWindow ? w.first : w.last);
      if (w.last == kOpenWindow) {
        vectors += 2;
      } else if (w.last - w.first + 1 > kDirect) {
        vectors += 2 + w.last - w.first;
      }
    }
  }
};

// Steps from .. to - 1 for some elements.
template <class T>
struct WindowSteps {
  const WindowPlan<T>* plan;
  Index step;        // elements of a vector
  Index ring;        // P_t is at moments + t % ring * step
  const T* moments;  // [ring, step]
  T* state;          // [plan->vectors, step]
  Index from, to;    // times
  T* out;            // [to - from, step]: sum over the windows of weight x sum
  const T* rows;     // [to - from, step], or null: then dots[w] += rows_t . sum of window w
  double* dots;
};

// For the elements first .. last - 1.
template <class T>
void run_windows(const WindowSteps<T>& steps, Index first, Index last);

}  // namespace espalier::backend
