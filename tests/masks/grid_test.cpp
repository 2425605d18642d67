// GridMask: the laws for both engines on many grids, the sign convention, table gradients by FFT, errors.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include "support/inputs.hpp"
#include "support/mask_laws.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

using namespace espalier;
using espalier::test::DenseMatrix;
using espalier::test::MaskCase;

namespace {

using Sizes = std::vector<Index>;

Index product(const Sizes& sizes) {
  Index p = 1;
  for (const Index n : sizes) p *= n;
  return p;
}

Index table_size(const Sizes& sizes) {
  Index p = 1;
  for (const Index n : sizes) p *= 2 * n - 1;
  return p;
}

// Coordinates of a row-major index.
std::vector<Index> coordinates(const Sizes& sizes, Index i) {
  std::vector<Index> at(sizes.size());
  for (std::size_t t = sizes.size(); t-- > 0;) at[t] = i % sizes[t], i /= sizes[t];
  return at;
}

// M_ij = entry(i_1 - j_1, ..., i_d - j_d), 0 for j > i where causal.
template <class F>
DenseMatrix dense(const Sizes& sizes, bool causal, const F& entry) {
  const Index length = product(sizes);
  DenseMatrix m;
  m.rows = m.cols = length;
  m.values.assign(static_cast<std::size_t>(length * length), 0.0);
  for (Index i = 0; i < length; ++i) {
    for (Index j = 0; j < length; ++j) {
      if (causal && j > i) continue;
      auto o = coordinates(sizes, i);
      const auto b = coordinates(sizes, j);
      for (std::size_t t = 0; t < o.size(); ++t) o[t] -= b[t];
      m(i, j) = entry(o);
    }
  }
  return m;
}

double from_table(const Sizes& sizes, std::span<const double> table, const std::vector<Index>& o) {
  Index at = 0;
  for (std::size_t t = 0; t < sizes.size(); ++t) at = at * (2 * sizes[t] - 1) + o[t] + sizes[t] - 1;
  return table[static_cast<std::size_t>(at)];
}

bool has_fft() {
  GridOptions options;
  const GridMask<float> mask({4}, std::vector<double>(7, 1.0), options);
  const auto engines = mask.engines({.columns = 1});
  return std::any_of(engines.begin(), engines.end(), [](const Report& r) { return r.engine == "fft"; });
}

// No symmetry at all: every offset its own random number.
std::vector<double> random_table(const Sizes& sizes, std::uint64_t seed) {
  const Random random(seed);
  std::vector<double> t(static_cast<std::size_t>(table_size(sizes)));
  for (std::size_t k = 0; k < t.size(); ++k) t[k] = random.normal(k);
  return t;
}

template <class T>
MaskCase<T> table_case(const Sizes& sizes, bool causal, std::uint64_t seed = 7) {
  MaskCase<T> c;
  c.name = "table";
  for (const Index n : sizes) c.name.append(" ").append(std::to_string(n));
  const auto make = [=](const std::string& engine) {
    GridOptions options;
    options.engine = engine;
    options.causal = causal;
    return std::make_shared<GridMask<T>>(sizes, std::span<const double>(random_table(sizes, seed)), options);
  };
  c.mask = make("auto");
  c.with_engine = make;
  c.reference = [=](std::span<const double> p) {
    return dense(sizes, causal, [&](const std::vector<Index>& o) { return from_table(sizes, p, o); });
  };
  return c;
}

double distance_of(Distance distance, const std::vector<Index>& o) {
  double sum = 0, square = 0, largest = 0;
  for (const Index v : o) {
    const double a = std::abs(static_cast<double>(v));
    sum += a, square += a * a, largest = std::max(largest, a);
  }
  if (distance == Distance::l1) return sum;
  if (distance == Distance::l2) return std::sqrt(square);
  if (distance == Distance::max) return largest;
  return static_cast<double>(o[0]);
}

template <class T>
MaskCase<T> function_case(const Sizes& sizes, const DistanceFunction& f, Distance distance, bool causal = false) {
  MaskCase<T> c;
  c.name = f.name();
  const auto make = [=](const std::string& engine) {
    GridOptions options;
    options.engine = engine;
    options.causal = causal;
    return std::make_shared<GridMask<T>>(sizes, f, distance, options);
  };
  c.mask = make("auto");
  c.with_engine = make;
  c.reference = [=](std::span<const double> p) {
    const DistanceFunction g = f.with_parameters(p);
    return dense(sizes, causal, [&](const std::vector<Index>& o) { return g(distance_of(distance, o)); });
  };
  return c;
}

template <class T>
std::vector<T> random_values(Index size, std::uint64_t seed) {
  const Random random(seed);
  std::vector<T> v(static_cast<std::size_t>(size));
  for (std::size_t k = 0; k < v.size(); ++k) v[k] = static_cast<T>(random.normal(k));
  return v;
}

template <class T>
GridMask<T> forced(const Sizes& sizes, std::span<const double> table, const std::string& engine, bool causal = false) {
  GridOptions options;
  options.engine = engine;
  options.causal = causal;
  return GridMask<T>(sizes, table, options);
}

}  // namespace

