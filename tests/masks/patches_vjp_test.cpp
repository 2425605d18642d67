// Gradients of the far field beside those of tiles: grids of one to three axes, level leaves by tiles, any of the gradients and
// cotangents alone, wide values, little scratch memory, threads.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace espalier;

namespace {

Index length_of(const std::vector<Index>& sizes) {
  Index n = 1;
  for (const Index s : sizes) n *= s;
  return n;
}

GridOptions forced(const std::string& engine, double tolerance) {
  GridOptions options;
  options.engine = engine;
  options.tolerance = tolerance;
  return options;
}

// The table of a function of the distance, made different for o and -o: rows and sources change places unseen otherwise.
std::vector<double> tilted(const std::vector<Index>& sizes, const DistanceFunction& f, Distance distance) {
  std::vector<double> table;
  const auto symmetric = GridMask<double>(sizes, f, distance).table();
  const auto middle = static_cast<double>(symmetric.size()) / 2;
  for (std::size_t k = 0; k < symmetric.size(); ++k) {
    table.push_back(symmetric[k] * (1 + 0.4 * std::tanh(static_cast<double>(k) / middle - 1)));
  }
  return table;
}

template <class T>
struct Operands {
  Index n, m, c;
  std::vector<T> a, b, x, y_bar, r_bar;
  Operands(Index length, Index rank, Index columns) : n(length), m(rank), c(columns) {
    const Random random(17);
    std::uint64_t drawn = 0;
    const auto fill = [&](std::vector<T>& v, Index size) {
      for (Index k = 0; k < size; ++k) v.push_back(static_cast<T>(random.normal(drawn++)));
    };
    fill(a, n * m), fill(b, n * m), fill(x, n * c), fill(y_bar, n * c), fill(r_bar, n);
  }
  LowRankInputs<T> inputs() const { return {{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}}; }
};

// Which cotangents come in and which gradients are wanted.
struct Wanted {
  bool y = true, row_sum = true, a = true, b = true, x = true;
};

template <class T>
struct Gradients {
  std::vector<T> a, b, x, parameters;
  bool operator==(const Gradients&) const = default;
};

// What is not wanted stays NaN.
template <class T>
Gradients<T> gradients(const Mask<T>& mask, const Operands<T>& o, const Wanted& w, const Context<Cpu>& context = {},
                       bool learn = false) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Gradients<T> g{std::vector<T>(o.a.size(), nan), std::vector<T>(o.b.size(), nan), std::vector<T>(o.x.size(), nan),
                 std::vector<T>(learn ? mask.parameters().size() : 0, T(0))};
  LowRankCotangents<T> in;
  if (w.y) in.y = {o.y_bar.data(), o.n, o.c};
  if (w.row_sum) in.row_sum = {o.r_bar.data(), o.n};
  LowRankGradients<T> out;
  if (w.a) out.a = {g.a.data(), o.n, o.m};
  if (w.b) out.b = {g.b.data(), o.n, o.m};
  if (w.x) out.x = {g.x.data(), o.n, o.c};
  if (learn) out.parameters = {g.parameters.data(), static_cast<Index>(g.parameters.size())};
  mask.multiply_low_rank_vjp(o.inputs(), in, out, context);
  return g;
}

