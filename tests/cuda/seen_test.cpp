// Row sums of a device's FFT products that are 0: the same check as on the host.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "host_mask.hpp"
#include "support/seen_rows.hpp"

using namespace espalier;
using namespace espalier::test;

namespace {

template <class T>
MaskPointer<T> by_fft(const std::vector<Index>& sizes, std::span<const double> table) {
  GridOptions options;
  options.engine = "fft";
  auto mask = std::make_shared<GridMask<T, Cuda>>(sizes, table, options);
  (void)mask->report({.columns = 2, .rank = 1});
  return std::make_shared<HostMask<T>>(std::move(mask));
}

}  // namespace

TEST_CASE_TEMPLATE("sums of rows that see nothing are 0, all others are not", T, float, double) {
  for (const auto& sizes : std::vector<std::vector<Index>>{{2}, {67}, {1, 5}, {5, 7}, {3, 4, 5}}) {
    for (const TableZeros zeros : table_zeros) {
      for (const Index m : {1, 66}) check_seen_rows<T>(sizes, zeros, m, by_fft<T>);
    }
  }
}