TEST_CASE_TEMPLATE("laws: free tables", T, float, double) {
  for (const Sizes& sizes : {Sizes{1}, Sizes{1, 1, 1}, Sizes{1, 13}, Sizes{31}, Sizes{101}, Sizes{8, 5}, Sizes{2, 3, 1, 4}}) {
    check_mask_laws(table_case<T>(sizes, false));
  }
}

TEST_CASE_TEMPLATE("laws: causal tables", T, float, double) {
  for (const Sizes& sizes : {Sizes{1}, Sizes{13}, Sizes{7, 5}}) {
    auto tiles = table_case<T>(sizes, true);
    tiles.mask = tiles.with_engine("direct");
    auto fft = tiles;
    tiles.with_engine = {};
    check_mask_laws(tiles);
    if (!has_fft()) continue;
    fft.mask = fft.with_engine("fft");
    fft.with_engine = {};
    // The FFT's error is relative to the whole table. A late spike meets a column of few entries, and its norm, which is what
    // the error is divided by, is small: 20 eps sqrt(log2 P), P < 2^9.
    if (sizeof(T) == 4) fft.product_bound = 20 * 1.2e-7 * 3;
    check_mask_laws(fft);
  }
}

TEST_CASE_TEMPLATE("laws: functions of the distance", T, float, double) {
  const DistanceFunction f = DampedCosine{0.7, 0.2, 1.3};
  check_mask_laws(function_case<T>({4, 7}, f, Distance::l1));
  check_mask_laws(function_case<T>({5, 3}, Gaussian{3, 0.9}, Distance::l2));
  check_mask_laws(function_case<T>({2, 3, 3}, Exponential{0.3, 2}, Distance::max));
  check_mask_laws(function_case<T>({19}, ExponentiatedPolynomial{{0.1, 0.03, -0.002}}, Distance::offset));
  check_mask_laws(function_case<T>({3, 4}, Rational{2, 1.5, 1}, Distance::l1, true));
  check_mask_laws(function_case<T>({3, 4}, FunctionTable{{5, 4, 3, 2.5, 2, -1}}, Distance::l1));
}

TEST_CASE("laws: three levels") {
  check_mask_laws(function_case<double>({3, 5, 4}, DampedCosine{0.4, 0.1, 1}, Distance::l2));
}

TEST_CASE_TEMPLATE("three levels, 5 x 7 x 11, free asymmetric table, both engines and the table gradient", T, float, double) {
  const Sizes sizes = {5, 7, 11};
  const Index length = product(sizes), c = 5;
  const auto table = random_table(sizes, 3);
  const auto m = dense(sizes, false, [&](const std::vector<Index>& o) { return from_table(sizes, table, o); });
  const auto x = random_values<T>(length * c, 1), y_bar = random_values<T>(length * c, 2);
  const double bound = sizeof(T) == 4 ? 1e-6 : 1e-12;
  for (const std::string engine : {"direct", "fft"}) {
    if (engine == "fft" && !has_fft()) continue;
    CAPTURE(engine);
    const auto mask = forced<T>(sizes, table, engine);
    CHECK(mask.report({.columns = c}).engine == engine);
    std::vector<T> y(x.size()), bar(table.size());
    mask.multiply({x.data(), length, c}, {y.data(), length, c});
    double error = 0, scale = 0;
    for (Index i = 0; i < length; ++i) {
      for (Index k = 0; k < c; ++k) {
        double s = 0, a = 0;
        for (Index j = 0; j < length; ++j) s += m(i, j) * x[j * c + k], a += std::abs(m(i, j) * x[j * c + k]);
        error += (y[i * c + k] - s) * (y[i * c + k] - s), scale += a * a;
      }
    }
    CHECK(std::sqrt(error / scale) <= bound);
    mask.multiply_vjp({x.data(), length, c}, {y_bar.data(), length, c}, {}, {bar.data(), static_cast<Index>(bar.size())});
    std::vector<double> exact(table.size()), absolute(table.size());
    const auto position = dense(sizes, false, [&](const std::vector<Index>& o) {
      std::vector<double> index(table.size());
      for (std::size_t p = 0; p < index.size(); ++p) index[p] = static_cast<double>(p);
      return from_table(sizes, index, o);
    });
    for (Index i = 0; i < length; ++i) {
      for (Index j = 0; j < length; ++j) {
        const auto p = static_cast<std::size_t>(position(i, j));
        for (Index k = 0; k < c; ++k) exact[p] += double(y_bar[i * c + k]) * x[j * c + k];
      }
    }
    double worst = 0, largest = 0;
    for (std::size_t p = 0; p < exact.size(); ++p) {
      worst = std::max(worst, std::abs(bar[p] - exact[p]));
      largest = std::max(largest, std::abs(exact[p]));
    }
    CHECK(worst <= (sizeof(T) == 4 ? 2e-6 : 1e-12) * largest);
  }
}