// ‖p - q‖ / ‖q‖; both NaN throughout counts as equal.
template <class T>
double apart(const std::vector<T>& p, const std::vector<T>& q) {
  double error = 0, norm = 0;
  for (std::size_t k = 0; k < p.size(); ++k) {
    if (std::isnan(p[k]) && std::isnan(q[k])) continue;
    error += std::pow(static_cast<double>(p[k]) - static_cast<double>(q[k]), 2);
    norm += std::pow(static_cast<double>(q[k]), 2);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

template <class T>
void check_like_tiles(const Gradients<T>& p, const Gradients<T>& q, double bound) {
  CHECK(apart(p.a, q.a) <= bound);
  CHECK(apart(p.b, q.b) <= bound);
  CHECK(apart(p.x, q.x) <= bound);
}

struct Grid {
  std::vector<Index> sizes;
  DistanceFunction f;
  Distance distance;
  const char* reason;  // part of the report's: what this grid is here for
};

// Leaves at the upper ends smaller than the others; several levels; row and column leaves by tiles; axes of size 1; primes;
// nothing far.
std::vector<Grid> grids() {
  return {{{70, 45}, Rational{16}, Distance::l2, "tiles between neighbours"},
          {{64, 80}, Exponential{0.05}, Distance::l1, "along the axes"},
          {{1000}, Rational{16}, Distance::l1, "by level"},
          {{9, 17, 20}, Gaussian{9}, Distance::l2, "tiles between neighbours"},
          {{60, 1, 33}, Gaussian{20}, Distance::l2, "tiles between neighbours"},
          {{61, 53}, Rational{16}, Distance::l2, "tiles between neighbours"},
          {{48, 48}, Gaussian{2}, Distance::l2, "nothing far"}};
}

}  // namespace

TEST_CASE_TEMPLATE("far field: gradients are those of tiles", T, float, double) {
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-9;
  for (const Grid& grid : grids()) {
    const std::vector<double> table = tilted(grid.sizes, grid.f, grid.distance);
    const GridMask<T> far(grid.sizes, table, forced("far-field", tolerance)), tiles(grid.sizes, table, forced("direct", 0));
    const Operands<T> o(length_of(grid.sizes), 7, 5);
    CAPTURE(grid.f.name());
    CAPTURE(far.report({.columns = o.c, .rank = o.m}).reason);
    CHECK((far.report({.columns = o.c, .rank = o.m}).terms > 0) == (std::string(grid.reason) != "nothing far"));
    check_like_tiles(gradients(far, o, {}), gradients(tiles, o, {}), 10 * tolerance);
  }
}

TEST_CASE("far field: the grids of these tests are cut as they are meant to be") {
  for (const Grid& grid : grids()) {
    const GridMask<double> far(grid.sizes, tilted(grid.sizes, grid.f, grid.distance), forced("far-field", 1e-9));
    const std::string reason = far.report({.columns = 5, .rank = 7}).reason;
    CAPTURE(reason);
    CHECK(reason.find(grid.reason) != std::string::npos);
  }
}

TEST_CASE("far field: any of the gradients alone, from any of the cotangents") {
  for (const Grid& grid : {grids()[0], grids()[1]}) {
    const std::vector<double> table = tilted(grid.sizes, grid.f, grid.distance);
    const GridMask<double> far(grid.sizes, table, forced("far-field", 1e-9)), tiles(grid.sizes, table, forced("direct", 0));
    const Operands<double> o(length_of(grid.sizes), 6, 4);
    for (const int k : {1, 2, 4, 6, 7}) {
      for (int in = 1; in < 4; ++in) {
        const Wanted w{(in & 1) != 0, (in & 2) != 0, (k & 1) != 0, (k & 2) != 0, (k & 4) != 0};
        CAPTURE(k);
        CAPTURE(in);
        const Gradients<double> p = gradients(far, o, w);
        check_like_tiles(p, gradients(tiles, o, w), 1e-8);
        CHECK(std::isnan(p.a.front()) == !w.a);
        CHECK(std::isnan(p.b.front()) == !w.b);
        CHECK(std::isnan(p.x.front()) == !w.x);
      }
    }
  }
}

TEST_CASE("far field: gradients through values wider than a block, through none, and in little scratch memory") {
  const std::vector<Index> sizes{40, 50};
  const std::vector<double> table = tilted(sizes, Rational{16}, Distance::l2);
  const GridMask<double> far(sizes, table, forced("far-field", 1e-9)), tiles(sizes, table, forced("direct", 0));
  for (const Index columns : {Index{0}, Index{1}, Index{33}, Index{300}}) {
    CAPTURE(columns);
    const Operands<double> o(length_of(sizes), 16, columns);
    const Wanted w{.y = columns > 0, .x = columns > 0};
    const Gradients<double> exact = gradients(tiles, o, w);
    check_like_tiles(gradients(far, o, w), exact, 1e-8);
    check_like_tiles(gradients(far, o, w, {.scratch_bytes = 1 << 16}), exact, 1e-8);
  }
}

TEST_CASE("far field: a causal grid, and the gradient of a function's parameters beside the others") {
  const std::vector<Index> sizes{48, 40};
  const Operands<double> o(length_of(sizes), 5, 6);
  SUBCASE("causal") {
    GridOptions options = forced("far-field", 1e-9), exact = forced("direct", 0);
    options.causal = exact.causal = true;
    const std::vector<double> table = tilted({900}, Gaussian{120}, Distance::l1);
    const GridMask<double> far({900}, table, options), tiles({900}, table, exact);
    const Operands<double> line(900, 5, 6);
    check_like_tiles(gradients(far, line, {}), gradients(tiles, line, {}), 1e-8);
  }
  SUBCASE("parameters") {
    const GridMask<double> far(sizes, Rational{16}, Distance::l2, forced("far-field", 1e-9)),
        tiles(sizes, Rational{16}, Distance::l2, forced("direct", 0));
    const Gradients<double> p = gradients(far, o, {}, {}, true), q = gradients(tiles, o, {}, {}, true);
    check_like_tiles(p, q, 1e-8);
    CHECK(q.parameters.size() > 0);
    CHECK(apart(p.parameters, q.parameters) <= 1e-8);
  }
}

TEST_CASE_TEMPLATE("far field: gradients have the same bits for any number of threads", T, float, double) {
  for (const Grid& grid : grids()) {
    const GridMask<T> far(grid.sizes, tilted(grid.sizes, grid.f, grid.distance), forced("far-field", 1e-5));
    const Operands<T> o(length_of(grid.sizes), 17, 20);
    CAPTURE(grid.f.name());
    const Gradients<T> once = gradients(far, o, {}, {.threads = 1});
    CHECK(once == gradients(far, o, {}, {.threads = 1}));
    for (const int threads : {2, 3, 8}) CHECK(once == gradients(far, o, {}, {.threads = threads}));
  }
}
