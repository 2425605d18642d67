// Grids by one axis after the other: the laws, low-rank tables without symmetry, certificates against M~ itself, what is
// refused. SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include "support/mask_laws.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

using namespace espalier;
using espalier::test::DenseMatrix;
using espalier::test::MaskCase;

namespace {

using Sizes = std::vector<Index>;

std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

Index product(const Sizes& sizes) {
  Index p = 1;
  for (const Index n : sizes) p *= n;
  return p;
}

std::vector<Index> coordinates(const Sizes& sizes, Index i) {
  std::vector<Index> c(sizes.size());
  for (std::size_t t = sizes.size(); t-- > 0;) c[t] = i % sizes[t], i /= sizes[t];
  return c;
}

std::vector<Index> offset(const Sizes& sizes, Index i, Index j) {
  auto o = coordinates(sizes, i);
  const auto c = coordinates(sizes, j);
  for (std::size_t t = 0; t < o.size(); ++t) o[t] -= c[t];
  return o;
}

double distance_of(Distance distance, const std::vector<Index>& o) {
  double sum = 0, square = 0;
  for (const Index v : o) sum += std::abs(double(v)), square += double(v) * double(v);
  return distance == Distance::l1 ? sum : std::sqrt(square);
}

double from_table(const Sizes& sizes, std::span<const double> table, const std::vector<Index>& o) {
  Index place = 0;
  for (std::size_t t = 0; t < sizes.size(); ++t) place = place * (2 * sizes[t] - 1) + o[t] + sizes[t] - 1;
  return table[at(place)];
}

// A sum of `terms` products of random tables, one an axis: rank `terms` between any two axes; without symmetry, or even along
// every axis.
std::vector<double> low_rank_table(const Sizes& sizes, Index terms, bool even, std::uint64_t seed) {
  Index size = 1;
  for (const Index n : sizes) size *= 2 * n - 1;
  const Random random(seed);
  std::vector<double> table(at(size), 0.0);
  for (Index flat = 0; flat < size; ++flat) {
    for (Index k = 0; k < terms; ++k) {
      double p = 1;
      Index rest = flat;
      for (std::size_t t = sizes.size(); t-- > 0;) {
        const Index width = 2 * sizes[t] - 1, place = even ? std::min(rest % width, width - 1 - rest % width) : rest % width;
        p *= random.normal(static_cast<std::uint64_t>((k * 10 + static_cast<Index>(t)) * 10000 + place));
        rest /= width;
      }
      table[at(flat)] += p / static_cast<double>(k + 1);
    }
  }
  return table;
}

std::vector<double> noise(const Sizes& sizes, std::uint64_t seed) {
  Index size = 1;
  for (const Index n : sizes) size *= 2 * n - 1;
  const Random random(seed);
  std::vector<double> table(at(size));
  for (std::size_t k = 0; k < table.size(); ++k) table[k] = random.normal(k);
  return table;
}

GridOptions forced(double tolerance, bool causal = false) {
  GridOptions options;
  options.engine = "separable";
  options.tolerance = tolerance;
  options.causal = causal;
  return options;
}

// On a machine where only tiles take time every engine is a candidate of the smallest grid.
GridOptions every_engine(const std::string& engine, double tolerance, bool causal) {
  GridOptions options = forced(tolerance, causal);
  options.engine = engine;
  options.cost.tile_flops = options.cost.fft_flops = 1e3;
  options.cost.bandwidth = 1e30;
  options.cost.call_seconds = 0;
  return options;
}

template <class T>
double tolerance() {
  return sizeof(T) == 4 ? 1e-6 : 1e-12;
}

template <class T>
MaskCase<T> function_case(const Sizes& sizes, const DistanceFunction& f, Distance distance, bool causal = false) {
  MaskCase<T> c;
  c.name = f.name() + " " + std::to_string(product(sizes)) + (causal ? " causal" : "");
  c.with_engine = [=](const std::string& engine) {
    return std::make_shared<GridMask<T>>(sizes, f, distance, every_engine(engine, tolerance<T>(), causal));
  };
  c.mask = c.with_engine("auto");
  c.reference = [=](std::span<const double> p) {
    const DistanceFunction g = f.with_parameters(p);
    return espalier::test::dense_matrix(product(sizes), product(sizes), [&](Index i, Index j) {
      return causal && j > i ? 0.0 : g(distance_of(distance, offset(sizes, i, j)));
    });
  };
  c.product_bound = 2 * tolerance<T>();
  return c;
}

template <class T>
bool serves(const Mask<T>& mask, Shape shape) {
  const auto engines = mask.engines(shape);
  return std::any_of(engines.begin(), engines.end(), [](const Report& r) { return r.engine == "separable"; });
}

template <class T>
std::vector<T> random_values(Index size, std::uint64_t seed) {
  const Random random(seed);
  std::vector<T> v(at(size));
  for (std::size_t k = 0; k < v.size(); ++k) v[k] = static_cast<T>(random.normal(k));
  return v;
}

// The worst ||y~_i - y_i|| / || (|M| |x|)_i || over some rows, by the definition.
template <class T, class Entry>
double worst_row(Index length, Index columns, const std::vector<Index>& rows, const std::vector<T>& x, const std::vector<T>& y,
                 const Entry& entry) {
  double worst = 0;
  for (const Index i : rows) {
    std::vector<double> exact(at(columns), 0.0), size(at(columns), 0.0);
    for (Index j = 0; j < length; ++j) {
      const double m = entry(i, j);
      if (m == 0) continue;
      for (Index k = 0; k < columns; ++k) {
        const double v = m * double(x[at(j * columns + k)]);
        exact[at(k)] += v, size[at(k)] += std::abs(v);
      }
    }
    double error = 0, norm = 0;
    for (Index k = 0; k < columns; ++k) {
      error += std::pow(double(y[at(i * columns + k)]) - exact[at(k)], 2), norm += size[at(k)] * size[at(k)];
    }
    worst = std::max(worst, std::sqrt(error / norm));
  }
  return worst;
}

// M~ column by column, by products with unit vectors.
DenseMatrix applied(const Mask<double>& mask) {
  const Index n = mask.rows();
  DenseMatrix m(n, n), x(n, n);
  for (Index j = 0; j < n; ++j) x(j, j) = 1;
  mask.multiply({x.values.data(), n, n}, {m.values.data(), n, n});
  return m;
}

}  // namespace