TEST_CASE("convention: out_i = sum_j t[i - j] x_j, t asymmetric") {
  // One step down: t[1] = 1, every other offset 0 moves x_j to i = j + 1.
  const std::vector<double> shift = {0, 0, 0, 0, 1, 0, 0};
  const std::vector<double> x = {1, 2, 3, 4};
  for (const std::string engine : {"direct", "fft"}) {
    if (engine == "fft" && !has_fft()) continue;
    const auto mask = forced<double>({4}, shift, engine);
    std::vector<double> y(4), back(4);
    mask.multiply({x.data(), 4, 1}, {y.data(), 4, 1});
    mask.multiply_transpose({x.data(), 4, 1}, {back.data(), 4, 1});
    const double down[] = {0, 1, 2, 3}, up[] = {2, 3, 4, 0};
    for (int i = 0; i < 4; ++i) {
      CHECK(y[i] == doctest::Approx(down[i]).epsilon(1e-14));
      CHECK(back[i] == doctest::Approx(up[i]).epsilon(1e-14));
    }
  }
}

TEST_CASE("causal: the table is zero before its centre and its gradient too") {
  const Sizes sizes = {3, 4};
  const auto table = random_table(sizes, 5);
  const auto mask = forced<double>(sizes, table, "auto", true);
  const auto applied = mask.table();
  for (std::size_t p = 0; p < applied.size(); ++p) CHECK(applied[p] == (p < table.size() / 2 ? 0.0 : table[p]));
  CHECK(std::equal(table.begin(), table.end(), mask.parameters().begin()));
  // A function that is not finite for negative offsets is never asked for them.
  GridOptions options;
  options.causal = true;
  const GridMask<double> once({400}, Exponential{2, 1}, Distance::offset, options);
  CHECK(once.table()[0] == 0);
  CHECK_THROWS_AS(GridMask<double>({400}, Exponential{2, 1}, Distance::offset), ValueError);
}

TEST_CASE("entries below 1e-30 of the largest are stored as 0") {
  const std::vector<double> table = {1e-31, 2e-30, -1e-31, 1, 0, -3e-30, 1e-40};
  const std::vector<double> kept = {0, 2e-30, 0, 1, 0, -3e-30, 0};
  CHECK(GridMask<double>({4}, table).table() == kept);
  const GridMask<float> decay({4096}, Exponential{0.1, 1});
  for (const double v : decay.table()) CHECK((v == 0 || v >= 1e-30));
}

TEST_CASE("with_parameters shares structure, changes the values and leaves the old mask alone; the options stay") {
  const Sizes sizes = {9};
  const auto first = random_table(sizes, 1), second = random_table(sizes, 2);
  for (const std::string engine : {"direct", "fft"}) {
    if (engine == "fft" && !has_fft()) continue;
    const auto mask = forced<double>(sizes, first, engine, true);
    const auto next = mask.with_parameters(second);
    CHECK(next->report({.columns = 1}).engine == engine);
    const auto fresh = forced<double>(sizes, second, engine, true);
    const auto x = random_values<double>(9, 3);
    std::vector<double> a(9), b(9), before(9), after(9);
    mask.multiply({x.data(), 9, 1}, {before.data(), 9, 1});
    next->multiply({x.data(), 9, 1}, {a.data(), 9, 1});
    fresh.multiply({x.data(), 9, 1}, {b.data(), 9, 1});
    mask.multiply({x.data(), 9, 1}, {after.data(), 9, 1});
    CHECK(a == b);
    CHECK(before == after);
    CHECK(next->entries().row_key == mask.entries().row_key);
  }
}

