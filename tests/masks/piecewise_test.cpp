// Masks on one axis made of pieces of one value each (T5's buckets, stairs, flat windows): the laws, rows against a slow loop,
// gradients by bucket, memory bounds, what is refused.
// SPDX-License-Identifier: Apache-2.0
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
using espalier::test::MaskCase;

namespace {

// T5's bucket of one side's distance as its code has it: half of the buckets for one distance each, the rest by logarithm.
Index t5_bucket(Index distance, Index buckets, double furthest) {
  const Index exact = buckets / 2;
  if (distance < exact) return distance;
  const double e = static_cast<double>(exact);
  const double place =
      std::log(static_cast<double>(distance) / e) / std::log(furthest / e) * static_cast<double>(buckets - exact);
  return std::min(buckets - 1, exact + static_cast<Index>(place + 1e-9));
}

// Bidirectional T5: `buckets` of them, half for keys after the query, as pieces of the signed offset i - j.
PiecewiseConstant t5_offsets(Index length, Index buckets, double furthest) {
  PiecewiseConstant f;
  Index last = -1;
  const Random random(17);
  for (Index o = 1 - length; o < length; ++o) {
    const Index bucket = o >= 0 ? t5_bucket(o, buckets / 2, furthest) : buckets / 2 + t5_bucket(-o, buckets / 2, furthest);
    if (bucket == last) continue;
    if (last >= 0) f.breakpoints.push_back(static_cast<double>(o) - 0.5);
    f.values.push_back(std::exp(random.normal(static_cast<std::uint64_t>(bucket))));
    last = bucket;
  }
  return f;
}

PiecewiseConstant t5_distances(Index buckets, double furthest) {
  std::vector<double> values;
  const Random random(18);
  for (Index k = 0; k < buckets; ++k) values.push_back(random.normal(static_cast<std::uint64_t>(k)));
  return logarithmic_buckets(values, furthest);
}

// Steps at these distances; the values' signs and sizes vary, every fifth is 0.
PiecewiseConstant stairs(std::vector<double> breakpoints, std::uint64_t seed) {
  PiecewiseConstant f;
  const Random random(seed);
  f.breakpoints = std::move(breakpoints);
  for (std::size_t k = 0; k <= f.breakpoints.size(); ++k) f.values.push_back(k % 5 == 3 ? 0.0 : random.normal(k));
  return f;
}

PiecewiseConstant random_stairs(Index length, Index steps, bool signed_offsets, std::uint64_t seed) {
  const Random random(seed);
  std::vector<double> at;
  for (Index k = 0; k < steps; ++k) {
    const double u = random.uniform(static_cast<std::uint64_t>(k));
    at.push_back(std::floor((signed_offsets ? 2 * u - 1 : u) * static_cast<double>(length - 1)) + 0.5);
  }
  std::sort(at.begin(), at.end());
  at.erase(std::unique(at.begin(), at.end()), at.end());
  return stairs(std::move(at), seed + 1);
}

GridOptions forced(bool causal = false) {
  GridOptions options;
  options.engine = "piecewise";
  options.tolerance = 0;  // nothing is approximated
  options.causal = causal;
  return options;
}

struct Named {
  std::string name;
  DistanceFunction f;
  Distance distance;
  Index length;
  bool causal;
};

double entry(const Named& named, Index i, Index j) {
  if (named.causal && j > i) return 0;
  return named.f(named.distance == Distance::offset ? static_cast<double>(i - j) : std::abs(static_cast<double>(i - j)));
}

template <class T>
void laws(const Named& named) {
  MaskCase<T> c;
  c.name = named.name + " " + std::to_string(named.length) + (named.causal ? " causal" : "");
  c.mask = std::make_shared<GridMask<T>>(std::vector<Index>{named.length}, named.f, named.distance, forced(named.causal));
  c.reference = [=](std::span<const double> p) {
    Named moved = named;
    if (!p.empty()) moved.f = named.f.with_parameters(p);
    return espalier::test::dense_matrix(named.length, named.length, [&](Index i, Index j) { return entry(moved, i, j); });
  };
  espalier::test::check_mask_laws(c);
}

// Operands of a masked product with cotangents.
template <class T>
struct Operands {
  Index n, m, c;
  std::vector<T> a, b, x, y_bar, r_bar;