TEST_CASE_TEMPLATE("separable: the laws, exact products of functions by axis", T, float, double) {
  const std::vector<MaskCase<T>> cases = {function_case<T>({7, 13}, Exponential{0.2, 1.5}, Distance::l1),
                                          function_case<T>({13, 1, 5}, Gaussian{4, 0.7}, Distance::l2),
                                          function_case<T>({2, 37}, Exponential{0.1}, Distance::l1),
                                          function_case<T>({3, 5, 7}, Gaussian{2}, Distance::l2)};
  for (const MaskCase<T>& c : cases) {
    CAPTURE(c.name);
    REQUIRE(serves(*c.mask, {.columns = 3}));
    check_mask_laws(c);
  }
}

TEST_CASE_TEMPLATE("separable: the laws, several terms and raster order", T, float, double) {
  // Rational: about five terms at this tolerance, enough to fold the shorter axis.
  auto folded = function_case<T>({13, 16}, Rational{4}, Distance::l1);
  folded.with_engine = [](const std::string& engine) {
    return std::make_shared<GridMask<T>>(Sizes{13, 16}, Rational{4}, Distance::l1, every_engine(engine, 2e-6, false));
  };
  folded.mask = folded.with_engine("auto");
  folded.product_bound = 4e-6;
  const std::vector<MaskCase<T>> cases = {folded, function_case<T>({11, 13}, DampedCosine{0.3, 0.1}, Distance::l1),
                                          function_case<T>({9, 11}, Exponential{0.2}, Distance::l1, true),
                                          function_case<T>({3, 7, 5}, Exponential{0.3}, Distance::l1, true)};
  CHECK(cases[0].with_engine("separable")->report({.columns = 3}).terms >= 5);
  for (const MaskCase<T>& c : cases) {
    CAPTURE(c.name);
    // Raster order only where it is forced: its zeros are differences. (Its errors: the test of certificates below.)
    const bool raster = &c - cases.data() >= 2;
    CHECK(serves(*c.mask, {.columns = 3}) == !raster);
    CHECK(serves(*c.with_engine("separable"), {.columns = 3}));
    if (raster) CHECK_FALSE(c.with_engine("separable")->report({.columns = 3}).warnings.empty());
    check_mask_laws(c);
  }
}

