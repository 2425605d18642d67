// Row sums of FFT products that are 0: found by zeros of table and features, on grids of every shape.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "support/seen_rows.hpp"

#include <cmath>
#include <cstring>

using namespace espalier;
using namespace espalier::test;

namespace {

template <class T>
MaskPointer<T> by_fft(const std::vector<Index>& sizes, std::span<const double> table) {
  GridOptions options;
  options.engine = "fft";
  auto mask = std::make_shared<GridMask<T>>(sizes, table, options);
  try {
    (void)mask->report({.columns = 2, .rank = 1});
  } catch (const ValueError&) {
    return nullptr;  // a build without FFT
  }
  return mask;
}

}  // namespace

TEST_CASE_TEMPLATE("sums of rows that see nothing are 0, all others are not", T, float, double) {
  for (const auto& sizes : std::vector<std::vector<Index>>{{1},
                                                           {2},
                                                           {7},
                                                           {64},
                                                           {131},
                                                           {200},
                                                           {1, 1},
                                                           {1, 5},
                                                           {5, 1},
                                                           {5, 7},
                                                           {3, 70},
                                                           {70, 3},
                                                           {3, 1, 11},
                                                           {4, 5, 3},
                                                           {2, 3, 2, 3}}) {
    for (const TableZeros zeros : table_zeros) {
      for (const Index m : {1, 3, 64, 67}) check_seen_rows<T>(sizes, zeros, m, by_fft<T>);
    }
  }
}

TEST_CASE("sums of rows that see nothing: NaN stays, and the bits do not depend on threads") {
  const std::vector<Index> sizes = {300};
  const std::vector<double> table = seen_table(sizes, TableZeros::band);
  const MaskPointer<float> mask = by_fft<float>(sizes, table);
  if (mask == nullptr) return;
  const DenseMatrix features = seen_features(300, 5, 0.5, true, false, 3);
  const std::vector<float> a(features.values.begin(), features.values.end());
  std::vector<float> b = a, x(300, 1.0f), y(300), one(300);
  const auto sums = [&](int threads, std::vector<float>& d) {
    mask->multiply_low_rank({{a.data(), 300, 5}, {b.data(), 300, 5}, {x.data(), 300, 1}}, {{y.data(), 300, 1}, {d.data(), 300}},
                            {.threads = threads});
  };
  sums(1, one);
  CHECK(one[0] == 0);
  CHECK(one[299] > 0);
  for (const int threads : {2, 3, 8}) {
    std::vector<float> d(300);
    sums(threads, d);
    CHECK(std::memcmp(d.data(), one.data(), sizeof(float) * 300) == 0);
  }
  b[5 * 200] = std::numeric_limits<float>::quiet_NaN();
  sums(1, one);
  for (const float sum : one) CHECK(std::isnan(sum));
}