TEST_CASE_TEMPLATE("the fft engine agrees with the slow loop where columns are split into slices and blocks", T, float,
                   double) {
  if (!has_fft()) return;
  const Index length = 50, m = 37, c = 2;
  const auto table = random_table({length}, 11);
  const auto mask = forced<T>({length}, table, "fft");
  const auto a = random_values<T>(length * m, 1), b = random_values<T>(length * m, 2), x = random_values<T>(length * c, 3);
  const auto y_bar = random_values<T>(length * c, 4), r_bar = random_values<T>(length, 5);
  const double bound = sizeof(T) == 4 ? 1e-6 : 1e-12;
  const LowRankInputs<T> in{{a.data(), length, m}, {b.data(), length, m}, {x.data(), length, c}};
  // Scratch for all features at once, for a few, and for one.
  for (const std::size_t scratch : {std::size_t{1} << 24, std::size_t{16384}, std::size_t{1}}) {
    Context<Cpu> context;
    context.scratch_bytes = scratch;
    std::vector<T> y(x.size()), r(static_cast<std::size_t>(length));
    mask.multiply_low_rank(in, {{y.data(), length, c}, {r.data(), length}}, context);
    std::vector<T> a_bar(a.size()), b_bar(b.size()), x_bar(x.size()), t_bar(table.size());
    mask.multiply_low_rank_vjp(in, {{y_bar.data(), length, c}, {r_bar.data(), length}},
                               {{a_bar.data(), length, m},
                                {b_bar.data(), length, m},
                                {x_bar.data(), length, c},
                                {t_bar.data(), static_cast<Index>(t_bar.size())}},
                               context);
    double error = 0, scale = 0, a_error = 0, a_scale = 0, t_error = 0, t_scale = 0;
    std::vector<double> t_exact(table.size());
    for (Index i = 0; i < length; ++i) {
      std::vector<double> row(c + 1), absolute(c + 1), a_row(m), a_absolute(m);
      for (Index j = 0; j < length; ++j) {
        double s = 0, w = r_bar[i];
        for (Index k = 0; k < m; ++k) s += double(a[i * m + k]) * b[j * m + k];
        for (Index k = 0; k < c; ++k) w += double(y_bar[i * c + k]) * x[j * c + k];
        const double e = table[static_cast<std::size_t>(i - j + length - 1)];
        t_exact[static_cast<std::size_t>(i - j + length - 1)] += s * w;
        for (Index k = 0; k <= c; ++k) {
          const double v = e * s * (k < c ? double(x[j * c + k]) : 1.0);
          row[k] += v, absolute[k] += std::abs(v);
        }
        for (Index k = 0; k < m; ++k) {
          const double v = e * w * b[j * m + k];
          a_row[k] += v, a_absolute[k] += std::abs(v);
        }
      }
      for (Index k = 0; k <= c; ++k) {
        const double got = k < c ? y[i * c + k] : r[i];
        error += (got - row[k]) * (got - row[k]), scale += absolute[k] * absolute[k];
      }
      for (Index k = 0; k < m; ++k) {
        a_error += std::pow(a_bar[i * m + k] - a_row[k], 2), a_scale += a_absolute[k] * a_absolute[k];
      }
    }
    for (std::size_t p = 0; p < t_exact.size(); ++p) {
      t_error = std::max(t_error, std::abs(t_bar[p] - t_exact[p])), t_scale = std::max(t_scale, std::abs(t_exact[p]));
    }
    CHECK(std::sqrt(error / scale) <= bound);
    CHECK(std::sqrt(a_error / a_scale) <= bound);
    CHECK(t_error <= 4 * bound * t_scale);
  }
}