TEST_CASE_TEMPLATE("separable: tables of low rank with and without symmetry, M and its transpose, every size", T, float,
                   double) {
  struct Grid {
    Sizes sizes;
    Index terms;
    bool even = false;
  };
  // Even axes are folded from 64 numbers a point on: inner ones, last ones, middle ones.
  const std::vector<Grid> grids = {
      {{2, 2}, 1},         {{1, 3, 1, 2}, 1},      {{5, 7}, 2},           {{31, 37}, 3},      {{33, 32}, 1},
      {{64, 3}, 1},        {{3, 64}, 1},           {{5, 7, 11}, 2},       {{11, 2, 40}, 1},   {{35, 6, 7}, 2},
      {{3, 4, 5, 6}, 2},   {{66, 70}, 1, true},    {{67, 64}, 1, true},   {{2, 63}, 1, true}, {{33, 64}, 2, true},
      {{13, 40}, 5, true}, {{40, 5, 40}, 2, true}, {{9, 35, 36}, 3, true}};
  for (const Grid& g : grids) {
    const Index length = product(g.sizes);
    const auto table = low_rank_table(g.sizes, g.terms, g.even, 5);
    const GridMask<T> mask(g.sizes, table, forced(tolerance<T>()));
    CAPTURE(length);
    std::vector<Index> rows;
    for (Index i = 0; i < length; i += std::max<Index>(1, length / 30)) rows.push_back(i);
    for (const Index columns : {1, 17, 70}) {
      CAPTURE(columns);
      const Report report = mask.report({.columns = columns});
      CHECK(report.engine == "separable");
      CHECK(report.terms == g.terms);
      const auto x = random_values<T>(length * columns, 3);
      std::vector<T> y(x.size());
      // Sums of products of tables with signs: their size is that of the terms, up to a few times that of the table.
      const double bound = *report.certificate->row + 10 * std::numeric_limits<T>::epsilon() * std::sqrt(double(length));
      mask.multiply({x.data(), length, columns}, {y.data(), length, columns});
      CHECK(worst_row(length, columns, rows, x, y,
                      [&](Index i, Index j) { return from_table(g.sizes, table, offset(g.sizes, i, j)); }) <= bound);
      mask.multiply_transpose({x.data(), length, columns}, {y.data(), length, columns});
      CHECK(worst_row(length, columns, rows, x, y,
                      [&](Index i, Index j) { return from_table(g.sizes, table, offset(g.sizes, j, i)); }) <= bound);
    }
  }
}

TEST_CASE_TEMPLATE(
    "separable: products of functions that die out, by panels and by groups of columns, the same bits for any threads", T,
    float, double) {
  struct Grid {
    Sizes sizes;
    DistanceFunction f;
    Distance distance;
  };
  for (const Grid& g : std::vector<Grid>{{{90, 131}, Gaussian{4}, Distance::l2},
                                         {{131, 90}, Exponential{0.3}, Distance::l1},
                                         {{40, 9, 70}, Gaussian{3}, Distance::l2}}) {
    const Index length = product(g.sizes);
    const GridMask<T> mask(g.sizes, g.f, g.distance, forced(1e-5));
    CHECK(mask.report({.columns = 1}).terms == 1);
    for (const Index columns : {1, 3, 33, 70}) {
      CAPTURE(length);
      CAPTURE(columns);
      const auto x = random_values<T>(length * columns, 7);
      std::vector<T> y(x.size()), again(x.size());
      mask.multiply({x.data(), length, columns}, {y.data(), length, columns}, {.threads = 1});
      for (const int threads : {1, 2, 3}) {
        mask.multiply({x.data(), length, columns}, {again.data(), length, columns}, {.threads = threads});
        CHECK(again == y);
      }
      const std::vector<Index> rows = {0, 1, length / 3, length / 2, length - 1};
      CHECK(worst_row(length, columns, rows, x, y,
                      [&](Index i, Index j) { return g.f(distance_of(g.distance, offset(g.sizes, i, j))); }) <= 4e-5);
    }
  }
}

