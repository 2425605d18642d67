// Diffusion masks against a dense exponential of the test's own: laws, certificates, semigroup, gradients, errors.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/causal.hpp>
#include <espalier/masks/diffusion.hpp>

#include <doctest/doctest.h>

#include "support/chebyshev_reference.hpp"
#include "support/mask_laws.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <string>

namespace es = espalier;
using es::Index;
using es::test::DenseMatrix;
using Op = es::GraphOperator;

namespace {

DenseMatrix operator_matrix(const es::Graph& g, Op op) {
  const Index n = g.nodes();
  DenseMatrix a(n, n), t = a;
  for (Index i = 0; i < n; ++i) {
    for (Index p = g.row_start()[static_cast<std::size_t>(i)]; p < g.row_start()[static_cast<std::size_t>(i) + 1]; ++p) {
      a(i, g.col_index()[static_cast<std::size_t>(p)]) = g.weights()[static_cast<std::size_t>(p)];
    }
  }
  for (Index i = 0; i < n; ++i) {
    double d = 0;
    for (Index j = 0; j < n; ++j) d += a(i, j);
    for (Index j = 0; j < n; ++j) {
      double dj = 0;
      for (Index k = 0; k < n; ++k) dj += a(j, k);
      const double one = i == j ? 1 : 0;
      switch (op) {
        case Op::adjacency:
          t(i, j) = -a(i, j);
          break;
        case Op::laplacian:
          t(i, j) = one * d - a(i, j);
          break;
        case Op::normalized_laplacian:
          t(i, j) = d > 0 ? one - (dj > 0 ? a(i, j) / std::sqrt(d * dj) : 0) : 0;
          break;
        case Op::random_walk:
          t(i, j) = d > 0 ? one - a(i, j) / d : 0;
          break;
      }
    }
  }
  return t;
}

// exp(-time T) by scaling, a Taylor sum of 24 terms, and squaring: in double good to about 1e-14 times the scaling.
DenseMatrix exponential(DenseMatrix t, double time) {
  double norm = 0;
  for (const double v : t.values) norm = std::max(norm, std::abs(v) * time * static_cast<double>(t.rows));
  int squarings = 0;
  while (norm > 0.5) norm /= 2, ++squarings;
  for (double& v : t.values) v *= -time / std::ldexp(1.0, squarings);
  DenseMatrix sum(t.rows, t.cols), term = sum;
  for (Index i = 0; i < t.rows; ++i) sum(i, i) = term(i, i) = 1;
  for (int k = 1; k <= 24; ++k) {
    term = es::test::product(term, t);
    for (double& v : term.values) v /= k;
    for (std::size_t p = 0; p < sum.values.size(); ++p) sum.values[p] += term.values[p];
  }
  for (int s = 0; s < squarings; ++s) sum = es::test::product(sum, sum);
  return sum;
}

std::shared_ptr<const es::Graph> graph_named(const std::string& name, Index n) {
  std::vector<es::Edge> e;
  if (name == "path") {
    for (Index i = 1; i < n; ++i) e.push_back({i - 1, i});
  } else if (name == "star") {
    for (Index i = 1; i < n; ++i) e.push_back({0, i});
  } else if (name == "complete") {
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < i; ++j) e.push_back({i, j});
    }
  } else if (name == "parts") {  // two components, isolated nodes, a self-loop, weights
    for (Index i = 1; i < n / 2; ++i) e.push_back({i - 1, i, 0.5 + 0.1 * static_cast<double>(i % 7)});
    for (Index i = n / 2 + 1; i + 2 < n; ++i) e.push_back({i - 1, i, 2});
    if (n > 4) e.push_back({0, 0, 1.5});  // alone it would make T a rounding error of 0, and its gradient meaningless
  } else {                                // "random"
    for (Index i = 1; i < n; ++i) {
      e.push_back({i, (i * 7 + 3) % i});
      e.push_back({i, (i * i + 1) % i, 0.25});
    }
  }
  return std::make_shared<const es::Graph>(n, e);
}

constexpr Op kOperators[] = {Op::adjacency, Op::laplacian, Op::normalized_laplacian, Op::random_walk};