// Halves of 64 KB and more are transformed in four parts (2-3-5-7-smooth lengths divisible by 32 or 16). Rows and offsets are
// sampled: the slow loop over all of them would take minutes.
TEST_CASE_TEMPLATE("the fft engine agrees with the slow loop on long axes", T, float, double) {
  if (!has_fft()) return;
  const Index n = sizeof(T) == 4 ? 8192 : 4096;
  const double bound = sizeof(T) == 4 ? 1e-6 : 1e-12;
  for (const Sizes& sizes : {Sizes{n}, Sizes{n - 5}, Sizes{3, n - 2}}) {
    const Index length = product(sizes), line = sizes.back(), rows = length / line, c = 3;
    const auto table = random_table(sizes, 5);
    const auto mask = forced<T>(sizes, table, "fft");
    const auto x = random_values<T>(length * c, 1), u = random_values<T>(length * c, 2);
    std::vector<T> y(x.size()), z(x.size()), bar(table.size());
    mask.multiply({x.data(), length, c}, {y.data(), length, c});
    mask.multiply_transpose({x.data(), length, c}, {z.data(), length, c});
    mask.multiply_vjp({x.data(), length, c}, {u.data(), length, c}, {}, {bar.data(), static_cast<Index>(bar.size())});
    const auto entry = [&](Index i, Index j) {
      const Index row = i / line - j / line + rows - 1, column = i % line - j % line + line - 1;
      return table[static_cast<std::size_t>(row * (2 * line - 1) + column)];
    };
    double error = 0, scale = 0;
    for (Index i = 0; i < length; i += 211) {
      for (Index k = 0; k < c; ++k) {
        double sum = 0, size = 0, transposed = 0;
        for (Index j = 0; j < length; ++j) {
          const double v = static_cast<double>(x[static_cast<std::size_t>(j * c + k)]);
          sum += entry(i, j) * v, size += std::abs(entry(i, j) * v), transposed += entry(j, i) * v;
        }
        const auto at = static_cast<std::size_t>(i * c + k);
        error += std::pow(static_cast<double>(y[at]) - sum, 2) + std::pow(static_cast<double>(z[at]) - transposed, 2);
        scale += 2 * size * size;
      }
    }
    CAPTURE(length);
    CHECK(std::sqrt(error / scale) <= bound);
    double t_error = 0, t_scale = 0;
    for (Index o = 1 - line; o < line; o += 97) {  // offsets within a row of the grid
      double sum = 0;
      for (Index i = 0; i < length; ++i) {
        if (i % line - o < 0 || i % line - o >= line) continue;
        for (Index k = 0; k < c; ++k) {
          sum += static_cast<double>(u[static_cast<std::size_t>(i * c + k)]) *
                 static_cast<double>(x[static_cast<std::size_t>((i - o) * c + k)]);
        }
      }
      t_error = std::max(
          t_error,
          std::abs(static_cast<double>(bar[static_cast<std::size_t>((rows - 1) * (2 * line - 1) + o + line - 1)]) - sum));
      t_scale = std::max(t_scale, std::abs(sum));
    }
    CHECK(t_error <= 4 * bound * t_scale);
  }
}

TEST_CASE("several tables, one a head, are independent masks") {
  const Sizes sizes = {3, 3};
  std::vector<std::shared_ptr<const Mask<float>>> heads;
  for (std::uint64_t h = 0; h < 3; ++h)
    heads.push_back(std::make_shared<GridMask<float>>(sizes, std::span<const double>(random_table(sizes, h))));
  const auto x = random_values<float>(9, 1);
  for (std::uint64_t h = 0; h < 3; ++h) {
    const auto table = random_table(sizes, h);
    const auto m = dense(sizes, false, [&](const std::vector<Index>& o) { return from_table(sizes, table, o); });
    std::vector<float> y(9);
    heads[h]->multiply({x.data(), 9, 1}, {y.data(), 9, 1});
    for (Index i = 0; i < 9; ++i) {
      double s = 0;
      for (Index j = 0; j < 9; ++j) s += m(i, j) * x[j];
      CHECK(y[i] == doctest::Approx(s).epsilon(1e-5));
    }
  }
}

TEST_CASE("engines: tiles for short sequences, FFT for long rough ones; forced engines are obeyed in every product") {
  const GridMask<float> small({14, 14}, Exponential{0.1, 1});
  CHECK(small.report({.columns = 64, .rank = 64}).engine == "direct");
  CHECK(GridMask<float>({14, 14}, Rational{4}, Distance::max).report({.columns = 64}).engine == "direct");
  if (!has_fft()) {
    GridOptions options;
    options.engine = "fft";
    const GridMask<float> mask({8}, Exponential{0.1, 1}, Distance::l1, options);
    CHECK_THROWS_AS((void)mask.report({.columns = 1}), ValueError);
    return;
  }
  CHECK(GridMask<float>({65536}, Exponential{0.1, 1}).report({.columns = 64, .rank = 64}).engine == "exponentials");
  const GridMask<float> large({65536}, random_table({65536}, 2));
  CHECK(large.report({.columns = 64, .rank = 64}).engine == "fft");
  CHECK(large.report({.columns = 64}).engine == "fft");
  CHECK(large.engines({.columns = 64}).size() == 2);
  CHECK(large.report({.columns = 64}).extra_bytes < std::size_t{1} << 30);
  // Lines of padding are not transformed: on 64 x 64, 64 lines of 128 and then 128, instead of twice 128, each way.
  CHECK(forced<float>({64, 64}, random_table({64, 64}, 1), "fft").report({.columns = 2}).flops == 2.0 * 5 * 192 * 128 * 7);
  const auto mask = forced<float>({101}, random_table({101}, 1), "fft");
  CHECK(mask.report({.columns = 3, .rank = 5}).engine == "fft");
  CHECK_FALSE(mask.report({.columns = 3, .rank = 5}).row_wise);
}