TEST_CASE_TEMPLATE("separable: long axes run in linear time each, the same bits for any threads", T, float, double) {
  // An even function of two terms, and a table of one without symmetry.
  const DistanceFunction f = DampedCosine{0.04, 0.05};
  const auto side = [](Index o) { return std::exp(o >= 0 ? -0.05 * double(o) : 0.02 * double(o)); };
  const Sizes all_sizes[] = {{390, 400}, {400, 1, 390}};
  for (const Sizes& sizes : all_sizes) {
    const bool even = sizes.size() == 2;
    GridOptions options = forced(1e-5);
    // A machine with slow tiles and slower FFT: the factors must run as exponentials, and win for few columns, too.
    options.cost = GridMask<T>({2}, f).options().cost;
    options.cost.tile_flops /= 4, options.cost.fft_flops /= 64;
    const auto entry = [&](Index i, Index j) {
      const auto o = offset(sizes, i, j);
      return even ? f(distance_of(Distance::l1, o)) : side(o.front()) * side(o.back());
    };
    std::vector<double> table;
    for (Index p = 1 - sizes.front(); !even && p < sizes.front(); ++p) {
      for (Index q = 1 - sizes.back(); q < sizes.back(); ++q) table.push_back(side(p) * side(q));
    }
    const GridMask<T> mask = even ? GridMask<T>(sizes, f, Distance::l1, options) : GridMask<T>(sizes, table, options);
    const Index length = product(sizes);
    const std::vector<Index> rows = {1, length / 2 + 7};
    for (const Index columns : {1, 17}) {
      CAPTURE(columns);
      const Report report = mask.report({.columns = columns});
      CHECK_MESSAGE(report.reason.find("of masks by axis (exponentials)") != std::string::npos, report.reason);
      CHECK(report.terms == (even ? 2 : 1));
      REQUIRE(report.certificate);
      CHECK(*report.certificate->row <= 1e-5);
      const auto x = random_values<T>(length * columns, 9);
      std::vector<T> y(x.size()), again(x.size());
      mask.multiply({x.data(), length, columns}, {y.data(), length, columns}, {.threads = 1});
      mask.multiply({x.data(), length, columns}, {again.data(), length, columns}, {.threads = 2});
      CHECK(again == y);
      // Row kind: errors relative to the sum of a row's entries times the largest number, at most 5 of them normal.
      CHECK(worst_row(length, columns, rows, x, y, entry) <= 5e-5);
      mask.multiply_transpose({x.data(), length, columns}, {y.data(), length, columns});
      CHECK(worst_row(length, columns, rows, x, y, [&](Index i, Index j) { return entry(j, i); }) <= 5e-5);
    }
    // Rows of M~ by its transpose: the certificate holds.
    const Index count = 2;
    const double rounding = 20 * static_cast<double>(std::numeric_limits<T>::epsilon());
    const Report report = mask.report({.columns = count});
    std::vector<T> x(at(length * count), T(0)), y(x.size());
    for (Index k = 0; k < count; ++k) x[at(rows[at(k)] * count + k)] = T(1);
    mask.multiply_transpose({x.data(), length, count}, {y.data(), length, count});
    for (Index k = 0; k < count; ++k) {
      double error = 0, norm = 0, worst = 0;
      for (Index j = 0; j < length; ++j) {
        const double m = entry(rows[at(k)], j), e = std::abs(double(y[at(j * count + k)]) - m);
        error += e, norm += std::abs(m), worst = std::max(worst, e);
      }
      CHECK(error <= (*report.certificate->row + rounding) * norm);
      CHECK(worst <= *report.certificate->entry + rounding);  // the largest entry is 1
    }
  }
}

