// Patch order of a grid: where its points go, their keys, and the table of near offsets.
// SPDX-License-Identifier: Apache-2.0
#include "backend/patches.hpp"

#include <algorithm>

namespace espalier::backend {

template <class T>
void lay_out_patches(const std::vector<double>& table, PatchedGrid<T>& grid) {
  Axes patches{}, widths{}, reach{}, table_sizes{};
  for (std::size_t t = 0; t < 3; ++t) {
    patches[t] = (grid.sizes[t] + grid.patch[t] - 1) / grid.patch[t];
    reach[t] = grid.cross ? grid.sizes[t] - 1 : 2 * grid.patch[t] - 1;
    widths[t] = 2 * reach[t] + 1;
    table_sizes[t] = 2 * grid.sizes[t] - 1;
  }
  const Index size = count(widths), centre = size / 2;
  grid.near.assign(static_cast<std::size_t>(size), T(0));
  for (Index p = 0; p < size; ++p) {
    Axes at = place(p, widths);
    bool inside = true;
    for (std::size_t t = 0; t < 3; ++t) {
      at[t] += grid.sizes[t] - 1 - reach[t];
      inside = inside && at[t] >= 0 && at[t] < table_sizes[t];
    }
    if (inside) grid.near[static_cast<std::size_t>(p)] = static_cast<T>(table[static_cast<std::size_t>(flat(at, table_sizes))]);
  }
  grid.near_mirrored.assign(grid.near.rbegin(), grid.near.rend());
  const Index leaves = count(patches);
  grid.start.assign(1, 0);
  for (Index leaf = 0; leaf < leaves; ++leaf) {
    const Axes at = place(leaf, patches);
    Axes first{}, here{};
    for (std::size_t t = 0; t < 3; ++t) {
      first[t] = at[t] * grid.patch[t];
      here[t] = std::min(grid.patch[t], grid.sizes[t] - first[t]);
    }
    const Index points = count(here);
    for (Index i = 0; i < points; ++i) {
      const Axes in_patch = place(i, here);
      const Axes p{first[0] + in_patch[0], first[1] + in_patch[1], first[2] + in_patch[2]};
      grid.index.push_back(static_cast<std::int32_t>(flat(p, grid.sizes)));
      const Index key = flat(p, widths);
      grid.key.push_back(static_cast<std::int32_t>(key));
      grid.row_key.push_back(static_cast<std::int32_t>(key + centre));
    }
    grid.start.push_back(static_cast<Index>(grid.index.size()));
  }
}

template void lay_out_patches(const std::vector<double>&, PatchedGrid<float>&);
template void lay_out_patches(const std::vector<double>&, PatchedGrid<double>&);

}  // namespace espalier::backend
