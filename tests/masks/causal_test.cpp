// CausalMask: the laws over tiles, over a formed matrix, over ones.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/masks/diffusion.hpp>
#include <espalier/masks/ones.hpp>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "support/composed_samples.hpp"
#include "support/true_errors.hpp"

namespace es = espalier;
using namespace es::test;
using es::Index;

TEST_CASE_TEMPLATE("causal masks obey the laws", T, float, double) {
  for (const Index n : law_sizes()) {
    check_sample("causal dense", causal(dense_sample<T>(n, n)));
    check_sample("causal outer", causal(outer_sample<T>(n, n)));
  }
  for (const Index shift : {Index{-3}, Index{-100}, Index{5}, Index{100}}) {
    check_sample("causal shifted dense", causal(dense_sample<T>(13, 70), shift));
    check_sample("causal shifted outer", causal(outer_sample<T>(70, 13), shift));
  }
  check_sample("causal causal", causal(causal(dense_sample<T>(13, 13), 2), -1));
  check_sample("causal bordered", causal(bordered(dense_sample<T>(64, 64), 2)));
  check_sample("causal bordered outer", causal(bordered(outer_sample<T>(13, 13), 2)));
  const auto ones = [](Index n) {
    return Sample<T>{std::make_shared<es::OnesMask<T>>(n, n),
                     [n](std::span<const double>) { return dense_matrix(n, n, [](Index, Index) { return 1.0; }); }};
  };
  check_sample("causal ones", causal(ones(64), 1));
  check_sample("causal causal ones", causal(causal(ones(13), 4), 2));
}

TEST_CASE("a causal mask over ones is linear, over a large mask without entries an error that names the limit") {
  const auto ones = std::make_shared<es::OnesMask<float>>(20000, 20000);
  CHECK(es::CausalMask<float>(ones).report({.columns = 64, .rank = 64}).engine == "prefix");
  const auto large = std::make_shared<OuterMask<float>>(8193, 4, 1.0, 1.0);
  CHECK_THROWS_WITH_AS(es::CausalMask<float>{large}, doctest::Contains("8192"), es::ValueError);
}

namespace {

// A path, a star and a node of its own, that do not meet.
std::shared_ptr<const es::Graph> three_parts() {
  std::vector<es::Edge> edges;
  for (Index i = 0; i + 1 < 40; ++i) edges.push_back({i, i + 1, 1.0 + 0.1 * static_cast<double>(i)});
  for (Index i = 41; i < 60; ++i) edges.push_back({40, i, 0.5});
  return std::make_shared<const es::Graph>(61, edges);
}

DenseMatrix applied(const es::Mask<double>& mask) {
  DenseMatrix unit(mask.cols(), mask.cols()), y(mask.rows(), mask.cols());
  for (Index i = 0; i < mask.cols(); ++i) unit(i, i) = 1;
  mask.multiply({unit.values.data(), unit.rows, unit.cols}, {y.values.data(), y.rows, y.cols});
  return y;
}

// The largest singular value, by power iteration (from below).
double spectral_norm(const DenseMatrix& m) {
  DenseMatrix x(m.cols, 1);
  for (Index i = 0; i < m.cols; ++i) x(i, 0) = 1 + 0.3 * static_cast<double>(i % 3);
  double size = 0;
  for (int k = 0; k < 200; ++k) {
    x = product(transposed(m), product(m, x));
    size = frobenius(x);
    for (double& v : x.values) v /= size;
  }
  return std::sqrt(size);
}

}  // namespace