TEST_CASE("separable: certificates are the errors of M~ as it is applied") {
  const Random random(11);
  Index met = 0;
  for (std::uint64_t trial = 0; trial < 60; ++trial) {
    const auto draw = [&](std::uint64_t k) { return random.uniform(100 * trial + k); };
    const bool three = trial % 3 == 2;
    const auto size = [&](std::uint64_t k, double most) { return static_cast<Index>(2 + draw(k) * most); };
    const Sizes sizes = three ? Sizes{1 + size(0, 6), 1 + size(1, 6), 1 + size(2, 8)} : Sizes{6 + size(0, 17), 6 + size(1, 17)};
    const double scale = 1 + 12 * draw(3);
    const std::vector<DistanceFunction> functions = {Rational{scale}, Exponential{1 / scale}, DampedCosine{0.3, 1 / scale},
                                                     StretchedExponential{scale, 0.5}};
    const DistanceFunction f = functions[trial % 4];
    const Distance distance = draw(4) < 0.5 ? Distance::l1 : Distance::l2;
    const auto kind = static_cast<ToleranceKind>(static_cast<int>(draw(5) * 3));
    GridOptions options = forced(std::pow(10, -1 - 9 * draw(6)), draw(7) < 0.3);
    options.tolerance_kind = kind;
    const GridMask<double> mask(sizes, f, distance, options);
    Report report;
    try {
      report = mask.report({.columns = 1});
    } catch (const ValueError&) {
      continue;  // more terms than a grid so small has room for
    }
    ++met;
    CAPTURE(trial);
    REQUIRE(report.certificate);
    const DenseMatrix got = applied(mask);
    double row = 0, entry = 0, pointwise = 0, largest = 0;
    for (const double v : mask.table()) largest = std::max(largest, std::abs(v));
    for (Index i = 0; i < got.rows; ++i) {
      double error = 0, norm = 0;
      for (Index j = 0; j < got.cols; ++j) {
        const double v = options.causal && j > i ? 0.0 : f(distance_of(distance, offset(sizes, i, j)));
        const double e = std::abs(got(i, j) - v);
        error += e, norm += std::abs(v), entry = std::max(entry, e / largest);
        if (std::abs(v) >= 1e-7 * largest) pointwise = std::max(pointwise, e / std::abs(v));
      }
      row = std::max(row, error / norm);
    }
    // Products of unit vectors round by a few eps of the terms' size.
    const double rounding = 1e-13;
    CHECK(row <= *report.certificate->row + rounding);
    CHECK(entry <= *report.certificate->entry + rounding);
    // For another kind the estimate is normwise.
    const double of_an_entry = kind == ToleranceKind::pointwise ? report.rounding_estimate : 1e7 * rounding;
    if (report.certificate->pointwise) CHECK(pointwise <= *report.certificate->pointwise + of_an_entry);
    CHECK(*report.certificate->row <= 1.01 * row + rounding);
    CHECK(*report.certificate->entry <= 1.01 * entry + rounding);
    const double promised = kind == ToleranceKind::row     ? *report.certificate->row
                            : kind == ToleranceKind::entry ? *report.certificate->entry
                                                           : report.certificate->pointwise.value_or(1);
    CHECK(promised <= options.tolerance);
  }
  CHECK(met >= 30);
}

