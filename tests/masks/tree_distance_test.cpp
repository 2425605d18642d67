// TreeDistanceMask: the laws on trees of every shape, gradients, growing factors, long paths, errors.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/tree_distance.hpp>

#include "support/mask_laws.hpp"

#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace es = espalier;
using es::Index;
using es::test::DenseMatrix;

namespace {

std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

// ---- trees -----------------------------------------------------------------------------------------------------------

enum class Kind { path, reversed_path, star, caterpillar, random, forest, lonely };
const Kind kinds[] = {Kind::path, Kind::reversed_path, Kind::star, Kind::caterpillar, Kind::random, Kind::forest, Kind::lonely};

const char* name_of(Kind kind) {
  const char* names[] = {"path", "reversed path", "star", "caterpillar", "random", "forest", "no edges"};
  return names[static_cast<int>(kind)];
}

std::vector<Index> parents(Kind kind, Index n) {
  const es::Random random(11);
  std::vector<Index> parent(at(n), -1);
  for (Index v = 0; v < n; ++v) {
    switch (kind) {
      case Kind::path:
        parent[at(v)] = v - 1;
        break;
      case Kind::reversed_path:
        parent[at(v)] = v + 1 < n ? v + 1 : -1;
        break;
      case Kind::star:
        parent[at(v)] = v == n / 2 ? -1 : n / 2;
        break;
      case Kind::caterpillar:  // a path of even nodes, each with one leaf
        parent[at(v)] = v % 2 == 1 ? v - 1 : v - 2;
        if (v == 0) parent[at(v)] = -1;
        break;
      case Kind::random:
        if (v > 0) parent[at(v)] = static_cast<Index>(random.below(at(v), at(v)));
        break;
      case Kind::forest:  // every seventh node is a root; parents after their children
        if (v % 7 != 3 && v + 1 < n) {
          parent[at(v)] = v + 1 + static_cast<Index>(random.below(at(v), static_cast<std::uint64_t>(n - v - 1)));
        }
        break;
      case Kind::lonely:
        break;
    }
  }
  return parent;
}

// Uniform in [-high, high], or in [0.1, 1] high where `signs` is false.
std::vector<double> random_weights(Index count, double high, bool with_signs, std::uint64_t seed) {
  const es::Random random(seed);
  std::vector<double> w;
  for (Index k = 0; k < count; ++k) {
    const double u = random.uniform(at(k));
    w.push_back(with_signs ? high * (2 * u - 1) : high * (0.1 + 0.9 * u));
  }
  return w;
}

// ---- truth: walk the tree from every node ------------------------------------------------------------------------------

struct Distances {
  Index n, width;
  std::vector<double> sum;      // [n, n, width]
  std::vector<char> connected;  // [n, n]
};

Distances all_distances(const std::vector<Index>& parent, const std::vector<double>& weight, Index width) {
  const auto n = static_cast<Index>(parent.size());
  Distances d{n, width, std::vector<double>(at(n * n * width)), std::vector<char>(at(n * n))};
  std::vector<std::vector<std::pair<Index, Index>>> neighbours(at(n));  // node, and whose edge
  for (Index v = 0; v < n; ++v) {
    if (parent[at(v)] < 0) continue;
    neighbours[at(v)].push_back({parent[at(v)], v});
    neighbours[at(parent[at(v)])].push_back({v, v});
  }
  for (Index i = 0; i < n; ++i) {
    std::vector<Index> queue = {i};
    d.connected[at(i * n + i)] = 1;
    for (std::size_t q = 0; q < queue.size(); ++q) {
      for (const auto& [to, edge] : neighbours[at(queue[q])]) {
        if (d.connected[at(i * n + to)]) continue;
        d.connected[at(i * n + to)] = 1;
        for (Index k = 0; k < width; ++k) {
          d.sum[at((i * n + to) * width + k)] = d.sum[at((i * n + queue[q]) * width + k)] + weight[at(edge * width + k)];
        }
        queue.push_back(to);
      }
    }
  }
  return d;
}

DenseMatrix affine_reference(const std::vector<Index>& parent, const std::vector<double>& weight, Index width, double between,
                             std::span<const double> p, bool learnt) {
  const std::vector<double> w = learnt ? std::vector<double>(p.begin() + width + 1, p.end()) : weight;
  const Distances d = all_distances(parent, w, width);
  return es::test::dense_matrix(d.n, d.n, [&](Index i, Index j) {
    if (!d.connected[at(i * d.n + j)]) return between;
    double a = p[at(width)];
    for (Index k = 0; k < width; ++k) a += p[at(k)] * d.sum[at((i * d.n + j) * width + k)];
    return std::exp(a);
  });
}

DenseMatrix function_reference(const std::vector<Index>& parent, const std::vector<double>& weight, double between,
                               const es::DistanceFunction& f) {
  const Distances d = all_distances(parent, weight, 1);
  return es::test::dense_matrix(
      d.n, d.n, [&](Index i, Index j) { return d.connected[at(i * d.n + j)] ? f(d.sum[at(i * d.n + j)]) : between; });
}

template <class T>
void check_affine(const std::string& name, const std::vector<Index>& parent, const std::vector<double>& weight,
                  const es::AffineExponential& f, es::TreeOptions options) {
  const auto width = static_cast<Index>(f.slope.size());
  const auto tree = std::make_shared<const es::Tree>(parent, weight, width);
  es::test::MaskCase<T> c;
  c.name = name;
  c.mask = std::make_shared<es::TreeDistanceMask<T>>(tree, f, options);
  c.reference = [=](std::span<const double> p) {
    return affine_reference(parent, weight, width, options.between_trees, p, options.learn_edge_weights);
  };
  c.with_engine = [=](const std::string& engine) {
    es::TreeOptions forced = options;
    forced.engine = engine;
    return std::make_shared<es::TreeDistanceMask<T>>(tree, f, forced);
  };
  check_mask_laws(c);
}

template <class T>
void check_function(const std::string& name, const std::vector<Index>& parent, const std::vector<double>& weight,
                    const es::DistanceFunction& f, double between = 0, bool always_one_kind = true) {
  const auto tree = std::make_shared<const es::Tree>(parent, weight);
  es::TreeOptions options;
  options.between_trees = between;
  es::test::MaskCase<T> c;
  c.name = name;
  c.mask = std::make_shared<es::TreeDistanceMask<T>>(tree, f, options);
  c.reference = [=](std::span<const double> p) { return function_reference(parent, weight, between, f.with_parameters(p)); };
  // Where other parameters make another kind of function, no engine can be forced on all of them.
  if (!always_one_kind) {
    check_mask_laws(c);
    return;
  }
  c.with_engine = [=](const std::string& engine) {
    es::TreeOptions forced = options;
    forced.engine = engine;
    return std::make_shared<es::TreeDistanceMask<T>>(tree, f, forced);
  };
  check_mask_laws(c);
}

}  // namespace