  Operands(Index length, Index features, Index columns, std::uint64_t seed) : n(length), m(features), c(columns) {
    const Random random(seed);
    const auto draw = [&](Index size, std::uint64_t from, std::vector<T>& to) {
      for (Index k = 0; k < size; ++k) to.push_back(static_cast<T>(random.normal(from + static_cast<std::uint64_t>(k))));
    };
    draw(n * m, 0, a), draw(n * m, 1u << 24, b), draw(n * c, 2u << 24, x), draw(n * c, 3u << 24, y_bar),
        draw(n, 4u << 24, r_bar);
  }
  LowRankInputs<T, Cpu> inputs() const { return {{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}}; }
};

template <class T>
struct Outputs {
  std::vector<T> y, sums, transposed, plain, a_bar, b_bar, x_bar, p;
  bool operator==(const Outputs&) const = default;
};

template <class T>
Outputs<T> run(const Mask<T>& mask, const Operands<T>& o, const Context<Cpu>& context = {}) {
  Outputs<T> r;
  r.y.resize(o.x.size()), r.transposed = r.plain = r.x_bar = r.y;
  r.a_bar.resize(o.a.size()), r.b_bar = r.a_bar;
  r.sums.resize(static_cast<std::size_t>(o.n));
  r.p.resize(mask.parameters().size());
  const auto values = [&](std::vector<T>& v) { return MatrixView<T>(v.data(), o.n, o.c); };
  mask.multiply_low_rank(o.inputs(), {values(r.y), {r.sums.data(), o.n}}, context);
  mask.multiply_low_rank_transpose(o.inputs(), {values(r.transposed), {}}, context);
  mask.multiply({o.x.data(), o.n, o.c}, values(r.plain), context);
  mask.multiply_low_rank_vjp(
      o.inputs(), {{o.y_bar.data(), o.n, o.c}, {o.r_bar.data(), o.n}},
      {{r.a_bar.data(), o.n, o.m}, {r.b_bar.data(), o.n, o.m}, values(r.x_bar), {r.p.data(), static_cast<Index>(r.p.size())}},
      context);
  return r;
}

template <class T>
double difference(const std::vector<T>& got, const std::vector<T>& expected) {
  double largest = 0, error = 0;
  for (std::size_t k = 0; k < expected.size(); ++k) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[k])));
    error = std::max(error, std::abs(static_cast<double>(got[k]) - static_cast<double>(expected[k])));
  }
  return largest > 0 ? error / largest : error;
}

// ||error|| / || |M o A B^T| |X| || of the worst of some rows, and of the rows' sums.
template <class T>
double worst_row(const Named& named, const Operands<T>& o, const Outputs<T>& got, Index rows) {
  double worst = 0;
  for (Index r = 0; r < rows; ++r) {
    const Index i = (o.n - 1) * r / std::max<Index>(1, rows - 1);
    std::vector<long double> y(static_cast<std::size_t>(o.c + 1), 0), size(y);
    for (Index j = 0; j < o.n; ++j) {
      const double m = entry(named, i, j);
      if (m == 0) continue;
      long double s = 0;
      for (Index k = 0; k < o.m; ++k) {
        s += static_cast<long double>(o.a[std::size_t(i * o.m + k)]) * static_cast<long double>(o.b[std::size_t(j * o.m + k)]);
      }
      for (Index c = 0; c <= o.c; ++c) {
        const long double t = c < o.c ? s * m * static_cast<long double>(o.x[std::size_t(j * o.c + c)]) : s * m;
        y[std::size_t(c)] += t, size[std::size_t(c)] += std::abs(t);
      }
    }
    long double error = 0, norm = 0;
    for (Index c = 0; c < o.c; ++c) {
      error += std::pow(y[std::size_t(c)] - static_cast<long double>(got.y[std::size_t(i * o.c + c)]), 2);
      norm += size[std::size_t(c)] * size[std::size_t(c)];
    }
    if (norm > 0) worst = std::max(worst, static_cast<double>(std::sqrt(error / norm)));
    if (norm == 0) CHECK(error == 0);
    const long double sum = size[std::size_t(o.c)];
    const long double off = std::abs(y[std::size_t(o.c)] - static_cast<long double>(got.sums[std::size_t(i)]));
    if (sum > 0) worst = std::max(worst, static_cast<double>(off / sum));
  }
  return worst;
}