TEST_CASE_TEMPLATE("separable: a certificate counts the rounding of tables and of folded halves", T, float, double) {
  const double eps = std::numeric_limits<T>::epsilon();
  for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::pointwise}) {
    const Sizes sizes = {66, 70};
    const DistanceFunction f = Exponential{0.02};
    GridOptions options = forced(1e-5);
    options.tolerance_kind = kind;
    const GridMask<T> mask(sizes, f, Distance::l1, options);
    const Certificate c = *mask.report({.columns = 1}).certificate;
    CHECK(*c.row <= 8 * eps);
    CHECK(*c.row >= 0.01 * eps);
    // Each entry on its own only where nothing is folded.
    if (kind == ToleranceKind::pointwise) CHECK(c.pointwise.value_or(1) <= 8 * eps);
    // Rows of M~ are products of its transpose with unit vectors: one multiplication an axis.
    const Index length = product(sizes), count = 8;
    std::vector<T> x(at(length * count), T(0)), y(x.size());
    for (Index k = 0; k < count; ++k) x[at(k * 577 * count + k)] = T(1);
    mask.multiply_transpose({x.data(), length, count}, {y.data(), length, count});
    for (Index k = 0; k < count; ++k) {
      double error = 0, norm = 0, worst = 0;
      for (Index j = 0; j < length; ++j) {
        const double m = f(distance_of(Distance::l1, offset(sizes, k * 577, j))),
                     e = std::abs(double(y[at(j * count + k)]) - m);
        error += e, norm += m, worst = std::max(worst, e / m);
      }
      CHECK(error <= (*c.row + 2 * eps) * norm);
      if (kind == ToleranceKind::pointwise) CHECK(worst <= *c.pointwise + 2 * eps);
    }
  }
}

// One huge number among small ones: rows far from it keep their digits, which an FFT loses.
TEST_CASE("separable: rows are accurate each by itself") {
  const Sizes sizes = {66, 70};
  const DistanceFunction f = Exponential{0.2};
  const Index length = product(sizes), columns = 4;
  auto x = random_values<float>(length * columns, 5);
  for (float& v : x) v = std::exp(8 * v);
  std::vector<Index> rows;
  for (Index i = 0; i < length; i += 61) rows.push_back(i);
  const auto entry = [&](Index i, Index j) { return f(distance_of(Distance::l1, offset(sizes, i, j))); };
  const auto worst = [&](const std::string& engine, ToleranceKind kind) {
    GridOptions options;
    options.engine = engine;
    options.tolerance_kind = kind;
    const GridMask<float> mask(sizes, f, Distance::l1, options);
    std::vector<float> y(x.size());
    mask.multiply({x.data(), length, columns}, {y.data(), length, columns});
    return worst_row(length, columns, rows, x, y, entry);
  };
  // 66 and 70 terms an axis, each rounded twice: 4 eps sqrt(70).
  CHECK(worst("separable", ToleranceKind::pointwise) <= 4e-6);
  // Folded, errors are relative to the row's sum of entries times the largest number: the report says so.
  GridOptions folded = forced(1e-6);
  const Report report = GridMask<float>(sizes, f, Distance::l1, folded).report({.columns = columns});
  CHECK(report.row_wise);
  CHECK(report.warnings.size() == 1);
  const auto engines = GridMask<float>(sizes, f).engines({.columns = columns});
  if (std::any_of(engines.begin(), engines.end(), [](const Report& r) { return r.engine == "fft"; })) {
    CHECK(worst("fft", ToleranceKind::row) >= 1e-4);
  }
}

TEST_CASE("separable: the planner's choice") {
  const auto engine = [](const Sizes& sizes, const DistanceFunction& f, Distance distance, Index columns, Index rank = 0) {
    return GridMask<float>(sizes, f, distance).report({.columns = columns, .rank = rank}).engine;
  };
  CHECK(engine({512, 512}, Exponential{0.05}, Distance::l1, 3) == "separable");
  CHECK(engine({256, 256}, Gaussian{30}, Distance::l2, 64) == "separable");
  CHECK(engine({64, 64}, Gaussian{30}, Distance::l2, 64) == "separable");
  CHECK(engine({8, 32, 32}, Exponential{0.1}, Distance::l1, 64) == "separable");
  CHECK(engine({8, 32, 32}, Rational{16}, Distance::l1, 64) == "separable");
  // The largest of two distances is no short sum of products.
  CHECK(engine({64, 64}, Rational{16}, Distance::max, 64) != "separable");
  // Not for masked products.
  CHECK(engine({64, 64}, Gaussian{30}, Distance::l2, 64, 64) != "separable");
  const Report report = GridMask<float>({64, 64}, Gaussian{30}, Distance::l2).report({.columns = 64});
  CHECK(report.terms == 1);
  CHECK(report.row_wise);
  REQUIRE(report.certificate);
  CHECK(*report.certificate->row <= 1e-6);
  // Two axes of 64 points, folded: 2 x 32 multiply-adds a number.
  CHECK(report.flops == 2.0 * 4096 * 64 * 64);
}