TEST_CASE_TEMPLATE("laws: every shape of tree, weights of any sign", T, float, double) {
  for (const Kind kind : kinds) {
    for (const Index n : {1, 2, 3, 7, 13, 64}) {
      es::TreeOptions options;
      options.between_trees = 0.25;
      // 64 edges of +-0.3 under slope -0.7: factors from e^-6 to e^6 along a path, most of them mixed.
      check_affine<T>(std::string(name_of(kind)) + " " + std::to_string(n), parents(kind, n), random_weights(n, 0.3, true, 3),
                      {{-0.7}, 0.2}, options);
    }
  }
}

TEST_CASE_TEMPLATE("laws: learnt edge weights, vector weights", T, float, double) {
  for (const Kind kind : {Kind::path, Kind::star, Kind::caterpillar, Kind::forest}) {
    es::TreeOptions options;
    options.learn_edge_weights = true;
    check_affine<T>(std::string("learnt ") + name_of(kind), parents(kind, 13), random_weights(13, 0.5, true, 4), {{0.8}, -0.1},
                    options);
    check_affine<T>(std::string("learnt vectors ") + name_of(kind), parents(kind, 8), random_weights(24, 0.5, true, 5),
                    {{0.8, -1.5, 0.3}, 0.4}, options);
  }
}

