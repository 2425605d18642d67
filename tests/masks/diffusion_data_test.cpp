// Diffusion on real graphs: the road network of the USA and a hub graph of the internet, against an independent double loop.
// SPDX-License-Identifier: Apache-2.0
//
// The graphs lie under $ESPALIER_DATA_DIR (graphs/usroads.mtx.gz, graphs/as-caida20071105.edges.gz); without it: skipped.
#include <espalier/io/graph_files.hpp>
#include <espalier/masks/diffusion.hpp>

#include <doctest/doctest.h>

#include "support/chebyshev_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace es = espalier;
using es::Index;
using Op = es::GraphOperator;

namespace {

// Null without the data; then CTest reads the message and reports the test as skipped.
std::shared_ptr<const es::Graph> graph_from(const std::string& name) {
  const char* folder = std::getenv("ESPALIER_DATA_DIR");
  if (folder == nullptr || *folder == 0) {
    MESSAGE("skipped: ESPALIER_DATA_DIR is not set");
    return nullptr;
  }
  const es::GraphFile file = es::read_graph_file(std::string(folder) + "/graphs/" + name);
  return std::make_shared<const es::Graph>(file.nodes, file.edges);
}

double norm(const std::vector<double>& x) {
  double square = 0;
  for (const double v : x) square += v * v;
  return std::sqrt(square);
}

// Signed, no period, values representable in float: both precisions see the same input.
std::vector<double> signed_input(Index n) {
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<double>(static_cast<float>(std::sin(static_cast<double>(i) * 12.9898) + 0.25));
  }
  return x;
}

// ||M~ x - y||, all in double; the product also runs on three columns, whose middle one is compared.
template <class T>
double error_of(const es::Mask<T>& mask, const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<Index>(x.size());
  std::vector<T> in(x.size() * 3), out(in.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    in[3 * i] = T(1);
    in[3 * i + 1] = static_cast<T>(x[i]);
    in[3 * i + 2] = static_cast<T>(-x[i]);
  }
  mask.multiply({in.data(), n, 3}, {out.data(), n, 3});
  std::vector<double> difference(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) difference[i] = static_cast<double>(out[3 * i + 1]) - y[i];
  return norm(difference);
}

}  // namespace

TEST_CASE("usroads, Laplacian: double to 1e-8 and float to 1e-5 of the input at t = 1, 14, 140") {
  const auto graph = graph_from("usroads.mtx.gz");
  if (!graph) return;
  REQUIRE(graph->nodes() == 129164);
  REQUIRE(graph->stored() == 2 * 165435);
  const std::vector<double> x = signed_input(graph->nodes());
  for (const double t : {1.0, 14.0, 140.0}) {
    const std::vector<double> y = es::test::chebyshev_exponential(*graph, t, true, x);
    const double in_double = error_of<double>(es::DiffusionMask<double>(graph, t), x, y) / norm(x);
    const double in_float = error_of<float>(es::DiffusionMask<float>(graph, t), x, y) / norm(x);
    MESSAGE("t = ", t, ": double ", in_double, ", float ", in_float);
    CHECK(in_double <= 1e-8);
    CHECK(in_float <= 1e-5);
    // ||M||_2 = 1: the certificate and the rounding estimate bound the error of loose tolerances too.
    for (const double tolerance : {1e-2, 1e-4, 1e-6}) {
      const es::DiffusionMask<float> mask(graph, t, Op::laplacian, {.tolerance = tolerance});
      const es::Report report = mask.report({.columns = 3});
      REQUIRE(report.certificate);
      CHECK(report.certificate->norm.value() <= tolerance);
      CHECK(error_of<float>(mask, x, y) <= (report.certificate->norm.value() + report.rounding_estimate) * norm(x));
    }
  }
}

TEST_CASE("usroads, Laplacian: double to 1e-6 of the input at t = 1e5") {
  const auto graph = graph_from("usroads.mtx.gz");
  if (!graph) return;
  const std::vector<double> x = signed_input(graph->nodes());
  const std::vector<double> y = es::test::chebyshev_exponential(*graph, 1e5, true, x);
  const double error = error_of<double>(es::DiffusionMask<double>(graph, 1e5), x, y) / norm(x);
  MESSAGE("t = 1e5: double ", error);
  CHECK(error <= 1e-6);
}

TEST_CASE("usroads: the reference is a semigroup, exp(-2 t L) = exp(-t L)^2") {
  const auto graph = graph_from("usroads.mtx.gz");
  if (!graph) return;
  const std::vector<double> x = signed_input(graph->nodes());
  std::vector<double> twice = es::test::chebyshev_exponential(*graph, 20, true, x);
  const std::vector<double> once = es::test::chebyshev_exponential(*graph, 10, true, x);
  const std::vector<double> again = es::test::chebyshev_exponential(*graph, 10, true, once);
  for (std::size_t i = 0; i < twice.size(); ++i) twice[i] -= again[i];
  CHECK(norm(twice) <= 1e-13 * norm(x));  // two sums of about 200 terms: 200 eps = 4e-14
}

TEST_CASE("as-caida, exp(A): to 1e-5 of ||M||_2") {
  const auto graph = graph_from("as-caida20071105.edges.gz");
  if (!graph) return;
  REQUIRE(graph->nodes() == 26475);
  // Power steps on A + 20 I from 1: a Collatz-Wielandt upper and a Rayleigh lower bound of A's spectral radius.
  std::vector<double> v(static_cast<std::size_t>(graph->nodes()), 1.0), w(v.size());
  double upper = 0, lower = 0;
  for (int step = 0; step < 400; ++step) {
    double vw = 0, vv = 0, largest = 0;
    upper = 0;
    for (std::size_t i = 0; i < v.size(); ++i) {
      double sum = 0;
      for (auto p = static_cast<std::size_t>(graph->row_start()[i]); p < static_cast<std::size_t>(graph->row_start()[i + 1]);
           ++p) {
        sum += graph->weights()[p] * v[static_cast<std::size_t>(graph->col_index()[p])];
      }
      upper = std::max(upper, sum / v[i]);
      vw += v[i] * sum;
      vv += v[i] * v[i];
      w[i] = sum + 20 * v[i];
      largest = std::max(largest, w[i]);
    }
    lower = vw / vv;
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = w[i] / largest;
  }
  REQUIRE(lower > 69);
  REQUIRE(upper < 71);
  const double mask_norm = std::exp(lower);
  for (double& e : v) e = static_cast<double>(static_cast<float>(e));
  for (const std::vector<double>& x : {signed_input(graph->nodes()), v}) {
    const std::vector<double> y = es::test::chebyshev_exponential(*graph, 1, false, x, upper);
    const double in_double = error_of<double>(es::DiffusionMask<double>(graph, 1, Op::adjacency), x, y) / (mask_norm * norm(x));
    const double in_float = error_of<float>(es::DiffusionMask<float>(graph, 1, Op::adjacency), x, y) / (mask_norm * norm(x));
    MESSAGE("exp(A): double ", in_double, ", float ", in_float);
    CHECK(in_double <= 1e-5);
    CHECK(in_float <= 1e-5);
  }
}
