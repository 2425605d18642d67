// Rows that see no key: masked products of a grid's mask against the definition, where many numbers are 0 on purpose.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <doctest/doctest.h>

#include "support/inputs.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

namespace espalier::test {

// A mask of these sizes and this table that runs by an engine whose zeros are sums that cancel; null where there is no such
// engine.
template <class T>
using SeenMaker = std::function<MaskPointer<T>(const std::vector<Index>& sizes, std::span<const double> table)>;

// Which entries of a table stay.
enum class TableZeros { none, few_left, band, past, lines, all };
inline constexpr TableZeros table_zeros[] = {TableZeros::none, TableZeros::few_left, TableZeros::band,
                                             TableZeros::past, TableZeros::lines,    TableZeros::all};

// Positive numbers: a sum is 0 just where nothing is added to it.
inline std::vector<double> seen_table(const std::vector<Index>& sizes, TableZeros zeros) {
  Index size = 1;
  for (const Index n : sizes) size *= 2 * n - 1;
  const Random random(11);
  const Index wide = 2 * sizes.back() - 1;
  std::vector<double> table(static_cast<std::size_t>(size));
  for (Index p = 0; p < size; ++p) {
    const bool stays = zeros == TableZeros::none ||
                       (zeros == TableZeros::few_left && random.uniform(static_cast<std::uint64_t>(p)) < 0.03) ||
                       (zeros == TableZeros::band && p % wide > wide / 2 && p % wide <= wide / 2 + 3) ||
                       (zeros == TableZeros::past && p >= size / 2) || (zeros == TableZeros::lines && p / wide % 3 == 1);
    if (stays) table[static_cast<std::size_t>(p)] = 0.5 + random.uniform(static_cast<std::uint64_t>(size + p));
  }
  return table;
}

// Features of which `share` are not 0. hidden: the first third of the rows has none at all; alone: only rows 64, 128, ... have
// any.
inline DenseMatrix seen_features(Index rows, Index m, double share, bool hidden, bool alone, std::uint64_t seed) {
  const Random random(seed);
  return dense_matrix(rows, m, [&](Index i, Index r) {
    const auto at = static_cast<std::uint64_t>(2 * (i * m + r));
    return (hidden && i < rows / 3) || (alone && i % 64 != 0) || random.uniform(at) >= share ? 0.0
                                                                                             : 0.5 + random.uniform(at + 1);
  });
}

// Both directions: sums of rows that see nothing are 0 to the bit, all others are not and are right.
template <class T>
void check_seen_rows(const std::vector<Index>& sizes, TableZeros zeros, Index m, const SeenMaker<T>& make) {
  const std::vector<double> table = seen_table(sizes, zeros);
  const MaskPointer<T> mask = make(sizes, table);
  if (mask == nullptr) return;
  const Index n = mask->rows();
  CAPTURE(n);
  CAPTURE(m);
  CAPTURE(static_cast<int>(zeros));
  const auto entry = [&](Index i, Index j) {
    Index position = 0, wide = 1;
    for (std::size_t t = sizes.size(); t-- > 0;) {
      position += wide * (i % sizes[t] - j % sizes[t] + sizes[t] - 1);
      wide *= 2 * sizes[t] - 1;
      i /= sizes[t], j /= sizes[t];
    }
    return table[static_cast<std::size_t>(position)];
  };
  for (const double share : {1.0, 0.5, 1.0 / static_cast<double>(m + 1), 0.0}) {
    const bool alone = share == 0;  // one key in 64
    Guarded<T> a(n, m, 3), b(n, m, 1), x(n, 2), y(n, 2), d(1, n);
    a.set(seen_features(n, m, alone ? 1 : share, false, false, 21));
    b.set(seen_features(n, m, alone ? 1 : share, true, alone, 22));
    x.set(dense_matrix(n, 2, [](Index i, Index k) { return static_cast<double>(i % 7 - 3 + k); }));
    for (const bool transpose : {false, true}) {
      const auto product = [&] {
        const LowRankInputs<T> in{a.view(), b.view(), x.view()};
        const LowRankOutputs<T> out{y.view(), d.vector()};
        transpose ? mask->multiply_low_rank_transpose(in, out) : mask->multiply_low_rank(in, out);
      };
      product();
      const DenseMatrix da = a.dense(), db = b.dense();
      Index unseen = 0;
      double largest = 0, worst = 0;
      for (Index i = 0; i < n; ++i) {
        double sum = 0;
        for (Index j = 0; j < n; ++j) {
          const double e = transpose ? entry(j, i) : entry(i, j);
          for (Index r = 0; e != 0 && r < m; ++r) sum += e * da(i, r) * db(j, r);
        }
        const auto got = static_cast<double>(d.vector()[i]);
        CHECK((sum == 0) == (got == 0));
        unseen += sum == 0;
        largest = std::max(largest, sum);
        worst = std::max(worst, std::abs(got - sum));
      }
      CHECK(worst <= (sizeof(T) == sizeof(float) ? 1e-6 : 1e-12) * largest);
      if (zeros == TableZeros::all) CHECK(unseen == n);
      if (zeros == TableZeros::band && n > 3) CHECK(unseen > 0);
    }
  }
}

}  // namespace espalier::test
