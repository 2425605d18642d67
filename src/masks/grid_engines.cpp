// The list of engines of GridMask on the host.
// SPDX-License-Identifier: Apache-2.0
#include "masks/grid_engines.hpp"

#include <algorithm>
#include <cmath>

#include "masks/far_field.hpp"
#include "masks/grid_table.hpp"
#include "masks/piecewise.hpp"
#include "masks/separable.hpp"
#include "masks/sequence.hpp"

namespace espalier {

template <class T>
bool in_range_of_engines(const GridSource& source) {
  double largest = 0;
  for (const double v : source.table) largest = std::max(largest, std::abs(v));
  const double limit = sizeof(T) == 4 ? 1e20 : 1e140;
  return largest == 0 || (largest < limit && largest > 1 / limit);
}

template <class T>
std::vector<std::unique_ptr<const GridEngine<T>>> grid_engines(const GridSource& source, const MaskOptions& options,
                                                               double tolerance) {
  std::vector<std::unique_ptr<const GridEngine<T>>> engines;
  const Index length = grid_length(source.sizes);
  const bool one_axis = length > 1 && *std::max_element(source.sizes.begin(), source.sizes.end()) == length;
  if (one_axis) {
    // Before the sequence engines: where it is fast they need not search.
    engines.push_back(std::make_unique<PiecewiseEngine<T>>(source, options));
    engines.push_back(std::make_unique<SequenceEngines<T>>(length, grid_sequence_values(source), options, tolerance));
  }
  const auto longer = std::count_if(source.sizes.begin(), source.sizes.end(), [](Index n) { return n > 1; });
  if (longer > 1) engines.push_back(std::make_unique<SeparableEngine<T>>(source, options, tolerance));
  engines.push_back(std::make_unique<FarFieldEngine<T>>(source, options, tolerance));
  return engines;
}

template bool in_range_of_engines<float>(const GridSource&);
template bool in_range_of_engines<double>(const GridSource&);
template std::vector<std::unique_ptr<const GridEngine<float>>> grid_engines<float>(const GridSource&, const MaskOptions&,
                                                                                   double);
template std::vector<std::unique_ptr<const GridEngine<double>>> grid_engines<double>(const GridSource&, const MaskOptions&,
                                                                                     double);

}  // namespace espalier