// What the bounds come to: relative to what is kept of the matrix, errors of the inner norm bound's size; a fifth for second
// order.
TEST_CASE("causal diffusion: the bounds are known after the first product, hold, and say something") {
  for (const auto op : {es::GraphOperator::laplacian, es::GraphOperator::random_walk}) {
    const auto graph = three_parts();
    const DenseMatrix whole = applied(es::DiffusionMask<double>(graph, 0.7, op, {.engine = "eigen"}));
    double row_sum = 0, column_sum = 0;
    for (Index i = 0; i < whole.rows; ++i) {
      double row = 0, column = 0;
      for (Index j = 0; j < whole.cols; ++j) row += std::abs(whole(i, j)), column += std::abs(whole(j, i));
      row_sum = std::max(row_sum, row), column_sum = std::max(column_sum, column);
    }
    const double norm = std::sqrt(row_sum * column_sum);
    for (const Index shift : {Index{0}, Index{-2}, Index{7}}) {
      const auto masked = [&](const es::MaskOptions& options) {
        return es::CausalMask<double>(std::make_shared<es::DiffusionMask<double>>(graph, 0.7, op, options), shift);
      };
      const DenseMatrix exact = applied(masked({.engine = "eigen"}));
      CHECK_FALSE(masked({.engine = "eigen"}).report({}).certificate);
      double least_row = 1e300, largest_row = 0;
      for (Index i = std::max<Index>(0, -shift); i < exact.rows; ++i) {
        double row = 0, squares = 0;
        for (Index j = 0; j < exact.cols; ++j) row += std::abs(exact(i, j)), squares += exact(i, j) * exact(i, j);
        least_row = std::min(least_row, row), largest_row = std::max(largest_row, std::sqrt(squares));
      }
      for (const double tolerance : {1e-3, 1e-6}) {
        const es::MaskOptions options{.engine = "chebyshev", .tolerance = tolerance};
        const es::CausalMask<double> mask = masked(options);
        REQUIRE(mask.report({}).certificate);
        CHECK_FALSE(mask.report({}).certificate->entry);
        const DenseMatrix got = applied(mask);
        const es::Certificate bound = mask.report({}).certificate.value();
        const TrueErrors truth = true_errors(got, exact);
        const double error = norm * es::DiffusionMask<double>(graph, 0.7, op, options).report({}).certificate->norm.value();
        CHECK(truth.entry > 0);
        CHECK(truth.entry <= bound.entry.value());
        CHECK(bound.entry.value() < 1.2 * error / largest(exact));
        CHECK(spectral_norm(sum(1, got, -1, exact)) / spectral_norm(exact) <= bound.norm.value());
        CHECK(bound.norm.value() <
              1.2 * (1 + std::ceil(std::log2(61.0 + std::abs(static_cast<double>(shift))))) * error / largest_row);
        if (bound.row) CHECK(truth.row <= *bound.row);
        // Where a row keeps next to nothing, as behind a shift, there is no row bound.
        if (shift >= 0 && tolerance < 1e-3) CHECK(bound.row.value() < 1.2 * std::sqrt(61.0) * error / least_row);
      }
    }
  }
}

TEST_CASE("a formed matrix has the bounds of the engine that made it, whatever its size") {
  // Of few nodes another engine would be cheapest for few columns, and of 130 for the last two columns alone.
  for (const Index nodes : {1, 2, 7, 10, 20, 64, 65, 130}) {
    std::vector<es::Edge> edges;
    for (Index i = 0; i + 1 < nodes; ++i) edges.push_back({i, i + 1});
    const auto graph = std::make_shared<const es::Graph>(nodes, edges);
    for (const double time : {1.0, 3000.0}) {
      CAPTURE(nodes);
      CAPTURE(time);
      const auto diffusion = std::make_shared<es::DiffusionMask<double>>(graph, time);
      const es::CausalMask<double> mask(diffusion);
      const DenseMatrix got = applied(mask);
      const DenseMatrix exact = applied(es::CausalMask<double>(std::make_shared<es::DiffusionMask<double>>(
          graph, time, es::GraphOperator::laplacian, es::MaskOptions{.engine = "eigen"})));
      const double error = frobenius(sum(1, got, -1, exact)) / frobenius(exact);
      const auto certificate = mask.report({}).certificate;
      if (certificate) {
        CHECK(certificate->norm.has_value());
      } else {
        CHECK(error == 0);  // the decomposition, to the bit
      }
      CHECK(error < 1e-10);
    }
  }
}