// A mask keeps its last choice; calls of other shapes in between must not see it.
TEST_CASE("engines: a mask that ran other shapes before gives the bits of a new one") {
  if (!has_fft()) return;
  const Index length = 1024, m = 8, c = 64;
  const std::vector<double> table = random_table({length}, 5);
  const GridMask<float> used({length}, table);
  REQUIRE(used.report({.columns = c}).engine == "fft");
  REQUIRE(used.report({.columns = c, .rank = m}).engine == "direct");
  const auto a = random_values<float>(length * m, 1), b = random_values<float>(length * m, 2);
  const auto x = random_values<float>(length * c, 3);
  const auto plain = [&](const GridMask<float>& mask) {
    std::vector<float> y(x.size());
    mask.multiply({x.data(), length, c}, {y.data(), length, c});
    return y;
  };
  const auto low_rank = [&](const GridMask<float>& mask) {
    std::vector<float> y(x.size());
    mask.multiply_low_rank({{a.data(), length, m}, {b.data(), length, m}, {x.data(), length, c}}, {{y.data(), length, c}});
    return y;
  };
  const auto expected_plain = plain(GridMask<float>({length}, table));
  const auto expected_low_rank = low_rank(GridMask<float>({length}, table));
  for (int turn = 0; turn < 2; ++turn) {
    CHECK(plain(used) == expected_plain);
    CHECK(low_rank(used) == expected_low_rank);
    CHECK(low_rank(GridMask<float>(used)) == expected_low_rank);
  }
}