TEST_CASE_TEMPLATE("laws: exponential functions are swept, with the function's own parameters", T, float, double) {
  const auto parent = parents(Kind::forest, 29);
  const auto weight = random_weights(29, 1, false, 6);
  check_function<T>("exponential", parent, weight, es::Exponential{0.3, 2}, -0.5);
  check_function<T>("negative factor", parent, weight, es::Exponential{0.3, -2});
  check_function<T>("factor 0", parent, weight, es::Exponential{0.3, 0});
  check_function<T>("constant polynomial", parent, weight, es::Polynomial{{1.5, 0}}, 0, false);
  check_function<T>("cosine of frequency 0", parent, weight, es::DampedCosine{0, 0.4, 1.5}, 0, false);
  // d^2 is not of the form a + b d: the gradient takes the entries.
  check_function<T>("polynomial of degree 2 with zero", parent, weight, es::ExponentiatedPolynomial{{0.1, -0.3, 0}}, 0, false);
  check_function<T>("callable", parent, weight, es::Callable{[](double d) { return -3 * std::exp(-0.2 * d); }});
}

TEST_CASE_TEMPLATE("laws: any other function, dense", T, float, double) {
  const auto parent = parents(Kind::forest, 29);
  const auto weight = random_weights(29, 1, false, 7);
  check_function<T>("rational", parent, weight, es::Rational{2, 1.5, 1.2}, 0.3);
  check_function<T>("cosine", parents(Kind::random, 13), random_weights(13, 1, true, 8), es::DampedCosine{1.1, 0.2, 0.9});
  check_function<T>("table", parents(Kind::path, 7), std::vector<double>(7, 1.0),
                    es::FunctionTable{{1, 0.5, -0.25, 3, 0, 1, 2}});
  check_function<T>("kink at 0", parents(Kind::random, 13), random_weights(13, 1, true, 8),
                    es::Callable{[](double d) { return std::exp(-std::abs(d)); }});
}

TEST_CASE("engines: exponentials are swept, others dense, tables never recognised") {
  const auto tree = std::make_shared<const es::Tree>(parents(Kind::random, 2000), random_weights(2000, 1, false, 1));
  const auto engine = [&](const es::DistanceFunction& f) {
    return es::TreeDistanceMask<float>(tree, f).report({.columns = 16}).engine;
  };
  CHECK(engine(es::Exponential{0.1, 1}) == "sweep");
  CHECK(engine(es::Callable{[](double d) { return 2 * std::exp(-0.1 * d); }}) == "sweep");
  CHECK(engine(es::Callable{[](double) { return 0.0; }}) == "sweep");
  CHECK(engine(es::Rational{}) == "dense");
  const auto unit = std::make_shared<const es::Tree>(parents(Kind::path, 4));
  const auto names = es::TreeDistanceMask<float>(unit, es::FunctionTable{{1, 0.5, 0.25, 0.125}}).engines({});
  REQUIRE(names.size() == 1);
  CHECK(names[0].engine == "dense");
  CHECK_THROWS_AS(es::TreeDistanceMask<float>(unit, es::FunctionTable{{1, 0.5, 0.25}}), es::ValueError);
}

TEST_CASE("scratch memory follows the light children") {
  const Index n = 100000;
  const auto bytes = [&](Kind kind, Index columns) {
    const auto tree = std::make_shared<const es::Tree>(parents(kind, n));
    return es::TreeDistanceMask<float>(tree, es::AffineExponential{{-0.1}}).report({.columns = columns}).extra_bytes;
  };
  // At 16 columns: 4 T and an edge's double for the gradient, whatever the shape; never L x columns beyond the context.
  CHECK(bytes(Kind::path, 16) < at(n) * (2 * 16 * 4 + 3 * 8));
  CHECK(bytes(Kind::star, 16) < at(n) * (4 * 16 * 4 + 3 * 8));
  CHECK(bytes(Kind::star, 100000) < (std::size_t{257} << 20));
}