template <class T>
void check(const std::string& name, Index n, Op op, double time, const std::string& engine) {
  const auto graph = graph_named(name, n);
  es::test::MaskCase<T> c;
  c.name = name + " " + std::to_string(n) + ", operator " + std::to_string(static_cast<int>(op)) + ", t " +
           std::to_string(time) + ", " + engine;
  c.mask = std::make_shared<es::DiffusionMask<T>>(
      graph, time, op, es::MaskOptions{.engine = engine, .tolerance = sizeof(T) == 4 ? 1e-8 : 1e-13});
  c.reference = [graph, op](std::span<const double> p) { return exponential(operator_matrix(*graph, op), p[0]); };
  // The house's norm is of |M| |X|; ours is spectral: on these sizes they differ by at most the condition of the walk's
  // factors.
  c.product_bound = sizeof(T) == 4 ? 3e-6 : 5e-11;
  // One parameter, and rows that sum to 1: the gradient is a small difference of large sums, and so are the differences.
  c.gradient_bound = 5e-6;
  es::test::check_mask_laws(c);
}

double spectral_norm(const DenseMatrix& m) {
  std::vector<double> x(static_cast<std::size_t>(m.cols), 1.0), y(static_cast<std::size_t>(m.rows));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += 0.3 * std::sin(static_cast<double>(i * i));
  double norm = 0;
  for (int step = 0; step < 3000; ++step) {
    double square = 0;
    for (Index i = 0; i < m.rows; ++i) {
      y[static_cast<std::size_t>(i)] = 0;
      for (Index j = 0; j < m.cols; ++j) y[static_cast<std::size_t>(i)] += m(i, j) * x[static_cast<std::size_t>(j)];
    }
    for (Index j = 0; j < m.cols; ++j) {
      x[static_cast<std::size_t>(j)] = 0;
      for (Index i = 0; i < m.rows; ++i) x[static_cast<std::size_t>(j)] += m(i, j) * y[static_cast<std::size_t>(i)];
      square += x[static_cast<std::size_t>(j)] * x[static_cast<std::size_t>(j)];
    }
    if (square == 0) return 0;
    norm = std::sqrt(std::sqrt(square));
    for (double& v : x) v /= std::sqrt(square);
  }
  return norm;
}

// The mask as a matrix, by products with unit columns.
DenseMatrix formed(const es::Mask<double>& mask) {
  DenseMatrix unit(mask.cols(), mask.cols()), m = unit;
  for (Index i = 0; i < mask.cols(); ++i) unit(i, i) = 1;
  mask.multiply({unit.values.data(), unit.rows, unit.cols}, {m.values.data(), m.rows, m.cols});
  return m;
}

}  // namespace

TEST_CASE_TEMPLATE("laws", T, float, double) {
  for (const Op op : kOperators) {
    for (const std::string engine : {"chebyshev", "eigen"}) {
      for (const Index n : {Index{1}, Index{2}, Index{7}, Index{13}}) check<T>("parts", n, op, 0.7, engine);
      check<T>("path", 33, op, 1.5, engine);
      check<T>("star", 20, op, 0.5, engine);
    }
    check<T>("random", 64, op, 0.9, "auto");
    check<T>("complete", 8, op, 0.4, "auto");
  }
}

TEST_CASE("the certificate holds against the matrix built in double") {
  for (const Op op : kOperators) {
    for (const std::string name : {"path", "star", "parts", "random"}) {
      const auto graph = graph_named(name, 30);
      const DenseMatrix t = operator_matrix(*graph, op);
      for (const double time : {0.0, 1e-3, 0.5, 3.0, 20.0}) {
        if (op == Op::adjacency && time > 3) continue;
        const DenseMatrix exact = exponential(t, time);
        const double norm = spectral_norm(exact);
        for (const double tolerance : {1e-2, 1e-4, 1e-8}) {
          const es::DiffusionMask<double> mask(graph, time, op, {.engine = "chebyshev", .tolerance = tolerance});
          const es::Report report = mask.report({.columns = 1});
          REQUIRE(report.certificate);
          const double bound = report.certificate->norm.value();
          CHECK(bound <= tolerance);
          DenseMatrix difference = formed(mask);
          for (std::size_t p = 0; p < difference.values.size(); ++p) difference.values[p] -= exact.values[p];
          // The bound is attained at an end of the spectrum; slack for the power iteration's norm (from below) and for
          // rounding.
          CHECK(spectral_norm(difference) <= (bound * (1 + 1e-5) + 2e-11) * norm);
        }
      }
    }
  }
}