// Found by review: in double, squares of entries of 1e160 gave NaN under a certificate of 0; in float, entries flushed to 0
// were not in the certificate.
TEST_CASE_TEMPLATE("entries near the ends of the element type run on tiles or FFT, before and after a parameter step", T, float,
                   double) {
  const double huge = sizeof(T) == 4 ? 1e25 : 1e200, tiny = 1 / huge;
  for (const double scale : {huge, tiny}) {
    CAPTURE(scale);
    for (const Sizes& sizes : {Sizes{12, 14, 10}, Sizes{40, 42}, Sizes{900}}) {
      const auto fresh = std::make_shared<GridMask<T>>(sizes, Gaussian{6, scale}, Distance::l2);
      const auto usual = std::make_shared<GridMask<T>>(sizes, Gaussian{6, 1}, Distance::l2);
      GridOptions tiles;
      tiles.engine = "direct";
      const GridMask<T> exact(sizes, Gaussian{6, 1}, Distance::l2, tiles);
      auto parameters = std::vector<double>(fresh->parameters().begin(), fresh->parameters().end());
      const auto stepped = usual->with_parameters(parameters);
      parameters.assign(usual->parameters().begin(), usual->parameters().end());
      const auto back = fresh->with_parameters(parameters);
      CHECK(back->report({.columns = 5}).engine == usual->report({.columns = 5}).engine);
      for (const std::shared_ptr<const Mask<T>>& mask : {std::shared_ptr<const Mask<T>>(fresh), stepped}) {
        for (const Report& r : mask->engines({.columns = 5, .rank = 4})) CHECK((r.engine == "direct" || r.engine == "fft"));
        for (const Report& r : mask->engines({.columns = 5})) CHECK((r.engine == "direct" || r.engine == "fft"));
        const Index length = product(sizes);
        const auto x = random_values<T>(length, 3);
        std::vector<T> y(x.size()), one(x.size());
        mask->multiply({x.data(), length, 1}, {y.data(), length, 1});
        exact.multiply({x.data(), length, 1}, {one.data(), length, 1});
        double error = 0, size = 0;
        for (std::size_t i = 0; i < y.size(); ++i) {
          error += std::pow(static_cast<double>(y[i]) / scale - static_cast<double>(one[i]), 2);
          size += std::pow(static_cast<double>(one[i]), 2);
        }
        // Both are exact up to rounding: the bounds of every exact engine.
        CHECK(std::sqrt(error / size) < (sizeof(T) == 4 ? 1e-6 : 1e-12));
      }
    }
  }
}