TEST_CASE("errors") {
  const std::vector<double> seven(7, 1.0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(GridMask<float>({}, std::span<const double>(seven)), ValueError);
  CHECK_THROWS_AS(GridMask<float>({0}, std::span<const double>(seven)), ValueError);
  CHECK_THROWS_AS(GridMask<float>({4, -1}, std::span<const double>(seven)), ValueError);
  CHECK_THROWS_AS(GridMask<float>({3}, std::span<const double>(seven)), ShapeError);
  CHECK_THROWS_AS(GridMask<float>({4, 2}, std::span<const double>(seven)), ShapeError);
  for (const double bad : {nan, std::numeric_limits<double>::infinity(), 1e300}) {
    auto table = seven;
    table[2] = bad;
    CHECK_THROWS_AS(GridMask<float>({4}, std::span<const double>(table)), ValueError);  // 1e300 is infinite in float
    CHECK_THROWS_AS((void)GridMask<float>({4}, std::span<const double>(seven)).with_parameters(table), ValueError);
  }
  CHECK_THROWS_AS((void)GridMask<float>({4}, std::span<const double>(seven)).with_parameters(std::vector<double>(6)),
                  ShapeError);
  // Sizes whose product, or whose table, overflows.
  const Index big = std::numeric_limits<Index>::max();
  for (const Sizes& sizes :
       {Sizes{big}, Sizes{big / 2 + 1}, Sizes{Index{1} << 31}, Sizes{65536, 65536, 65536}, Sizes{40000, 40000}}) {
    CHECK_THROWS_AS(GridMask<float>(sizes, std::span<const double>(seven)), ValueError);
    CHECK_THROWS_AS(GridMask<float>(sizes, Exponential{}), ValueError);
  }
  CHECK_THROWS_AS(GridMask<float>({3, 3}, Exponential{}, Distance::offset), ValueError);
  CHECK_THROWS_AS(GridMask<float>({9}, FunctionTable{{1, 2, 3}}), ValueError);
  CHECK_THROWS_AS(GridMask<float>({5, 5}, FunctionTable{std::vector<double>(20, 1.0)}, Distance::l2), ValueError);
  CHECK_THROWS_AS(GridMask<float>({9}, Callable{[&](double d) { return d > 5 ? nan : 1.0; }}), ValueError);
  GridOptions options;
  options.engine = "sweep";
  CHECK_THROWS_AS((void)GridMask<float>({4}, std::span<const double>(seven), options).report({.columns = 1}), ValueError);
}

TEST_CASE("fft under kind pointwise says what its smallest entries lose; tiles lose nothing") {
  if (!has_fft()) return;
  const Index n = 400;
  for (const DistanceFunction& f : {DistanceFunction(Exponential{0.03}), DistanceFunction(Rational{.width = 200})}) {
    for (const char* engine : {"fft", "direct"}) {
      GridOptions options;
      options.engine = engine;
      options.tolerance_kind = ToleranceKind::pointwise;
      const GridMask<float> mask({n}, f, Distance::l1, options);
      std::vector<float> x(static_cast<std::size_t>(n * n), 0.0F), y(x.size());
      for (Index j = 0; j < n; ++j) x[static_cast<std::size_t>(j * n + j)] = 1;
      mask.multiply({x.data(), n, n}, {y.data(), n, n});
      double worst = 0;
      for (Index k = 0; k < n * n; ++k) {
        const double exact = f(static_cast<double>(std::abs(k / n - k % n)));
        worst = std::max(worst, std::abs(static_cast<double>(y[static_cast<std::size_t>(k)]) - exact) / exact);
      }
      const double estimate = mask.report({.columns = n}).rounding_estimate;
      CAPTURE(engine);
      CHECK(worst <= estimate);
      CHECK(estimate <= 100 * worst);
    }
  }
}

// Found by use: tile products of minutes said nothing of how far they were.
TEST_CASE("every engine tells how far a product and its gradients are") {
  for (const char* engine : {"direct", "fft"}) {
    if (engine == std::string("fft") && !has_fft()) continue;
    GridOptions options;
    options.engine = engine;
    const GridMask<float> mask({700}, Exponential{0.01, 1}, Distance::l1, options);
    const std::vector<float> x(700 * 40, 1.0F);
    std::vector<float> y(x), a_bar(700 * 3);
    const MatrixView<const float> xs(x.data(), 700, 40), features(x.data(), 700, 3);
    std::vector<double> seen;
    Progress progress;
    progress.callback = [&](std::string_view phase, double fraction) {
      CHECK(!phase.empty());
      seen.push_back(fraction);
    };
    const Context<Cpu> context{.threads = 1, .progress = &progress};
    const auto complete = [&](const auto& call) {
      seen.clear();
      call();
      return seen.size() > 1 && std::is_sorted(seen.begin(), seen.end()) && seen.front() > 0 && seen.back() == 1;
    };
    CAPTURE(engine);
    CHECK(complete([&] { mask.multiply(xs, {y.data(), 700, 40}, context); }));
    CHECK(complete([&] { mask.multiply_low_rank({features, features, xs}, {{y.data(), 700, 40}, {}}, context); }));
    CHECK(complete([&] {
      mask.multiply_low_rank_vjp({features, features, xs}, {xs, {}}, {{a_bar.data(), 700, 3}, {}, {}, {}}, context);
    }));
  }
}

namespace {

DenseMatrix normal_matrix(Index rows, Index cols, std::uint64_t seed) {
  return test::make_input<double>(rows, cols, test::InputKind::with_signs, seed).dense();
}

}  // namespace

// Columns travel through the FFT in pairs: one of them must not drown the other in its rounding, or in NaN.
TEST_CASE_TEMPLATE("fft: a column's error is relative to itself, whatever stands beside it", T, float, double) {
  const Index n = 301;
  GridOptions options;
  options.engine = "fft";
  const GridMask<T> mask({n}, Exponential{.rate = 0.02}, Distance::l1, options);
  const auto known = GridMask<T>({n}, Exponential{.rate = 0.02}).engines({.columns = 2});
  if (std::none_of(known.begin(), known.end(), [](const Report& r) { return r.engine == "fft"; })) return;
  const DenseMatrix m =
      test::dense_matrix(n, n, [](Index i, Index j) { return std::exp(-0.02 * std::abs(static_cast<double>(i - j))); });
  const double bound = sizeof(T) == 4 ? 1e-6 : 1e-14;
  const double far = sizeof(T) == 4 ? 1e30 : 1e300;
  for (const double size : {1.0, 3.0, 5.0, 1e6, 1e-6, far, 1 / far, 0.0}) {
    for (const Index columns : {Index{2}, Index{3}, Index{6}}) {
      const DenseMatrix unscaled = normal_matrix(n, columns, 7);
      std::vector<T> x(static_cast<std::size_t>(n * columns)), y(x.size());
      DenseMatrix exact_x(n, columns);
      for (Index i = 0; i < n; ++i) {
        for (Index c = 0; c < columns; ++c) {
          const T value = static_cast<T>(unscaled(i, c) * (c % 2 == 0 ? 1.0 : size));
          x[static_cast<std::size_t>(i * columns + c)] = value;
          exact_x(i, c) = static_cast<double>(value);
        }
      }
      const DenseMatrix exact = test::product(m, exact_x);
      mask.multiply({x.data(), n, columns}, {y.data(), n, columns});
      for (Index c = 0; c < columns; ++c) {
        double error = 0, norm = 0;  // of numbers that may not be squared
        for (Index i = 0; i < n; ++i) {
          error = std::max(error, std::abs(static_cast<double>(y[static_cast<std::size_t>(i * columns + c)]) - exact(i, c)));
          norm = std::max(norm, std::abs(exact(i, c)));
        }
        CHECK(error <= bound * norm);
      }
      // Both far from 1, on either side: their ratio may be no number of the type.
      for (Index c = 0; c < columns && size == far; ++c) {
        for (Index i = 0; i < n; ++i) {
          const auto at = static_cast<std::size_t>(i * columns + c);
          x[at] = static_cast<T>(unscaled(i, c) * (c % 2 == 0 ? 1 / far : far));
          exact_x(i, c) = static_cast<double>(x[at]);
        }
      }
      if (size == far) {
        const DenseMatrix apart = test::product(m, exact_x);
        mask.multiply({x.data(), n, columns}, {y.data(), n, columns});
        for (Index c = 0; c < columns; ++c) {
          double error = 0, norm = 0;
          for (Index i = 0; i < n; ++i) {
            error = std::max(error, std::abs(static_cast<double>(y[static_cast<std::size_t>(i * columns + c)]) - apart(i, c)));
            norm = std::max(norm, std::abs(apart(i, c)));
          }
          CHECK(error <= bound * norm);
        }
      }
      // A NaN in the first column leaves the second to the bit what it is beside a column of zeros.
      std::vector<T> zeros = x, spoilt = x, beside(x.size());
      for (Index i = 0; i < n; ++i) zeros[static_cast<std::size_t>(i * columns)] = T(0);
      spoilt[static_cast<std::size_t>(5 * columns)] = std::numeric_limits<T>::quiet_NaN();
      spoilt[static_cast<std::size_t>(9 * columns)] = std::numeric_limits<T>::infinity();
      mask.multiply({zeros.data(), n, columns}, {beside.data(), n, columns});
      mask.multiply({spoilt.data(), n, columns}, {y.data(), n, columns});
      for (Index i = 0; i < n; ++i) {
        CHECK(std::isnan(y[static_cast<std::size_t>(i * columns)]));
        for (Index c = 1; c < columns; ++c) {
          const auto at = static_cast<std::size_t>(i * columns + c);
          CHECK(y[at] == beside[at]);
        }
      }
    }
  }
}

// The same for features: values far from 1 beside the column of ones that row sums come from.
TEST_CASE("fft: row sums beside large or broken values are as good as alone") {
  const Index n = 300, m = 4;
  GridOptions options;
  options.engine = "fft";
  const GridMask<float> mask({n}, Exponential{.rate = 0.05}, Distance::l1, options);
  const auto known = GridMask<float>({n}, Exponential{.rate = 0.05}).engines({.columns = 1, .rank = m});
  if (std::none_of(known.begin(), known.end(), [](const Report& r) { return r.engine == "fft"; })) return;
  const DenseMatrix a = test::absolute(normal_matrix(n, m, 1)), b = test::absolute(normal_matrix(n, m, 2)),
                    v = normal_matrix(n, 1, 3);
  const std::vector<float> fa(a.values.begin(), a.values.end()), fb(b.values.begin(), b.values.end());
  const auto row_sums = [&](float size, bool broken) {
    std::vector<float> x(v.values.begin(), v.values.end()), y(x.size()), d(x.size());
    for (float& e : x) e *= size;
    if (broken) x[17] = std::numeric_limits<float>::quiet_NaN();
    mask.multiply_low_rank({{fa.data(), n, m}, {fb.data(), n, m}, {x.data(), n, 1}}, {{y.data(), n, 1}, {d.data(), n}});
    CHECK(std::isnan(y[0]) == broken);
    return d;
  };
  const std::vector<float> alone = row_sums(0, false);
  CHECK(row_sums(1, true) == alone);
  for (const float size : {1.0f, 1e6f, 1e20f}) {
    const std::vector<float> d = row_sums(size, false);
    for (std::size_t i = 0; i < d.size(); ++i) CHECK(d[i] == doctest::Approx(alone[i]).epsilon(3e-6));
  }
}