TEST_CASE("Laplacian kernels keep row sums, t = 0 is the identity, kernels of times multiply") {
  const auto graph = graph_named("random", 50);
  const es::DiffusionMask<double> mask(graph, 2.0, Op::laplacian, {.engine = "chebyshev"});
  std::vector<double> ones(50, 1.0), y(50), z(50);
  mask.multiply({ones.data(), 50, 1}, {y.data(), 50, 1});
  for (const double v : y) CHECK(v == doctest::Approx(1).epsilon(1e-11));
  for (std::size_t i = 0; i < ones.size(); ++i) ones[i] = std::sin(static_cast<double>(i));
  const double zero[] = {0.0}, two[] = {4.0};
  mask.with_parameters(zero)->multiply({ones.data(), 50, 1}, {y.data(), 50, 1});
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == doctest::Approx(ones[i]).epsilon(1e-14));
  std::vector<double> twice(50);
  mask.multiply({ones.data(), 50, 1}, {y.data(), 50, 1});
  mask.multiply({y.data(), 50, 1}, {z.data(), 50, 1});
  mask.with_parameters(two)->multiply({ones.data(), 50, 1}, {twice.data(), 50, 1});
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::abs(z[i] - twice[i]) < 1e-11);
}

TEST_CASE("both engines agree, also on many columns") {
  const auto graph = graph_named("random", 200);
  for (const Op op : kOperators) {
    const es::DiffusionMask<double> a(graph, 1.3, op, {.engine = "chebyshev"}), b(graph, 1.3, op, {.engine = "eigen"});
    std::vector<double> x(200 * 37), y(200 * 37), z(200 * 37);
    for (std::size_t p = 0; p < x.size(); ++p) x[p] = std::cos(static_cast<double>(p * p % 1009));
    double difference = 0, size = 0;
    for (const bool transpose : {false, true}) {
      if (transpose) {
        a.multiply_transpose({x.data(), 200, 37}, {y.data(), 200, 37});
        b.multiply_transpose({x.data(), 200, 37}, {z.data(), 200, 37});
      } else {
        a.multiply({x.data(), 200, 37}, {y.data(), 200, 37});
        b.multiply({x.data(), 200, 37}, {z.data(), 200, 37});
      }
      for (std::size_t p = 0; p < x.size(); ++p)
        difference = std::max(difference, std::abs(y[p] - z[p])), size = std::max(size, std::abs(z[p]));
    }
    CHECK(difference < 2e-11 * size);
  }
}

TEST_CASE("eigen: zeros between components, the identity at time 0, nothing below 0") {
  // Two random graphs of odd and of even nodes, joined by an edge of weight 0; a long path, whose far ends only rounding
  // reaches; a node alone.
  std::vector<es::Edge> edges;
  const es::Random random(5);
  for (es::Index i = 0; i + 2 < 40; ++i) edges.push_back({i, i + 2, 0.1 + random.uniform(static_cast<std::uint64_t>(i))});
  for (es::Index i = 0; i < 30; ++i) {
    const auto far = static_cast<es::Index>(20 * random.uniform(static_cast<std::uint64_t>(100 + i)));
    if (i % 20 != far) edges.push_back({2 * (i % 20) + i / 20, 2 * far + i / 20, 1.5});
  }
  edges.push_back({0, 1, 0.0});
  for (es::Index i = 40; i + 1 < 100; ++i) edges.push_back({i, i + 1});
  const auto graph = std::make_shared<const es::Graph>(101, edges);
  const auto part = [](es::Index i) { return i < 40 ? i % 2 : i < 100 ? 2 : 3; };
  for (const Op op : kOperators) {
    for (const double time : {0.0, 0.01, 2.0}) {
      const es::DiffusionMask<double> mask(graph, time, op, {.engine = "eigen"});
      const es::Entries<double> e = mask.entries();
      for (es::Index i = 0; i < 101; ++i) {
        for (es::Index j = 0; j < 101; ++j) {
          const double m = e.values[i * e.values_stride + j];
          if (part(i) != part(j)) CHECK(m == 0);
          if (time == 0) CHECK(m == doctest::Approx(i == j ? 1.0 : 0.0).epsilon(1e-15));
          if (time == 0 && i != j) CHECK(m == 0);
          CHECK(m >= 0);
        }
      }
    }
  }
}