std::vector<Named> long_masks() {
  return {{"T5 causal", t5_distances(32, 2000), Distance::l1, 4099, true},
          {"T5 bidirectional", t5_offsets(3001, 32, 1500), Distance::offset, 3001, false},
          {"stairs", random_stairs(2500, 9, false, 3), Distance::l1, 2500, false},
          {"stairs, sides apart", random_stairs(2777, 14, true, 5), Distance::offset, 2777, false},
          {"one window", PiecewiseConstant{{900.5}, {0.7, 0}}, Distance::l1, 2048, false},
          {"far pieces only", PiecewiseConstant{{700, 1500}, {0, 1, 0}}, Distance::l1, 2048, true}};
}

}  // namespace

TEST_CASE_TEMPLATE("piecewise: the laws", T, float, double) {
  laws<T>({"T5", t5_distances(16, 100), Distance::l1, 263, true});
  laws<T>({"T5 both ways", t5_offsets(263, 16, 100), Distance::offset, 263, false});
  laws<T>({"stairs", stairs({63, 64, 65, 127.5, 130, 131}, 7), Distance::l1, 200, false});
}

TEST_CASE("piecewise: the laws with steps on, before and after the borders of chunks") {
  for (const double at : {1.0, 31.0, 32.0, 33.0, 63.0, 64.0, 65.0, 66.0, 95.0, 127.0, 128.0, 129.0}) {
    laws<double>({"step at " + std::to_string(at), PiecewiseConstant{{at}, {1.5, -0.5}}, Distance::l1, 150, at == 64});
  }
}

// By unit vectors: one entry in the corner of a tile is enough to fail.
TEST_CASE("piecewise: every entry, with steps around all borders of chunks") {
  std::string chunks;
  for (const Index n : {Index{150}, Index{389}}) {
    std::vector<double> x(static_cast<std::size_t>(n * n), 0.0), y(x.size()), plain(x.size());
    for (Index j = 0; j < n; ++j) x[static_cast<std::size_t>(j * n + j)] = 1;
    const std::vector<double> ones(static_cast<std::size_t>(n), 1.0);
    const MatrixView<const double> one(ones.data(), n, 1);
    for (const Index border : {32, 64, 96, 128, 192, 256}) {
      for (Index d = border - 3; d <= border + 3; ++d) {
        for (const bool more : {false, true}) {
          PiecewiseConstant f{{static_cast<double>(d)}, {1.5, -0.5}};
          // Further steps in one chunk, which make wider ones cheaper.
          for (Index k = 2; more && k < 24; k += 2)
            f.breakpoints.push_back(static_cast<double>(d + k)), f.values.push_back(0.1);
          for (std::size_t k = 2; k < f.values.size(); ++k) f.values[k] = static_cast<double>(k);
          const Named named{"steps", f, Distance::l1, n, d % 2 == 0};
          const GridMask<double> mask({n}, named.f, Distance::l1, forced(named.causal));
          const std::string reason = mask.report({.columns = n, .rank = 1}).reason;
          chunks += reason.substr(reason.find("a chunk of"), 14);
          mask.multiply_low_rank({one, one, {x.data(), n, n}}, {{y.data(), n, n}, {}});
          mask.multiply({x.data(), n, n}, {plain.data(), n, n});
          bool same = true, same_plain = true;
          for (Index i = 0; i < n; ++i) {
            for (Index j = 0; j < n; ++j) {
              const double m = entry(named, i, j);
              same = same && y[std::size_t(i * n + j)] == m;
              same_plain = same_plain && plain[std::size_t(i * n + j)] == m;
            }
          }
          CAPTURE(d);
          CAPTURE(more);
          CHECK(same);
          CHECK(same_plain);
        }
      }
    }
  }
  for (const char* chunk : {"chunk of 32", "chunk of 64", "chunk of 128"}) CHECK(chunks.find(chunk) != std::string::npos);
}