// ---- growing factors ---------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("two leaves with weights +12 and -12: subtracting sweeps lose everything", T, float, double) {
  const auto tree = std::make_shared<const es::Tree>(std::vector<Index>{-1, 0, 0}, std::vector<double>{0, 12, -12});
  es::TreeOptions options;
  options.engine = "sweep";
  const es::TreeDistanceMask<T> mask(tree, es::AffineExponential{{1}}, options);
  const T x[] = {0, 1, 1};
  T y[3];
  mask.multiply(es::MatrixView<const T>(x, 3, 1), es::MatrixView<T>(y, 3, 1));
  CHECK(y[1] == doctest::Approx(2).epsilon(1e-6));
  CHECK(y[2] == doctest::Approx(2).epsilon(1e-6));
  CHECK(y[0] == doctest::Approx(std::exp(12.0) + std::exp(-12.0)).epsilon(1e-6));
}

TEST_CASE_TEMPLATE("a star of 10^5 leaves with weights +-12", T, float, double) {
  const Index n = 100001, columns = 16;
  std::vector<Index> parent(at(n), 0);
  std::vector<double> weight(at(n), 12);
  parent[0] = -1;
  const es::Random random(2);
  for (Index v = 1; v < n; ++v) weight[at(v)] = v % 2 == 0 ? -12 : 12;
  const es::TreeDistanceMask<T> mask(std::make_shared<const es::Tree>(parent, weight), es::AffineExponential{{1}});
  std::vector<T> x(at(n * columns)), y(at(n * columns));
  for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<T>(random.uniform(k));
  // Column 0: ones at the leaves with -12 and at one leaf with +12, so that leaves with -12 see 1 beside many e^-24.
  for (Index v = 0; v < n; ++v) x[at(v * columns)] = v == 1 || (v > 0 && v % 2 == 0) ? T(1) : T(0);
  mask.multiply(es::MatrixView<const T>(x.data(), n, columns), es::MatrixView<T>(y.data(), n, columns));
  double worst = 0;
  for (Index c = 0; c < columns; ++c) {
    // Truth: the sum over all other leaves, by prefix and suffix sums in long double.
    std::vector<long double> before(at(n + 1), 0), after(at(n + 1), 0);
    for (Index v = 1; v < n; ++v) before[at(v + 1)] = before[at(v)] + std::exp(weight[at(v)]) * x[at(v * columns + c)];
    for (Index v = n - 1; v >= 1; --v) {
      after[at(v)] = (v + 1 < n ? after[at(v + 1)] : 0.0L) + std::exp(weight[at(v)]) * x[at(v * columns + c)];
    }
    for (Index v = 1; v < n; ++v) {
      const long double others = before[at(v)] + (v + 1 < n ? after[at(v + 1)] : 0.0L) + x[at(c)];
      const double expected = static_cast<double>(x[at(v * columns + c)] + std::exp(weight[at(v)]) * others);
      worst = std::max(worst, std::abs(static_cast<double>(y[at(v * columns + c)]) - expected) / expected);
    }
    const double root = static_cast<double>(x[at(c)] + after[1]);
    worst = std::max(worst, std::abs(static_cast<double>(y[at(c)]) - root) / root);
  }
  // A running sum of n positive terms in double: at most n eps / 2 = 1.1e-11; in float one rounding of each stored sum more.
  CHECK(worst <= (sizeof(T) == 4 ? 4e-7 : 1.2e-11));
}

TEST_CASE_TEMPLATE("exponents to +-50 neither overflow nor lose the small entries", T, float, double) {
  // A path whose weights swing: partial sums reach +-50, every entry is within e^+-50.
  const Index n = 101;
  std::vector<double> weight(at(n));
  for (Index v = 1; v < n; ++v) weight[at(v)] = v <= 25 ? 2 : v <= 75 ? -2 : 2;
  const auto parent = parents(Kind::path, n);
  es::TreeOptions options;
  options.engine = "sweep";
  const es::TreeDistanceMask<T> mask(std::make_shared<const es::Tree>(parent, weight), es::AffineExponential{{0.5}}, options);
  const double p[] = {0.5, 0};
  const DenseMatrix m = affine_reference(parent, weight, 1, 0, p, false);
  std::vector<T> x(at(n), T(1)), y(at(n));
  mask.multiply(es::MatrixView<const T>(x.data(), n, 1), es::MatrixView<T>(y.data(), n, 1));
  for (Index i = 0; i < n; ++i) {
    double expected = 0;
    for (Index j = 0; j < n; ++j) expected += m(i, j);
    CHECK(std::abs(static_cast<double>(y[at(i)]) - expected) <= (sizeof(T) == 4 ? 1e-6 : 1e-13) * expected);
  }
}

