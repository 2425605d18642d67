// Diffusion masks exp(tA) with weights of both signs: certificates, rounding, gradients and planning against long double.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/core/progress.hpp>
#include <espalier/masks/diffusion.hpp>

#include <doctest/doctest.h>

#include "support/inputs.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace es = espalier;
using es::Index;
using Op = es::GraphOperator;
using es::test::InputKind;
using Column = std::vector<long double>;

namespace {

std::shared_ptr<const es::Graph> graph_of(Index n, const std::vector<es::Edge>& edges) {
  return std::make_shared<const es::Graph>(n, edges);
}

// Random graphs of mean degree 8. "signs": +1 and -1; "loops": self-loops in [-2, 2] beside them; "sizes": weights from 1e-3
// to 3 with signs and loops; "sinks": a few edges under self-loops of -5, the norm of exp(tA) far below 1.
std::shared_ptr<const es::Graph> random_graph(const std::string& kind, Index n) {
  const auto numbers = es::test::make_input<double>(4 * n, 4, InputKind::positive, static_cast<std::uint64_t>(n)).dense();
  std::vector<es::Edge> edges;
  for (Index e = 0; e < 4 * n; ++e) {
    const Index i = e % n, j = std::min(n - 1, static_cast<Index>(numbers(e, 0) * static_cast<double>(n)));
    if (i == j || (kind == "sinks" && e >= n / 2)) continue;
    const double sign = numbers(e, 1) < 0.5 ? -1 : 1;
    edges.push_back({i, j, kind == "sizes" ? sign * 3 * std::pow(10.0, -3.5 * numbers(e, 2)) : sign});
  }
  for (Index i = 0; i < n && kind != "signs"; ++i) edges.push_back({i, i, kind == "sinks" ? -5 : 4 * numbers(i, 3) - 2});
  return graph_of(n, edges);
}

Column times(const es::Graph& g, const Column& x) {
  Column y(x.size(), 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (auto p = static_cast<std::size_t>(g.row_start()[i]); p < static_cast<std::size_t>(g.row_start()[i + 1]); ++p) {
      y[i] += static_cast<long double>(g.weights()[p]) * x[static_cast<std::size_t>(g.col_index()[p])];
    }
  }
  return y;
}

double largest_row_sum(const es::Graph& g) {
  double largest = 0;
  for (Index i = 0; i < g.nodes(); ++i) {
    double sum = 0;
    for (auto p = g.row_start()[static_cast<std::size_t>(i)]; p < g.row_start()[static_cast<std::size_t>(i) + 1]; ++p) {
      sum += std::abs(g.weights()[static_cast<std::size_t>(p)]);
    }
    largest = std::max(largest, sum);
  }
  return largest;
}

// exp(time A) x in long double by steps with |A| time <= 1, each a Taylor sum of 26 terms (1 / 26! is 2e-27): a step cancels at
// most e^2, so that the error is about 1e-18 times the steps, relative to the norms.
Column exponential(const es::Graph& g, double time, Column x) {
  const auto steps = std::max(1.0, std::ceil(time * largest_row_sum(g)));
  const long double part = static_cast<long double>(time) / static_cast<long double>(steps);
  for (double s = 0; s < steps; ++s) {
    Column term = x;
    for (int k = 1; k <= 26; ++k) {
      term = times(g, term);
      for (long double& v : term) v *= part / k;
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += term[i];
    }
  }
  return x;
}

long double dot(const Column& a, const Column& b) {
  long double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// A's largest eigenvalue from below: power steps on A + r I, r the largest absolute row sum. Errors divided by exp(t of this)
// come out too large, never too small.
double largest_eigenvalue(const es::Graph& g) {
  const long double shift = largest_row_sum(g);
  Column x(static_cast<std::size_t>(g.nodes()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::cos(static_cast<long double>(i * i + 1));
  for (int step = 0; step < 1000; ++step) {
    const Column y = times(g, x);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = y[i] + shift * x[i];
    const long double size = std::sqrt(dot(x, x));
    for (long double& v : x) v /= size;
  }
  return static_cast<double>(dot(x, times(g, x)));
}

template <class T>
struct Products {
  explicit Products(const es::Graph& graph) : g(graph), top(largest_eigenvalue(graph)) {
    x = es::test::make_input<T>(g.nodes(), 3, InputKind::with_signs, 7);
    for (Index k = 0; k < 3; ++k) columns.emplace_back();
    for (Index i = 0; i < g.nodes(); ++i) {
      for (Index k = 0; k < 3; ++k) columns[static_cast<std::size_t>(k)].push_back(static_cast<long double>(x.view()(i, k)));
    }
  }
  void at(double time) {
    exact.clear();
    for (const Column& c : columns) exact.push_back(exponential(g, time, c));
    norm = std::exp(static_cast<long double>(time * top));
  }
  // ||Y - M X||_F / (||M||_2 ||X||_F), of the product or the transposed product.
  double error(const es::DiffusionMask<T>& mask, bool transpose) const {
    es::test::Guarded<T> y(g.nodes(), 3, 1);
    if (transpose) {
      mask.multiply_transpose(x.view(), y.view());
    } else {
      mask.multiply(x.view(), y.view());
    }
    long double difference = 0, size = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      size += dot(columns[k], columns[k]);
      for (std::size_t i = 0; i < columns[k].size(); ++i) {
        const long double d = static_cast<long double>(y.view()(static_cast<Index>(i), static_cast<Index>(k))) - exact[k][i];
        difference += d * d;
      }
    }
    return static_cast<double>(std::sqrt(difference / size) / norm);
  }
  const es::Graph& g;
  double top;
  es::test::Guarded<T> x;
  std::vector<Column> columns, exact;
  long double norm = 0;
};

// The error is within certificate + rounding whatever the report says, and within the tolerance + rounding where it warns of
// nothing, which it must not do for these.
template <class T>
void check(const Products<T>& p, const std::shared_ptr<const es::Graph>& graph, double time, double tolerance) {
  const es::DiffusionMask<T> mask(graph, time, Op::adjacency, {.engine = "chebyshev", .tolerance = tolerance});
  const es::Report report = mask.report({.columns = 3});
  const double allowed = tolerance >= 0 ? tolerance : sizeof(T) == 4 ? 1e-6 : 1e-12;
  CAPTURE(report.reason);
  CAPTURE(allowed);
  REQUIRE(report.certificate);
  CHECK_FALSE(report.certificate->estimated);
  const double bound = report.certificate->norm.value(), rounding = report.rounding_estimate;
  CHECK(report.warnings.empty());
  CHECK(bound <= allowed);
  CHECK(rounding <= allowed + 1.01 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  for (const bool transpose : {false, true}) {
    const double error = p.error(mask, transpose);
    CHECK(error <= bound + rounding);
    CHECK(error <= allowed + rounding);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("the true error is within certificate and rounding", T, float, double) {
  for (const std::string kind : {"signs", "loops", "sizes", "sinks"}) {
    for (const Index n : {Index{40}, Index{120}, Index{300}}) {
      const auto graph = random_graph(kind, n);
      Products<T> p(*graph);
      for (const double time : {0.3, 1.0, 3.0, 6.0}) {
        CAPTURE(kind);
        CAPTURE(n);
        CAPTURE(time);
        p.at(time);
        for (const double tolerance : {-1.0, 1e-3, 1e-5}) check<T>(p, graph, time, tolerance);
        if (sizeof(T) == 8) check<T>(p, graph, time, 1e-8);
      }
    }
  }
}

TEST_CASE_TEMPLATE("three nodes whose largest eigenvalue is far below that of |A|", T, float, double) {
  const auto graph = graph_of(3, {{0, 1, -1}, {1, 2, 2}, {2, 2, -3}});
  Products<T> p(*graph);
  for (const double time : {0.3, 1.0, 3.0, 6.0}) {
    p.at(time);
    for (const double tolerance : {-1.0, 1e-3, 1e-5}) check<T>(p, graph, time, tolerance);
  }
}

TEST_CASE("lone negative self-loops: the norm is far below 1") {
  const auto graph = graph_of(4, {{0, 0, -5}, {1, 1, -5}, {2, 2, -5}, {3, 3, -7}});
  Products<double> p(*graph);
  for (const double time : {1.0, 6.0, 40.0}) {
    p.at(time);
    check<double>(p, graph, time, -1);
  }
}

TEST_CASE("rounding alone, up to the largest exponents") {
  // A tolerance that no rounding meets: the truncation is below it, and what is left is the arithmetic.
  for (const std::string kind : {"signs", "loops", "sizes", "sinks"}) {
    for (const Index n : {Index{6}, Index{40}, Index{120}}) {
      const auto graph = random_graph(kind, n);
      if (graph->stored() == 0) continue;
      Products<double> p(*graph);
      for (const double exponent : {1.0, 30.0, 300.0, 600.0}) {
        const double time = exponent / largest_row_sum(*graph);
        p.at(time);
        const es::DiffusionMask<double> mask(graph, time, Op::adjacency, {.engine = "chebyshev", .tolerance = 1e-16});
        const es::Report report = mask.report({.columns = 3});
        CAPTURE(report.reason);
        CHECK(p.error(mask, false) <= report.certificate->norm.value() + report.rounding_estimate);
        const es::DiffusionMask<double> dense(graph, time, Op::adjacency, {.engine = "eigen"});
        CHECK(p.error(dense, false) <= dense.report({.columns = 3}).rounding_estimate);
      }
    }
  }
  // Weights >= 0: nothing cancels, the exponents' rounding is all there is.
  std::vector<es::Edge> path;
  for (Index i = 1; i < 30; ++i) path.push_back({i - 1, i, 0.9 + 0.01 * static_cast<double>(i % 7)});
  const auto graph = graph_of(30, path);
  Products<double> p(*graph);
  for (const double time : {0.1, 10.1, 100.3, 200.7, 333.3}) {
    p.at(time);
    const es::DiffusionMask<double> mask(graph, time, Op::adjacency, {.engine = "chebyshev", .tolerance = 1e-16});
    const es::Report report = mask.report({.columns = 3});
    CAPTURE(report.reason);
    CHECK(p.error(mask, false) <= report.certificate->norm.value() + report.rounding_estimate);
  }
}

// Found by review: exp(tA) was refused where t rho(|A|) > 700, however small its entries.
TEST_CASE("exponents of |A| beyond double: what does not overflow is computed, what does is refused") {
  for (const std::string kind : {"signs", "loops"}) {
    const auto graph = random_graph(kind, 40);
    Products<double> p(*graph);
    // Of |A|: row sums of about 8 and 9; of A about 5.
    const double time = 600 / p.top;
    CAPTURE(kind);
    REQUIRE(time * largest_row_sum(*graph) > 1000);
    p.at(time);
    for (const double tolerance : {1e-3, 1e-8}) check<double>(p, graph, time, tolerance);
    // Its norm is e^750: no double.
    CHECK_THROWS_WITH_AS(es::DiffusionMask<double>(graph, 750 / p.top, Op::adjacency),
                         doctest::Contains("exp(tA) overflows: t times the largest eigenvalue is at least 7"), es::ValueError);
  }
  // A and |A| far apart, in float too.
  const auto graph = graph_of(4, {{0, 0, -20}, {0, 1, 1}, {1, 2, -1}, {2, 3, 1}, {3, 3, -20}});
  Products<float> in_float(*graph);
  Products<double> in_double(*graph);
  const double time = 60 / in_float.top;
  REQUIRE(time * 20 > 1000);
  in_float.at(time);
  in_double.at(time);
  for (const double tolerance : {1e-3, 1e-5}) check<float>(in_float, graph, time, tolerance);
  for (const double tolerance : {1e-3, 1e-5, 1e-10}) check<double>(in_double, graph, time, tolerance);
  CHECK_THROWS_AS(es::DiffusionMask<float>(graph, 85 / in_float.top, Op::adjacency), es::ValueError);
}

TEST_CASE("weights >= 0 run in one step, weights of both signs in as many as their rounding needs") {
  std::vector<es::Edge> positive, mixed;
  for (Index i = 1; i < 200; ++i) {
    for (const Index j : {(i * 7 + 3) % i, (i * i + 1) % i}) {
      positive.push_back({i, j, 1});
      mixed.push_back({i, j, (i + j) % 3 == 0 ? -1.0 : 1.0});
    }
  }
  const auto reason = [](const std::vector<es::Edge>& edges, double time) {
    return es::DiffusionMask<double>(graph_of(200, edges), time, Op::adjacency, {.engine = "chebyshev"}).report({}).reason;
  };
  for (const double time : {0.3, 3.0, 20.0}) CHECK(reason(positive, time).find("steps") == std::string::npos);
  CHECK(reason(mixed, 0.1).find("steps") == std::string::npos);
  CHECK(reason(mixed, 20).find("steps") != std::string::npos);
}

namespace {

double norm_of(const es::test::DenseMatrix& m) {
  double sum = 0;
  for (const double v : m.values) sum += v * v;
  return std::sqrt(sum);
}

// <bar, M X>.
template <class T>
double loss(const es::Mask<T>& mask, const es::test::DenseMatrix& bar, const es::test::Guarded<T>& x) {
  es::test::Guarded<T> y(bar.rows, bar.cols);
  mask.multiply(x.view(), y.view());
  const es::test::DenseMatrix product = y.dense();
  double sum = 0;
  for (std::size_t p = 0; p < bar.values.size(); ++p) sum += bar.values[p] * product.values[p];
  return sum;
}

template <class T>
double gradient(const es::Mask<T>& mask, const es::test::DenseMatrix& bar, const es::test::DenseMatrix& x) {
  es::test::Guarded<T> in(x.rows, x.cols), y_bar(x.rows, x.cols), parameter(1, 1);
  in.set(x);
  y_bar.set(bar);
  mask.multiply_vjp(std::as_const(in).view(), std::as_const(y_bar).view(), {}, parameter.vector());
  return static_cast<double>(parameter.view()(0, 0));
}

}  // namespace

TEST_CASE("the gradient by t, over several steps") {
  for (const std::string kind : {"signs", "loops", "sizes"}) {
    const auto graph = random_graph(kind, 60);
    const auto x = es::test::make_input<double>(60, 3, InputKind::with_signs, 3);
    const double radius = largest_row_sum(*graph), top = largest_eigenvalue(*graph);
    for (const double time : {0.3, 3.0, 6.0}) {
      CAPTURE(kind);
      CAPTURE(time);
      const es::DiffusionMask<double> mask(graph, time, Op::adjacency, {.engine = "chebyshev"});
      // The loss <bar, M(t) X>, bar = M X / ||M X|| held fixed: all modes count with one sign, so that its slope is no
      // accident.
      es::test::Guarded<double> y(60, 3);
      mask.multiply(x.view(), y.view());
      es::test::DenseMatrix bar = y.dense();
      const double size = norm_of(bar);
      for (double& v : bar.values) v /= size;
      const auto at = [&](double t) {
        const double p[] = {t};
        return loss<double>(*mask.with_parameters(p), bar, x);
      };
      // Central differences of fourth order: (h r)^4 / 30 = 5.4e-9 from the fifth derivative, r the radius, and 1.5 / (h r)
      // times the product's 2e-12 = 1.5e-10, relative to r ||M|| ||X||; exp(2 h r) = 1.04 for the norm at t + 2 h.
      const double h = 0.02 / radius, scale = radius * std::exp(time * top) * norm_of(x.dense());
      const double slope = (8 * (at(time + h) - at(time - h)) - (at(time + 2 * h) - at(time - 2 * h))) / (12 * h);
      CHECK(std::abs(slope) > 1e-3 * scale);
      const double by_t = gradient<double>(mask, bar, x.dense());
      CHECK(std::abs(by_t - slope) <= 6e-9 * scale);
      // Float: the product's error, and both inputs and the result rounded.
      const es::DiffusionMask<float> single(graph, time, Op::adjacency, {.engine = "chebyshev"});
      const es::Report report = single.report({.columns = 3});
      CHECK(std::abs(gradient<float>(single, bar, x.dense()) - by_t) <=
            (report.certificate->norm.value() + report.rounding_estimate + 3 * 6e-8) * scale);
    }
  }
}

TEST_CASE_TEMPLATE("where rounding exceeds the tolerance the report says so and small graphs are decomposed", T, float,
                   double) {
  for (const double tolerance : {1e-14, 1e-15}) {
    const auto graph = random_graph("signs", 40);
    Products<T> p(*graph);
    p.at(6);
    const es::DiffusionMask<T> forced(graph, 6, Op::adjacency, {.engine = "chebyshev", .tolerance = tolerance});
    const es::Report report = forced.report({.columns = 3});
    REQUIRE(report.warnings.size() == 1);
    CHECK(report.warnings[0].find("rounding") != std::string::npos);
    CHECK(report.rounding_estimate > tolerance);
    CHECK(p.error(forced, false) <= report.certificate->norm.value() + report.rounding_estimate);
    const es::DiffusionMask<T> chosen(graph, 6, Op::adjacency, {.tolerance = tolerance});
    CHECK(chosen.report({.columns = 3}).engine == "eigen");
    CHECK(p.error(chosen, false) <= chosen.report({.columns = 3}).rounding_estimate);
  }
  const es::DiffusionMask<T> large(random_graph("signs", 1100), 6, Op::adjacency, {.tolerance = 1e-15});
  const es::Report report = large.report({.columns = 3});
  CHECK(report.engine == "chebyshev");
  CHECK(report.warnings.size() == 1);
}

TEST_CASE("kernels below the smallest number are said to be flushed") {
  const auto graph = graph_of(2, {{0, 0, -5}, {1, 1, -6}});  // exp(-100) is no float
  const es::DiffusionMask<float> mask(graph, 20, Op::adjacency, {.engine = "chebyshev"});
  const es::Report report = mask.report({.columns = 1});
  CHECK(report.rounding_estimate >= 1);
  REQUIRE(report.warnings.size() == 1);
  CHECK(report.warnings[0].find("flushed") != std::string::npos);
  const es::DiffusionMask<double> fine(graph, 20, Op::adjacency, {.engine = "chebyshev"});
  CHECK(fine.report({.columns = 1}).warnings.empty());
}

TEST_CASE("progress ascends over the steps, and a stop is seen in any of them") {
  const auto graph = random_graph("signs", 120);
  const es::DiffusionMask<double> mask(graph, 6, Op::adjacency, {.engine = "chebyshev"});
  const auto x = es::test::make_input<double>(120, 3, InputKind::with_signs, 3);
  es::test::Guarded<double> y(120, 3);
  const es::Report report = mask.report({.columns = 3});
  REQUIRE(report.reason.find("steps") != std::string::npos);
  std::vector<double> fractions;
  std::stop_source stop;
  es::Progress progress{[&](std::string_view, double fraction) { fractions.push_back(fraction); }, stop.get_token()};
  mask.multiply(x.view(), y.view(), {.progress = &progress});
  CHECK(static_cast<Index>(fractions.size()) == report.terms - 1);
  CHECK(std::is_sorted(fractions.begin(), fractions.end()));
  CHECK(std::adjacent_find(fractions.begin(), fractions.end()) == fractions.end());
  CHECK(fractions.front() > 0);
  CHECK(fractions.back() < 1);
  CHECK(fractions.back() > 0.9);
  std::size_t calls = 0;
  progress.callback = [&](std::string_view, double fraction) {
    ++calls;
    if (fraction > 0.6) stop.request_stop();
  };
  CHECK_THROWS_AS(mask.multiply(x.view(), y.view(), {.progress = &progress}), es::Cancelled);
  CHECK(calls < fractions.size());
}