TEST_CASE("piecewise: the laws on short sequences") {
  for (const Index n : {2, 3, 7, 31, 32, 33, 61, 64, 65, 127, 129}) {
    laws<double>({"short", t5_distances(8, 40), Distance::l1, n, n % 2 == 1});
  }
}

TEST_CASE_TEMPLATE("piecewise: rows, columns and gradients of longer sequences", T, float, double) {
  for (const Named& named : long_masks()) {
    CAPTURE(named.name);
    const Operands<T> o(named.length, 7, 5, 11);
    GridOptions direct = forced(named.causal);
    direct.engine = "direct";
    const GridMask<T> mask({named.length}, named.f, named.distance, forced(named.causal));
    const GridMask<T> tiles({named.length}, named.f, named.distance, direct);
    const Outputs<T> got = run<T>(mask, o), expected = run<T>(tiles, o);
    const double rounding = sizeof(T) == 4 ? 1e-6 : 1e-12;
    CHECK(worst_row(named, o, got, 60) <= rounding);
    // Sums of either sign: what is compared is a few digits above the rounding of terms.
    const double close = sizeof(T) == 4 ? 2e-5 : 2e-12;
    CHECK(difference(got.transposed, expected.transposed) <= close);
    CHECK(difference(got.plain, expected.plain) <= close);
    CHECK(difference(got.a_bar, expected.a_bar) <= close);
    CHECK(difference(got.b_bar, expected.b_bar) <= close);
    CHECK(difference(got.x_bar, expected.x_bar) <= close);
    CHECK(difference(got.p, expected.p) <= close);
  }
}

TEST_CASE_TEMPLATE("piecewise: the same bits for any number of threads; feature panels in little memory", T, float, double) {
  for (const Named& named : long_masks()) {
    CAPTURE(named.name);
    const Operands<T> o(named.length, 9, 20, 13);
    const GridMask<T> mask({named.length}, named.f, named.distance, forced(named.causal));
    const Outputs<T> once = run<T>(mask, o, {.threads = 1});
    CHECK(once == run<T>(mask, o, {.threads = 1}));
    CHECK(once == run<T>(mask, o, {.threads = 3}));
    for (const std::size_t scratch : {std::size_t{1}, std::size_t{400} << 10}) {
      const Outputs<T> little = run<T>(mask, o, {.threads = 1, .scratch_bytes = scratch});
      CHECK(little == run<T>(mask, o, {.threads = 2, .scratch_bytes = scratch}));
      const double close = sizeof(T) == 4 ? 2e-5 : 2e-12;
      CHECK(difference(little.y, once.y) <= close);
      CHECK(difference(little.sums, once.sums) <= close);
      CHECK(difference(little.a_bar, once.a_bar) <= close);
      CHECK(difference(little.b_bar, once.b_bar) <= close);
      CHECK(difference(little.x_bar, once.x_bar) <= close);
      CHECK(difference(little.p, once.p) <= close);
    }
  }
}

// Long axes beside short windows are cut into stretches; the last window has no end, or there is none such.
TEST_CASE_TEMPLATE("piecewise: plain products in stretches, rows against a slow loop, bits for any number of threads", T, float,
                   double) {
  const Index n = 21037;
  const std::vector<Named> masks = {{"T5", t5_offsets(n, 32, 128), Distance::offset, n, false},
                                    {"T5, causal", t5_distances(16, 300), Distance::l1, n, true},
                                    {"ends", PiecewiseConstant{{3, 90, 400}, {1.5, -0.5, 2, 0}}, Distance::l1, n, false}};
  for (const Named& named : masks) {
    CAPTURE(named.name);
    const GridMask<T> mask({n}, named.f, named.distance, forced(named.causal));
    const Random random(63);
    for (const Index c : {1, 5, 70}) {
      CAPTURE(c);
      std::vector<T> x(static_cast<std::size_t>(n * c)), y(x.size()), again(x.size());
      for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<T>(random.normal(k));
      for (const bool transpose : {false, true}) {
        const auto product = [&](std::vector<T>& to, int threads) {
          const MatrixView<const T> from(x.data(), n, c);
          const Context<Cpu> context{.threads = threads};
          transpose ? mask.multiply_transpose(from, {to.data(), n, c}, context)
                    : mask.multiply(from, {to.data(), n, c}, context);
        };
        product(y, 1);
        for (const int threads : {2, 3, 16}) {
          std::fill(again.begin(), again.end(), T(0));
          product(again, threads);
          CHECK(y == again);
        }
        double worst = 0;
        for (Index i = 0; i<n; i += i % 4096> 4000 || i % 4096 < 90 ? 31 : 997) {
          double exact = 0, size = 0;
          const Index k = i % c;
          for (Index j = 0; j < n; ++j) {
            const double v =
                (transpose ? entry(named, j, i) : entry(named, i, j)) * static_cast<double>(x[std::size_t(j * c + k)]);
            exact += v, size += std::abs(v);
          }
          worst = std::max(worst, std::abs(static_cast<double>(y[std::size_t(i * c + k)]) - exact) / size);
        }
        CHECK(worst <= (sizeof(T) == 4 ? 1e-6 : 1e-12));
      }
    }
  }
}