// ---- a million nodes ---------------------------------------------------------------------------------------------------

namespace {

// The same recurrences in long double, one column, from the parent array alone (parents before children).
std::vector<long double> long_double_product(const std::vector<Index>& parent, const std::vector<double>& step, const float* x,
                                             Index stride) {
  const auto n = static_cast<Index>(parent.size());
  std::vector<long double> u(at(n)), z(at(n), 0), before(at(n), 0), y(at(n));
  for (Index v = 0; v < n; ++v) u[at(v)] = x[v * stride];
  // z(v) = x(parent) + later siblings, as the sum in the parent before v is added.
  for (Index v = n - 1; v > 0; --v) {
    const Index q = parent[at(v)];
    z[at(v)] = u[at(q)];
    u[at(q)] += std::exp(static_cast<long double>(step[at(v)])) * u[at(v)];
  }
  y[0] = u[0];
  for (Index v = 1; v < n; ++v) {
    const Index q = parent[at(v)];
    const long double e = std::exp(static_cast<long double>(step[at(v)]));
    const long double outside = z[at(v)] + before[at(q)];
    before[at(q)] += e * u[at(v)];
    before[at(v)] = e * outside;
    y[at(v)] = u[at(v)] + e * outside;
  }
  return y;
}

double worst_row_error(const std::vector<Index>& parent, double edge, double slope) {
  const auto n = static_cast<Index>(parent.size());
  const Index columns = 16;
  const std::vector<double> weight(at(n), edge);
  const es::TreeDistanceMask<float> mask(std::make_shared<const es::Tree>(parent, weight), es::AffineExponential{{slope}});
  const es::Random random(9);
  std::vector<float> x(at(n * columns)), y(at(n * columns));
  for (std::size_t k = 0; k < x.size(); ++k) {
    // Constant columns too: their rounding errors all have one sign.
    const std::size_t c = k % 16;
    x[k] = c == 0 ? 1.0F : c == 1 ? 0.1F : static_cast<float>(random.uniform(k));
  }
  mask.multiply(es::MatrixView<const float>(x.data(), n, columns), es::MatrixView<float>(y.data(), n, columns));
  double worst = 0;
  const std::vector<double> step(at(n), edge * slope);
  for (const Index c : {0, 1, 7, 15}) {
    const auto expected = long_double_product(parent, step, x.data() + c, columns);
    for (Index v = 0; v < n; ++v) {
      const double e = static_cast<double>(expected[at(v)]);
      worst = std::max(worst, std::abs(static_cast<double>(y[at(v * columns + c)]) - e) / e);
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("a million nodes, 16 columns, float: path, star, random") {
  const Index n = 1000000;
  // All inputs are positive, so the error relative to each row is the house's measure row by row.
  CHECK(worst_row_error(parents(Kind::path, n), 1e-6, -1) <= 1e-6);
  CHECK(worst_row_error(parents(Kind::path, n), 1e-3, -1) <= 1e-6);
  CHECK(worst_row_error(parents(Kind::random, n), 0.1, -1) <= 1e-6);
  std::vector<Index> star(at(n), 0);
  star[0] = -1;
  CHECK(worst_row_error(star, 0.7, -1) <= 1e-6);
}

TEST_CASE("no recursion: a path of a million nodes, set-up, product and gradient on a stack of 64 KiB") {
  struct Work {
    static void* run(void* result) {
      const Index n = 1000000;
      es::TreeOptions options;
      options.learn_edge_weights = true;
      const es::TreeDistanceMask<float> mask(std::make_shared<const es::Tree>(parents(Kind::reversed_path, n)),
                                             es::AffineExponential{{-0.01}}, options);
      std::vector<float> x(at(n), 1.0F), y(at(n)), bar(mask.parameters().size());
      es::Context<es::Cpu> context;
      context.threads = 1;
      const es::MatrixView<const float> xs(x.data(), n, 1);
      mask.multiply(xs, es::MatrixView<float>(y.data(), n, 1), context);
      mask.multiply_vjp(xs, xs, {}, es::VectorView<float>{bar.data(), static_cast<Index>(bar.size())}, context);
      *static_cast<float*>(result) = y[at(n / 2)];
      return nullptr;
    }
  };
  pthread_attr_t attributes;
  REQUIRE(pthread_attr_init(&attributes) == 0);
  REQUIRE(pthread_attr_setstacksize(&attributes, 64 * 1024) == 0);
  pthread_t thread;
  float y = 0;
  REQUIRE(pthread_create(&thread, &attributes, Work::run, &y) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  // sum over both sides of exp(-0.01 d) = coth(0.005)
  CHECK(y == doctest::Approx(1 / std::tanh(0.005)).epsilon(1e-6));
}

// ---- forests, threads, scratch memory ----------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("a forest in many tasks: the same bits for any thread count and scratch memory", T, float, double) {
  // About 14,000 trees of about 7 nodes: several tasks of 8192 nodes.
  const Index n = 100000, columns = 37;
  const auto parent = parents(Kind::forest, n);
  const auto weight = random_weights(n, 2, true, 3);
  es::TreeOptions options;
  options.between_trees = -0.125;
  const es::TreeDistanceMask<T> mask(std::make_shared<const es::Tree>(parent, weight), es::AffineExponential{{0.7}, -0.3},
                                     options);
  const es::Random random(4);
  std::vector<T> x(at(n * columns));
  for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<T>(random.normal(k));
  const es::MatrixView<const T> xs(x.data(), n, columns);
  const auto run = [&](int threads, std::size_t scratch, std::vector<T>& bar) {
    std::vector<T> y(x.size());
    es::Context<es::Cpu> context;
    context.threads = threads;
    context.scratch_bytes = scratch;
    mask.multiply(xs, es::MatrixView<T>(y.data(), n, columns), context);
    bar.resize(mask.parameters().size());
    mask.multiply_vjp(xs, xs, {}, es::VectorView<T>{bar.data(), static_cast<Index>(bar.size())}, context);
    return y;
  };
  std::vector<T> bar, other_bar;
  const std::vector<T> y = run(1, std::size_t{256} << 20, bar);
  CHECK((run(2, std::size_t{256} << 20, other_bar) == y));
  CHECK((other_bar == bar));
  CHECK((run(5, std::size_t{256} << 20, other_bar) == y));
  CHECK((other_bar == bar));
  // Less scratch memory changes the panels of the gradient, so its sums round elsewhere; the product stays.
  CHECK((run(5, std::size_t{1} << 20, other_bar) == y));

  // Truth: distances inside each tree, and the sum over everything less the tree where nothing cancels (long double).
  const es::Tree tree(parent, weight);
  std::vector<std::vector<Index>> members(at(tree.trees()));
  for (Index v = 0; v < n; ++v) members[at(tree.component()[at(v)])].push_back(v);
  long double error = 0, norm = 0;
  for (Index c = 0; c < columns; c += 12) {
    long double all = 0, all_absolute = 0;
    for (Index v = 0; v < n; ++v) all += x[at(v * columns + c)], all_absolute += std::abs(x[at(v * columns + c)]);
    for (Index t = 0; t < tree.trees(); t += 97) {
      const auto& nodes = members[at(t)];
      if (nodes.size() > 200) continue;
      std::vector<Index> local_parent;
      std::vector<double> local_weight;
      for (const Index v : nodes) {
        const auto place = std::find(nodes.begin(), nodes.end(), parent[at(v)]);
        local_parent.push_back(place == nodes.end() ? -1 : place - nodes.begin());
        local_weight.push_back(weight[at(v)]);
      }
      const double p[] = {0.7, -0.3};
      const DenseMatrix m = affine_reference(local_parent, local_weight, 1, 0, p, false);
      long double own = 0;
      for (const Index v : nodes) own += x[at(v * columns + c)];
      for (std::size_t i = 0; i < nodes.size(); ++i) {
        long double expected = -0.125L * (all - own), magnitude = 0.125L * all_absolute;
        for (std::size_t j = 0; j < nodes.size(); ++j) {
          const long double term = static_cast<long double>(m.values[i * nodes.size() + j]) * x[at(nodes[j] * columns + c)];
          expected += term;
          magnitude += std::abs(term);
        }
        const long double difference = y[at(nodes[i] * columns + c)] - expected;
        error += difference * difference;
        norm += magnitude * magnitude;
      }
    }
  }
  REQUIRE(norm > 0);
  CHECK(static_cast<double>(std::sqrt(error / norm)) <= (sizeof(T) == 4 ? 1e-6 : 1e-12));
}

TEST_CASE("between_trees does not cancel: other trees' sum beside an enormous own tree") {
  // x is 1e20 in tree 0 and 1 in the two other trees: they see each other as 1 only if nothing is subtracted.
  const auto tree = std::make_shared<const es::Tree>(std::vector<Index>{-1, -1, -1});
  es::TreeOptions options;
  options.between_trees = 1;
  options.engine = "sweep";
  const es::TreeDistanceMask<double> mask(tree, es::AffineExponential{{1}}, options);
  const double x[] = {1e20, 1, 1};
  double y[3];
  mask.multiply(es::MatrixView<const double>(x, 3, 1), es::MatrixView<double>(y, 3, 1));
  CHECK(y[0] == 1e20 + 2);
  const double spike[] = {1e20, -1e20, 1};
  mask.multiply(es::MatrixView<const double>(spike, 3, 1), es::MatrixView<double>(y, 3, 1));
  CHECK(y[2] == 1);
}

// ---- errors ------------------------------------------------------------------------------------------------------------

TEST_CASE("errors name what is possible") {
  const auto big = std::make_shared<const es::Tree>(parents(Kind::random, 8193));
  const auto small = std::make_shared<const es::Tree>(parents(Kind::random, 20));
  const auto vectors = std::make_shared<const es::Tree>(parents(Kind::random, 20), std::vector<double>(40, 1.0), 2);
  using Mask = es::TreeDistanceMask<float>;
  std::string text;
  try {
    Mask(big, es::Rational{});
  } catch (const es::ValueError& e) {
    text = e.what();
  }
  CHECK(text.find("8192") != std::string::npos);
  CHECK(text.find("8193") != std::string::npos);
  CHECK(text.find("c exp(a d)") != std::string::npos);
  CHECK_NOTHROW(Mask(big, es::Exponential{}));
  CHECK_THROWS_AS(Mask(nullptr, es::Exponential{}), es::ValueError);
  CHECK_THROWS_AS(Mask(vectors, es::Exponential{}), es::ValueError);
  CHECK_THROWS_AS(Mask(vectors, es::AffineExponential{{1}}), es::ShapeError);
  CHECK_THROWS_AS(Mask(small, es::AffineExponential{{std::nan("")}}), es::ValueError);
  CHECK_THROWS_AS(Mask(small, es::AffineExponential{{1}, std::nan("")}), es::ValueError);
  CHECK_THROWS_AS(Mask(small, es::AffineExponential{{701}}), es::ValueError);
  CHECK_THROWS_AS(Mask(small, es::AffineExponential{{1}, 800}), es::ValueError);
  CHECK_THROWS_AS(Mask(small, es::Callable{[](double d) { return 1 / (d - 1); }}), es::ValueError);
  es::TreeOptions options;
  options.between_trees = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(Mask(small, es::AffineExponential{{1}}, options), es::ValueError);
  options.between_trees = 0;
  options.learn_edge_weights = true;
  CHECK_THROWS_AS(Mask(small, es::Exponential{}, options), es::ValueError);
  options.learn_edge_weights = false;
  options.engine = "fft";
  CHECK_THROWS_AS(Mask(small, es::Exponential{}, options).report({}), es::ValueError);
  // A parameter whose derivative no sweep integrates, on a tree too large for entries.
  const Mask quadratic(big, es::ExponentiatedPolynomial{{0, -0.1, 0}});
  const std::vector<float> x(8193, 1.0F);
  std::vector<float> bar(3, 7.0F);
  CHECK_THROWS_AS(
      quadratic.multiply_vjp(es::MatrixView<const float>(x.data(), 8193, 1), es::MatrixView<const float>(x.data(), 8193, 1), {},
                             es::VectorView<float>{bar.data(), 3}),
      es::ValueError);
}
