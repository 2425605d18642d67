// Flops and predicted times of products in chunk-basis form and by sliding windows on the host.
// SPDX-License-Identifier: Apache-2.0
#include "masks/chunk_cost.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/work.hpp"
#include "masks/grid_cost.hpp"

namespace espalier {

namespace {

using backend::KernelWork;

// Columns that a product takes at once; the near scores are made anew for each block of them.
constexpr double kColumnBlock = 256;
// What a sweep does whatever its length, memory and coefficients, and for a chunk whatever its columns: 1 us, 80 ns.
constexpr double kSweepWork = 8000, kChunkWork = 640;
// More basis vectors than that are not kept in registers while states step.
constexpr Index kScanned = 8;

// A step of a window for one element of moments: 0.25 ns.
constexpr double kWindowElement = 2;
// A window of single tokens takes so long a step, and for each vector of the columns. Open ones add to a running sum, long ones
// also sum the ends of their blocks, those of up to four tokens are summed anew.
struct WindowWork {
  double step, vector;
};
WindowWork window_work(Index first, Index last) {
  if (last == backend::kOpenWindow) return {24, 28};
  const double length = static_cast<double>(last - first + 1);
  return length > 4 ? WindowWork{52, 34} : WindowWork{20 + 36 * (length - 1), 14};
}
// A row of a panel of columns comes in and its result goes out.
constexpr double kPanelRow = 36, kPanelElement = 0.45;

// Kept between steps: sums, and moments from the window before on. Beyond the last cache's share of a core they come from
// memory.
template <class T>
double kept_vectors(const std::vector<backend::ChunkWindow<T>>& windows) {
  double kept = 0;
  for (const auto& w : windows) kept += 2 + 2 * (w.last == backend::kOpenWindow ? 0.0 : static_cast<double>(w.last - w.first));
  return kept;
}
// Bytes a step and element of a window: two sums and three passes.
constexpr double kWindowReads = 5;

struct Split {
  double near = 0, far = 0, other = 0, bytes = 0;  // work: of tiles, of states and moments, of what is no arithmetic; memory
};

// One side's moments, states or windows, and rows.
template <class T>
void add_side(const backend::ChunkedToeplitz<T>& p, const backend::ChunkSide<T>& side, double m, double c, Split& s) {
  const KernelWork w = backend::kernel_work(sizeof(T));
  const double size = static_cast<double>(p.chunk), chunks = std::ceil(static_cast<double>(p.length) / size);
  const double r = static_cast<double>(side.basis), states = static_cast<double>(side.states), width = std::max(1.0, m);
  const double lanes = w.whole_lanes(c), active = std::max(0.0, chunks - static_cast<double>(p.gap));
  if (m > 0) {
    s.far += active * w.multiply_adds(r * size * (w.whole_rows(m) * lanes + m * w.whole_rows(c)));
    // Rows and sources are weighted by each basis vector.
    s.other += active * 0.4 * size * r * (m + lanes);
  } else {
    s.far += active * w.multiply_adds(size * (w.whole_rows(r) * lanes + r * w.whole_rows(c)));
  }
  s.far += active * w.multiply_adds((side.basis > kScanned ? 6 : 2) * r * states * width * lanes);
  const double copies = (c != lanes ? 1 : 0) + (m > 0 && m != w.whole_lanes(w.whole_rows(m)) ? 1 : 0);
  s.other += active * size * copies * KernelWork::kRowCopy;
  double steps = 0;
  for (const auto& window : side.windows) steps += std::max(0.0, chunks - static_cast<double>(window.first));
  s.other += steps * kWindowElement * width * lanes;
  const double kept = kept_vectors(side.windows) * width * lanes * sizeof(T);
  s.bytes +=
      kWindowReads * sizeof(T) * steps * width * lanes * std::max(0.0, 1 - KernelWork::kCacheBytes / std::max(1.0, kept));
}

}  // namespace

double near_flops(Index chunk, Index gap, double sides, double m, double c) {
  // A causal mask's own chunk is half empty, but its tiles are whole.
  const double chunks = sides == 2 ? 2 * static_cast<double>(gap) - 1 : static_cast<double>(gap);
  return 2 * chunks * static_cast<double>(chunk) * (m + c);
}
double far_flops(Index chunk, double basis, double basis_states, double m, double c) {
  const double width = std::max(1.0, m) * c;
  return 4 * basis * width + 4 * basis_states * width / static_cast<double>(chunk);
}

template <class T>
double chunked_seconds(const backend::ChunkedToeplitz<T>& p, Shape shape, const CostModel& cost) {
  const KernelWork w = backend::kernel_work(sizeof(T));
  const double m = static_cast<double>(shape.rank), c = static_cast<double>(shape.columns);
  const double length = static_cast<double>(p.length), size = static_cast<double>(p.chunk), chunks = length / size;
  const bool both = p.has_lower && p.has_upper;
  // Of its own chunk a panel of rows of a one-sided mask sees what is before its end.
  const double panel = 2 * w.lanes, own = both ? 1 : std::min(1.0, (size + panel) / (2 * size));
  double tiles = own * chunks;
  for (Index n = 1; n < p.gap; ++n) tiles += (both ? 2 : 1) * std::max(0.0, chunks - static_cast<double>(n));
  for (const Index n : p.exact) tiles += std::max(0.0, chunks - std::abs(static_cast<double>(n)));
  Split s;
  const double blocks = std::max(1.0, std::ceil(c / kColumnBlock));
  s.near = tiles * size * size * (w.entry(m, c) + w.multiply_adds((blocks - 1) * m));
  s.other = kSweepWork + std::ceil(chunks) * kChunkWork + tiles * size * (0.3 * m * blocks);
  if (c != w.whole_lanes(c)) s.other += tiles * size * KernelWork::kRowCopy;
  double sweeps = 1;
  for (const auto* side : {&p.lower, &p.upper}) {
    if (side->basis == 0) continue;
    add_side(p, *side, m, c, s);
    if (side == &p.upper) sweeps = 2, s.other += kSweepWork + chunks * kChunkWork;
  }
  const double elements = length * (sweeps * (2 * m + 2 * c) + (sweeps - 1) * c);
  s.other += KernelWork::kPass * elements;
  s.bytes += KernelWork::memory_bytes(sizeof(T) * elements, sizeof(T) * length * (2 * m + 2 * c));
  const double far_speed = shape.rank > 0 ? cost.chunk_flops : cost.chunk_plain_flops;
  return static_cast<double>(shape.heads) * (cost.call_seconds + work_seconds(s.near + s.other, cost.tile_flops) +
                                             work_seconds(s.far, far_speed) + s.bytes / cost.bandwidth);
}

template <class T>
double sliding_seconds(const backend::SlidingToeplitz<T>& p, Index columns, const CostModel& cost) {
  const KernelWork w = backend::kernel_work(sizeof(T));
  const double length = static_cast<double>(p.length);
  constexpr Index most = 256 / static_cast<Index>(sizeof(T));
  double work = 0, bytes = 0;
  // Panels of most columns are alike, however many there are; then the columns that are left.
  for (const auto& [width, count] : {std::pair(most, columns / most), std::pair(columns % most, Index{1})}) {
    if (width == 0 || count == 0) continue;
    const double panels = static_cast<double>(count);
    const double c = static_cast<double>(width), padded = w.whole_lanes(c);
    // A quarter of a vector or less is not padded: single elements, two a vector's time.
    const double vectors = padded <= 4 * c ? padded / w.lanes : c / 2;
    for (const auto* side : {&p.lower, &p.upper}) {
      if (side == &p.upper && side->empty()) continue;
      work += panels * length * (kPanelRow + kPanelElement * c);
      const double kept = kept_vectors(*side) * c * sizeof(T);
      for (const auto& window : *side) {
        const double steps = panels * std::max(0.0, length - static_cast<double>(window.first));
        const WindowWork each = window_work(window.first, window.last);
        work += steps * (each.step + each.vector * vectors);
        bytes += steps * c * kWindowReads * sizeof(T) * std::max(0.0, 1 - KernelWork::kCacheBytes / std::max(1.0, kept));
      }
    }
  }
  bytes += KernelWork::memory_bytes(3 * sizeof(T) * length * static_cast<double>(columns),
                                    2 * sizeof(T) * length * static_cast<double>(columns));
  return work_seconds(work, cost.tile_flops) + bytes / cost.bandwidth + cost.call_seconds;
}

template double chunked_seconds(const backend::ChunkedToeplitz<float>&, Shape, const CostModel&);
template double chunked_seconds(const backend::ChunkedToeplitz<double>&, Shape, const CostModel&);
template double sliding_seconds(const backend::SlidingToeplitz<float>&, Index, const CostModel&);
template double sliding_seconds(const backend::SlidingToeplitz<double>&, Index, const CostModel&);

}  // namespace espalier