// Differences of running sums would lose every row that sees small keys only.
TEST_CASE("piecewise in float: keys of wildly different size, row by row") {
  for (const bool causal : {false, true}) {
    const Named named{"T5", logarithmic_buckets(std::vector<double>(32, 1.0), 4000), Distance::l1, 8192, causal};
    std::vector<double> values(32);
    for (std::size_t k = 0; k < values.size(); ++k) values[k] = k % 3 == 2 ? 0 : 1 / (1.0 + static_cast<double>(k));
    const Named weighted{"T5", named.f.with_parameters(values), Distance::l1, 8192, causal};
    Operands<float> o(8192, 4, 3, 21);
    const Random random(22);
    for (float& v : o.a) v = std::abs(v);
    for (Index j = 0; j < o.n; ++j) {
      const double size = std::exp(8 * random.normal(static_cast<std::uint64_t>(j)) - 20);
      for (Index k = 0; k < o.m; ++k)
        o.b[std::size_t(j * o.m + k)] = static_cast<float>(std::abs(o.b[std::size_t(j * o.m + k)]) * size);
    }
    const GridMask<float> mask({8192}, weighted.f, Distance::l1, forced(causal));
    Outputs<float> got;
    got.y.resize(o.x.size()), got.sums.resize(8192);
    mask.multiply_low_rank(o.inputs(), {{got.y.data(), o.n, o.c}, {got.sums.data(), o.n}});
    CHECK(worst_row(weighted, o, got, 200) <= 1e-6);
  }
}

// Constant input is the worst for a running sum: every step rounds the same way.
TEST_CASE("piecewise in float: long windows do not drift") {
  const Index n = Index{1} << 17;
  const GridMask<float> mask({n}, PiecewiseConstant{{60000.5}, {1, 0.25}}, Distance::l1, forced(true));
  std::vector<float> one(static_cast<std::size_t>(n), 1.0f), x(one.size(), 0.3f), y(one.size()), plain(one.size());
  const MatrixView<const float> ones(one.data(), n, 1);
  mask.multiply_low_rank({ones, ones, {x.data(), n, 1}}, {{y.data(), n, 1}, {}});
  mask.multiply({x.data(), n, 1}, {plain.data(), n, 1});
  double worst = 0, worst_plain = 0;
  for (Index i = 0; i < n; ++i) {
    const double near = static_cast<double>(std::min<Index>(i + 1, 60001)),
                 far = static_cast<double>(std::max<Index>(0, i - 60000));
    const double exact = static_cast<double>(0.3f) * (near + 0.25 * far);
    worst = std::max(worst, std::abs(static_cast<double>(y[std::size_t(i)]) - exact) / exact);
    worst_plain = std::max(worst_plain, std::abs(static_cast<double>(plain[std::size_t(i)]) - exact) / exact);
  }
  CHECK(worst <= 1e-6);
  CHECK(worst_plain <= 1e-6);
}

