// Predicted times of a grid's tiles and FFT on the host.
// SPDX-License-Identifier: Apache-2.0
#include "masks/grid_cost.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "backend/fft.hpp"
#include "backend/work.hpp"

namespace espalier {

namespace {

// A tile has 128 rows and 96 sources: of those that the diagonal crosses all entries are computed.
constexpr double kTileEdge = 128 + 96;

// Lengths that FFTW transforms in one step.
bool is_one_step(Index h) {
  constexpr Index further[] = {20, 25, 32, 64, 128};
  return h <= 16 || std::find(std::begin(further), std::end(further), h) != std::end(further);
}

// How much longer a step of a line takes than in one whose length is a power of two.
double line_slowness(Index h) {
  Index odd = h;
  int twos = 0;
  for (; odd % 2 == 0; odd /= 2) ++twos;
  // From here on the steps of a power of two are so far apart that they share the same few places of the caches.
  if (odd == 1) return h < (1 << 15) ? 1 : h < (1 << 16) ? 1.8 : 3;
  if (h <= 16) return 1;
  if (is_one_step(h)) return 1.6;
  const bool in_first_cache = h <= 256;
  if (twos == 0) return in_first_cache ? 3.0 : 3.6;
  if (twos == 1) return in_first_cache ? 2.8 : 3.3;
  if (twos == 2) return in_first_cache ? 1.8 : 2.0;
  const double sevens = h % 7 != 0 ? 1 : in_first_cache ? 1.35 : 1.15;
  if (twos == 3) return sevens * (in_first_cache ? 1.6 : 1.9);
  return sevens * (in_first_cache ? 1.05 : twos <= 5 ? 1.65 : 1.35);
}

// Flops of `lines` lines of n points, padded to 2 h, one way. All but the first axis are turned, eight lines at once where
// there are so many of less than 512 points, else number by number.
double line_flops(Index n, double lines, bool first) {
  const Index h = backend::smooth_length(n);
  const double points = 2 * static_cast<double>(h);
  const double turned = !first && (h >= 512 || lines < 8) ? 30 : 0;
  const double a_point = 12 + turned + 4 * std::log2(points) * line_slowness(h);
  return lines * (points * a_point + (is_one_step(h) ? 250 : 2250));
}

}  // namespace

double work_seconds(double work, double flops) {
  const double lanes = backend::kernel_work(sizeof(float)).lanes;
  return 2 * lanes * work / flops;
}

double tile_seconds(const std::vector<Index>& sizes, bool causal, Shape shape, std::size_t element, const CostModel& cost) {
  const backend::KernelWork w = backend::kernel_work(element);
  Index count = 1, run = 1;
  for (const Index n : sizes) {
    count *= n;
    if (n > 1) run = n;
  }
  const double length = static_cast<double>(count), along = static_cast<double>(run);
  double entries = w.whole_lanes(length) * length;
  if (causal) entries = std::min(entries, length * (length + kTileEdge) / 2);
  double entry = w.entry(static_cast<double>(shape.rank), static_cast<double>(shape.columns));
  if (run < count) {
    // A tile within one run is a view of the table.
    const double vectors = std::ceil(along / w.lanes) * w.lanes * static_cast<double>(element) / 64;
    entry += std::min(1.0, kTileEdge / along) * 3 * (1 + vectors) / along;
  }
  // Sources are packed once, rows too where there are features.
  const double rows = (shape.rank > 0 ? 1.5 : 1.0) * length * backend::KernelWork::kRowCopy;
  return static_cast<double>(shape.heads) * (cost.call_seconds + work_seconds(entries * entry + rows, cost.tile_flops));
}

double fft_seconds(const std::vector<Index>& sizes, Shape shape, std::size_t element, const CostModel& cost) {
  double lines = 1, flops = 0, points = 1;
  const auto axes = std::count_if(sizes.begin(), sizes.end(), [](Index n) { return n > 1; });
  auto left = axes;
  for (const Index n : sizes) lines *= static_cast<double>(n);
  for (std::size_t t = sizes.size(); t-- > 0;) {
    if (sizes[t] == 1) continue;
    lines /= static_cast<double>(sizes[t]);
    flops += 2 * line_flops(sizes[t], lines, --left == 0);
    lines *= 2 * static_cast<double>(backend::smooth_length(sizes[t]));
    points = lines;
  }
  // Of a product: its work space, fresh memory. Of a pair of columns: half a microsecond for gathering and scattering.
  const double once = 6e4 + 0.12 * flops, pair = 3e4 + flops;
  const double columns = static_cast<double>(shape.columns + (shape.rank > 0 ? 1 : 0));
  const double pairs = static_cast<double>(std::max<Index>(1, shape.rank)) * std::ceil(columns / 2);
  double seconds = (once + pairs * pair) / (cost.fft_flops / (static_cast<double>(element) / sizeof(float)));
  // On several axes an array past the second cache is turned around in memory.
  const double array = 2 * static_cast<double>(element) * points, cached = 1 << 20;
  if (axes > 1) seconds += pairs * 8 * array * std::max(0.0, 1 - cached / array) / cost.bandwidth;
  return static_cast<double>(shape.heads) * (cost.call_seconds + seconds);
}

}  // namespace espalier