TEST_CASE("separable: what is refused, and why") {
  const Sizes sizes = {40, 50};
  const GridMask<float> rough(sizes, noise(sizes, 3), forced(1e-5));
  CHECK_THROWS_WITH_AS((void)rough.report({.columns = 64}), doctest::Contains("its table is noise"), ValueError);
  GridOptions automatic;
  CHECK_FALSE(serves(GridMask<float>(sizes, noise(sizes, 3), automatic), {.columns = 64}));
  // Few rows of noise are their own directions: more work than the entries, though not noise by what is left.
  const GridMask<float> small({3, 50}, noise({3, 50}, 4), forced(1e-5));
  CHECK_THROWS_WITH_AS((void)small.report({.columns = 64}), doctest::Contains("more arithmetic than its entries"), ValueError);
  const GridMask<float> sharp(sizes, Rational{4}, Distance::l1, forced(1e-9));
  CHECK_THROWS_WITH_AS((void)sharp.report({.columns = 64}), doctest::Contains("rounded tables"), ValueError);
  const GridMask<float> exact(sizes, Exponential{0.1}, Distance::l1, forced(0));
  CHECK_THROWS_WITH_AS((void)exact.report({.columns = 64}), doctest::Contains("exact engines only"), ValueError);
  // One axis, and masked products.
  const GridMask<float> line({1, 50, 1}, Exponential{0.1}, Distance::l1, forced(1e-5));
  CHECK_THROWS_WITH_AS((void)line.report({.columns = 64}), doctest::Contains("cannot run this product"), ValueError);
  const GridMask<float> masked(sizes, Exponential{0.1}, Distance::l1, forced(1e-5));
  CHECK_THROWS_WITH_AS((void)masked.report({.columns = 64, .rank = 8}), doctest::Contains("cannot run this product"),
                       ValueError);
}

TEST_CASE("separable: zero tables, and tables with a zero half") {
  const Sizes sizes = {6, 9};
  const GridMask<double> zero(sizes, std::vector<double>(11 * 17, 0.0), forced(1e-8));
  const auto x = random_values<double>(54 * 3, 1);
  std::vector<double> y(x.size(), 7.0);
  zero.multiply({x.data(), 54, 3}, {y.data(), 54, 3});
  CHECK(std::all_of(y.begin(), y.end(), [](double v) { return v == 0; }));
  // Raster order adds the own row's half to the rows above: one term more, and nothing comes from later rows.
  const GridMask<double> causal({20, 30}, Exponential{0.1}, Distance::l1, forced(1e-8, true));
  CHECK(causal.report({.columns = 1}).terms == 2);
  std::vector<double> late(600, 0.0), out(600);
  late[300] = 1;
  causal.multiply({late.data(), 600, 1}, {out.data(), 600, 1});
  CHECK(std::all_of(out.begin(), out.begin() + 300, [](double v) { return std::abs(v) <= 1e-15; }));
  CHECK(out[300] == doctest::Approx(1).epsilon(1e-14));
}

// Found by an oracle: 3 products within a row tolerance of 1e-6 were 1.1e-6 of a column for one token alone.
TEST_CASE("separable: at the default tolerance one token alone is right to 1e-6 too") {
  for (const Sizes& sizes : {Sizes{7, 13}, Sizes{5, 6}, Sizes{9, 9}, Sizes{4, 5, 6}}) {
    for (const double width : {4.0, 16.0, 60.0}) {
      const GridMask<float> mask(sizes, Rational{width}, Distance::l1);
      const GridMask<double> exact(sizes, Rational{width}, Distance::l1, [] {
        GridOptions direct;
        direct.engine = "direct";
        return direct;
      }());
      const Index n = mask.rows();
      // All columns at once, by threes so that the products of tables are the cheapest.
      for (Index j = 0; j + 3 <= n; j += 3) {
        std::vector<float> x(at(3 * n)), y(x);
        std::vector<double> xd(at(3 * n)), yd(xd);
        for (Index c = 0; c < 3; ++c) x[at((j + c) * 3 + c)] = 1, xd[at((j + c) * 3 + c)] = 1;
        mask.multiply({x.data(), n, 3}, {y.data(), n, 3});
        exact.multiply({xd.data(), n, 3}, {yd.data(), n, 3});
        for (Index c = 0; c < 3; ++c) {
          double error = 0, size = 0;
          for (Index i = 0; i < n; ++i) {
            error += std::pow(static_cast<double>(y[at(i * 3 + c)]) - yd[at(i * 3 + c)], 2);
            size += std::pow(yd[at(i * 3 + c)], 2);
          }
          CAPTURE(width);
          CHECK(std::sqrt(error) <= 1e-6 * std::sqrt(size));
        }
      }
    }
  }
}