TEST_CASE("piecewise: tables and callables are recognised by their values, chosen where they are cheapest") {
  const Index n = 8192;
  const DistanceFunction f = t5_distances(32, 4000);
  std::vector<double> table;
  for (Index o = 1 - n; o < n; ++o) table.push_back(f(std::abs(static_cast<double>(o))));
  const Callable plain{[f](double d) { return f(d); }, "T5"};
  const Shape shape{.columns = 64, .rank = 64};
  const GridMask<float> by_function({n}, f, Distance::l1), by_callable({n}, plain, Distance::l1), by_table({n}, table);
  for (const GridMask<float>* mask : {&by_function, &by_callable, &by_table}) {
    const Report report = mask->report(shape);
    CHECK(report.engine == "piecewise");
    CHECK(report.terms == by_function.report(shape).terms);
    CHECK(report.row_wise);
    CHECK_FALSE(report.certificate);
    CHECK(report.extra_bytes > 0);
    CHECK(report.extra_bytes < 64u << 20);
    CHECK(report.reason.find("exact tiles a chunk of") != std::string::npos);
  }
  // 32 buckets below the diagonal, its own among them, and 31 above.
  CHECK(by_function.report(shape).terms == 63);
  // A free table's gradient goes by offset; the function's is its sum over the offsets of a bucket.
  const Operands<double> o(n, 2, 2, 31);
  const GridMask<double> exact_table({n}, table, forced()), exact_function({n}, f, Distance::l1, forced());
  const auto gradient = [&](const Mask<double>& mask) {
    std::vector<double> p(mask.parameters().size());
    mask.multiply_low_rank_vjp(o.inputs(), {{o.y_bar.data(), n, 2}, {o.r_bar.data(), n}},
                               {{}, {}, {}, {p.data(), static_cast<Index>(p.size())}});
    return p;
  };
  const std::vector<double> by_offset = gradient(exact_table);
  std::vector<double> folded(32, 0.0);
  const auto pieces = f.constant_pieces()->breakpoints;
  for (Index off = 1 - n; off < n; ++off) {
    const auto d = std::abs(static_cast<double>(off));
    folded[std::size_t(std::upper_bound(pieces.begin(), pieces.end(), d) - pieces.begin())] +=
        by_offset[std::size_t(off + n - 1)];
  }
  CHECK(difference(gradient(exact_function), folded) <= 1e-9);
}

TEST_CASE("piecewise: values and causality after a step of training") {
  const Index n = 1500;
  const DistanceFunction f = t5_distances(16, 700);
  const GridMask<double> before({n}, f, Distance::l1, forced(true));
  std::vector<double> moved(f.parameters().begin(), f.parameters().end());
  for (std::size_t k = 0; k < moved.size(); ++k) moved[k] += 0.1 * static_cast<double>(k);
  const auto after = before.with_parameters(moved);
  const Operands<double> o(n, 3, 2, 41);
  const GridMask<double> anew({n}, f.with_parameters(moved), Distance::l1, forced(true));
  CHECK(run<double>(*after, o) == run<double>(anew, o));
}

TEST_CASE("piecewise: what is refused, and why") {
  const Index n = 2000;
  const Random random(7);
  std::vector<double> noise(static_cast<std::size_t>(2 * n - 1));
  for (std::size_t k = 0; k < noise.size(); ++k) noise[k] = random.normal(k);
  const Shape shape{.columns = 64, .rank = 64};
  const GridMask<float> rough({n}, noise, forced());
  for (const Shape s : {shape, Shape{.columns = 8}}) {
    CHECK_THROWS_WITH_AS((void)rough.report(s),
                         doctest::Contains("engine 'piecewise' cannot serve this mask: more than 516 pieces on one side"),
                         ValueError);
  }
  const GridMask<float> smooth({n}, Exponential{0.01}, Distance::l1, forced());
  CHECK_THROWS_WITH_AS((void)smooth.report(shape), doctest::Contains("pieces on one side"), ValueError);
  const GridMask<float> automatic({n}, noise);
  for (const Report& r : automatic.engines(shape)) CHECK(r.engine != "piecewise");
  // Two axes: nothing to chunk.
  const GridMask<float> grid({40, 50}, PiecewiseConstant{{9}, {1, 2}}, Distance::l1, forced());
  CHECK_THROWS_AS((void)grid.report(shape), ValueError);
}