TEST_CASE("wrong times, weights and engines are refused") {
  const auto graph = graph_named("path", 5);
  CHECK_THROWS_AS(es::DiffusionMask<float>(graph, -1), es::ValueError);
  CHECK_THROWS_AS(es::DiffusionMask<float>(graph, std::nan("")), es::ValueError);
  CHECK_THROWS_AS(es::DiffusionMask<float>(nullptr, 1), es::ValueError);
  CHECK_THROWS_AS(es::DiffusionMask<float>(graph, 100, Op::adjacency), es::ValueError);  // e^{173} is no float
  const auto negative = std::make_shared<const es::Graph>(2, std::vector<es::Edge>{{0, 1, -1.0}});
  CHECK_THROWS_AS(es::DiffusionMask<float>(negative, 1), es::ValueError);
  CHECK_NOTHROW(es::DiffusionMask<float>(negative, 1, Op::adjacency));
  CHECK_THROWS_AS(es::DiffusionMask<float>(graph, 1, Op::laplacian, {.engine = "fft"}).report({}), es::ValueError);
  const es::DiffusionMask<float> exact(graph, 1, Op::laplacian, {.tolerance = 0});
  CHECK(exact.report({}).engine == "eigen");
  const auto large = graph_named("path", 1025);
  const auto inexact =
      std::make_shared<const es::DiffusionMask<float>>(large, 1, Op::laplacian, es::MaskOptions{.tolerance = 0});
  CHECK_THROWS_WITH_AS((void)inexact->report({}),
                       "no exact engine can run this product; 'chebyshev' would, with a tolerance above 0", es::ValueError);
  // A matrix that is formed by an engine that there is not is no exact one either.
  CHECK_THROWS_AS((void)es::CausalMask<float>(inexact, 0, {.tolerance = 0}).report({}), es::ValueError);
}

TEST_CASE("the reference loop for large graphs equals known eigendecompositions") {
  // Path of n nodes: Laplacian eigenvalues 2 - 2 cos(pi k / n), vectors cos(pi k (i + 1/2) / n); adjacency eigenvalues
  // 2 cos(pi k / (n + 1)), vectors sin(pi k (i + 1) / (n + 1)).
  const Index n = 24;
  const auto graph = graph_named("path", n);
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<double>(i * i)) + 0.2;
  for (const bool laplacian : {true, false}) {
    for (const double t : {0.0, 0.3, 5.0, 60.0}) {
      std::vector<double> exact(x.size(), 0.0);
      double largest = 0;
      for (Index k = laplacian ? 0 : 1; k < (laplacian ? n : n + 1); ++k) {
        std::vector<double> v(x.size());
        double dot = 0, square = 0;
        const double angle = std::numbers::pi * static_cast<double>(k) / static_cast<double>(laplacian ? n : n + 1);
        for (std::size_t i = 0; i < x.size(); ++i) {
          v[i] = laplacian ? std::cos(angle * (static_cast<double>(i) + 0.5)) : std::sin(angle * static_cast<double>(i + 1));
          dot += v[i] * x[i];
          square += v[i] * v[i];
        }
        const double growth = std::exp(t * (laplacian ? 2 * std::cos(angle) - 2 : 2 * std::cos(angle)));
        for (std::size_t i = 0; i < x.size(); ++i) exact[i] += growth * dot / square * v[i];
        largest = std::max(largest, growth);
      }
      const std::vector<double> y = es::test::chebyshev_exponential(*graph, t, laplacian, x);
      // The loop's error is relative to exp(t radius), radius 2 here: within e^{t (2 - 2 cos(pi / 25))} of the largest.
      const double scale = laplacian ? 1 : std::exp(2 * t);
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::abs(y[i] - exact[i]) <= 1e-13 * scale);
    }
  }
}

