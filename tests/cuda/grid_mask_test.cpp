// GridMask on a device: every law of a host mask, for both engines, on grids of one to four axes.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/grid.hpp>

#include <doctest/doctest.h>

#include "host_mask.hpp"
#include "support/mask_laws.hpp"

#include <cmath>
#include <functional>
#include <string>

using namespace espalier;
using espalier::test::DenseMatrix;
using espalier::test::HostMask;

namespace {

using Sizes = std::vector<Index>;

Index product(const Sizes& sizes) {
  Index p = 1;
  for (const Index n : sizes) p *= n;
  return p;
}

// Coordinates of i less those of j, both row-major.
std::vector<Index> offset(const Sizes& sizes, Index i, Index j) {
  std::vector<Index> o(sizes.size());
  for (std::size_t t = sizes.size(); t-- > 0;) {
    o[t] = i % sizes[t] - j % sizes[t];
    i /= sizes[t], j /= sizes[t];
  }
  return o;
}

// M_ij = entry(offset), 0 for j > i where causal.
DenseMatrix dense(const Sizes& sizes, bool causal, const std::function<double(const std::vector<Index>&)>& entry) {
  const Index n = product(sizes);
  return test::dense_matrix(n, n, [&](Index i, Index j) { return causal && j > i ? 0.0 : entry(offset(sizes, i, j)); });
}

std::string words(const Sizes& sizes, bool causal) {
  std::string text = causal ? "causal " : "";
  for (const Index n : sizes) text += std::to_string(n) + " ";
  return text;
}

// A free table without any symmetry: 0.6 + 0.4 sin of the position.
template <class T>
void check_table(const Sizes& sizes, bool causal) {
  Index size = 1;
  for (const Index n : sizes) size *= 2 * n - 1;
  std::vector<double> table(static_cast<std::size_t>(size));
  for (std::size_t p = 0; p < table.size(); ++p) table[p] = 0.6 + 0.4 * std::sin(1.7 * static_cast<double>(p * p % 101));
  const auto make = [=](const std::string& engine) {
    GridOptions options;
    options.causal = causal;
    options.engine = engine;
    return std::make_shared<HostMask<T>>(std::make_shared<GridMask<T, Cuda>>(sizes, std::span<const double>(table), options));
  };
  test::check_mask_laws<T>({.name = "table " + words(sizes, causal),
                            .mask = make("auto"),
                            .reference =
                                [=](std::span<const double> p) {
                                  return dense(sizes, causal, [&](const std::vector<Index>& o) {
                                    Index at = 0;
                                    for (std::size_t t = 0; t < o.size(); ++t)
                                      at = at * (2 * sizes[t] - 1) + o[t] + sizes[t] - 1;
                                    return p[static_cast<std::size_t>(at)];
                                  });
                                },
                            .with_engine = make});
}

// scale / (1 + (d / width)^power) of the city block distance.
template <class T>
void check_function(const Sizes& sizes, bool causal) {
  const auto make = [=](const std::string& engine) {
    GridOptions options;
    options.causal = causal;
    options.engine = engine;
    const Rational f{.width = 3, .power = 1.5, .scale = 0.8};
    return std::make_shared<HostMask<T>>(std::make_shared<GridMask<T, Cuda>>(sizes, f, Distance::l1, options));
  };
  test::check_mask_laws<T>({.name = "function " + words(sizes, causal),
                            .mask = make("auto"),
                            .reference =
                                [=](std::span<const double> p) {
                                  return dense(sizes, causal, [&](const std::vector<Index>& o) {
                                    double d = 0;
                                    for (const Index v : o) d += static_cast<double>(v < 0 ? -v : v);
                                    return p[2] / (1 + std::pow(d / p[0], p[1]));
                                  });
                                },
                            .with_engine = make});
}

}  // namespace

TEST_CASE_TEMPLATE("laws: one axis", T, float, double) {
  check_table<T>({1}, false);
  check_table<T>({7}, true);
  check_table<T>({13}, false);
}

TEST_CASE_TEMPLATE("laws: longer than a tile", T, float, double) {
  check_function<T>({101}, false);
}

TEST_CASE_TEMPLATE("laws: several axes", T, float, double) {
  check_table<T>({3, 4}, false);
  check_function<T>({8, 8}, true);
  check_table<T>({2, 3, 3}, true);
}

TEST_CASE("laws: four axes run by tiles alone") {
  check_table<double>({2, 1, 3, 2, 2}, false);
  const GridMask<float, Cuda> mask({2, 3, 2, 2}, Exponential{.rate = 0.1});
  CHECK(mask.engines({.columns = 1}).size() == 1);
}