TEST_CASE("times and weights near the ends of the number range") {
  const auto graph = graph_named("random", 20);
  std::vector<double> x(20), y(20);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<double>(i)) + 2;
  // The downward recurrence for the coefficients overflowed below z = 1e-56 and gave NaN.
  for (const double t : {1e-300, 1e-100, 1e-60, 1e-30}) {
    const es::DiffusionMask<double> mask(graph, t, Op::laplacian, {.engine = "chebyshev"});
    mask.multiply({x.data(), 20, 1}, {y.data(), 20, 1});
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == doctest::Approx(x[i]).epsilon(1e-14));
  }
  CHECK_THROWS_AS(es::DiffusionMask<double>(graph, 1e300), es::ValueError);
  using Edges = std::vector<es::Edge>;
  const auto wide = std::make_shared<const es::Graph>(3, Edges{{0, 1, 1e38}});
  CHECK_THROWS_AS(es::DiffusionMask<double>(wide, 1e-38), es::ValueError);
  const auto infinite = std::make_shared<const es::Graph>(3, Edges{{0, 1, 1e308}, {1, 2, 1e308}});  // degree of node 1
  for (const Op op : kOperators) CHECK_THROWS_AS(es::DiffusionMask<double>(infinite, 1e-308, op), es::ValueError);
}

TEST_CASE("float: the certificate covers the rounding of the operator") {
  // Normalised weights are no floats: T moves by about 6e-8 and exp(-t T) by 6e-8 t, 14 times the tolerance at t = 1e6 before
  // the arithmetic was chosen by it.
  std::vector<es::Edge> edges;
  for (Index i = 1; i < 300; ++i) edges.push_back({i, (i * 7 + 3) % i, 0.1 + 0.37 * static_cast<double>(i % 11)});
  const auto graph = std::make_shared<const es::Graph>(300, edges);
  const std::vector<double> degrees = graph->degrees();
  std::vector<float> x(300), y(300);
  std::vector<double> x_double(300), exact(300);
  for (const Op op : {Op::laplacian, Op::normalized_laplacian}) {
    for (const double t : {140.0, 1e3, 1e4, 1e5, 1e6}) {
      const es::DiffusionMask<double> truth(graph, t, op, {.engine = "eigen"});
      for (const double tolerance : {1e-3, 1e-4, 1e-5}) {
        const es::DiffusionMask<float> mask(graph, t, op, {.engine = "chebyshev", .tolerance = tolerance});
        const es::Report report = mask.report({.columns = 1});
        const double bound = report.certificate->norm.value();
        CHECK(bound <= tolerance);
        for (int kind = 0; kind < 3; ++kind) {
          double size = 0, difference = 0;
          for (std::size_t i = 0; i < x.size(); ++i) {
            // The slowest mode, where a moved eigenvalue shows, and two signed inputs.
            const double v = kind == 0 ? (op == Op::laplacian ? 1.0 : std::sqrt(degrees[i]))
                                       : std::cos(static_cast<double>((i * i * static_cast<std::size_t>(kind)) % 1009));
            x[i] = static_cast<float>(v);
            x_double[i] = static_cast<double>(x[i]);
            size += x_double[i] * x_double[i];
          }
          mask.multiply({x.data(), 300, 1}, {y.data(), 300, 1});
          truth.multiply({x_double.data(), 300, 1}, {exact.data(), 300, 1});
          for (std::size_t i = 0; i < x.size(); ++i) difference += std::pow(static_cast<double>(y[i]) - exact[i], 2);
          // ||M||_2 = 1. The truth's eigenvalues are good to about 1e-14: 1e-14 t.
          CHECK(std::sqrt(difference / size) <= bound + report.rounding_estimate + 1e-14 * t);
        }
      }
    }
  }
}
