// Far field on patches: the laws, certificates against M~ itself, grids of one to three axes, what is refused, threads.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include "support/mask_laws.hpp"
#include "support/true_errors.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

using namespace espalier;
using espalier::test::DenseMatrix;
using espalier::test::MaskCase;
using espalier::test::true_errors;
using espalier::test::TrueErrors;

namespace {

using Sizes = std::vector<Index>;

std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

GridOptions forced(double tolerance, ToleranceKind kind = ToleranceKind::row) {
  GridOptions options;
  options.engine = "far-field";
  options.tolerance = tolerance;
  options.tolerance_kind = kind;
  return options;
}

Index length_of(const Sizes& sizes) {
  Index n = 1;
  for (const Index s : sizes) n *= s;
  return n;
}

// Calls visit(position, offset) for every offset of a grid.
void for_each_offset(const Sizes& sizes, const std::function<void(Index, const std::vector<Index>&)>& visit) {
  std::vector<Index> o;
  for (const Index n : sizes) o.push_back(1 - n);
  Index count = 1;
  for (const Index n : sizes) count *= 2 * n - 1;
  for (Index p = 0; p < count; ++p) {
    visit(p, o);
    for (std::size_t t = sizes.size(); t-- > 0;) {
      if (++o[t] < sizes[t]) break;
      o[t] = 1 - sizes[t];
    }
  }
}

std::vector<double> table_of(const Sizes& sizes, const std::function<double(const std::vector<Index>&)>& f) {
  std::vector<double> table;
  for_each_offset(sizes, [&](Index, const std::vector<Index>& o) { table.push_back(f(o)); });
  return table;
}

// M_ij = table[i - j], worked out from coordinates.
DenseMatrix matrix_of(const Sizes& sizes, std::span<const double> table) {
  const Index n = length_of(sizes);
  return espalier::test::dense_matrix(n, n, [&](Index i, Index j) {
    Index p = 0, step = 1;
    for (std::size_t t = sizes.size(); t-- > 0;) {
      p += step * (i % sizes[t] - j % sizes[t] + sizes[t] - 1);
      step *= 2 * sizes[t] - 1;
      i /= sizes[t], j /= sizes[t];
    }
    return table[at(p)];
  });
}

double squared(const std::vector<Index>& o) {
  double s = 0;
  for (const Index v : o) s += static_cast<double>(v * v);
  return s;
}
double l2(const std::vector<Index>& o) {
  return std::sqrt(squared(o));
}
double l1(const std::vector<Index>& o) {
  double s = 0;
  for (const Index v : o) s += std::abs(static_cast<double>(v));
  return s;
}
// Not symmetric, of both signs.
double tilted(const std::vector<Index>& o) {
  return (std::cos(0.03 * static_cast<double>(o.back()) - 1) + 0.002 * static_cast<double>(o.front())) / (2 + 0.2 * l2(o));
}

template <class T>
MaskCase<T> function_case(const Sizes& sizes, const DistanceFunction& f, double tolerance, Distance distance = Distance::l2,
                          bool causal = false) {
  MaskCase<T> c;
  c.name = "far field, " + f.name() + (causal ? ", causal" : "");
  GridOptions options = forced(tolerance);
  options.causal = causal;
  c.mask = std::make_shared<GridMask<T>>(sizes, f, distance, options);
  c.reference = [=](std::span<const double> p) {
    const DistanceFunction g = f.with_parameters(p);
    DenseMatrix m = matrix_of(
        sizes, table_of(sizes, [&](const std::vector<Index>& o) { return g(distance == Distance::l1 ? l1(o) : l2(o)); }));
    for (Index i = 0; causal && i < m.rows; ++i) {
      for (Index j = i + 1; j < m.cols; ++j) m(i, j) = 0;
    }
    return m;
  };
  c.product_bound = tolerance + (sizeof(T) == 4 ? 1e-6 : 1e-12);
  return c;
}

// M~ by products with unit vectors; rank 0: plain ones.
template <class T>
DenseMatrix applied(const Mask<T>& mask, Index rank, bool transpose) {
  const Index n = mask.rows();
  std::vector<T> x(at(n * n), T(0)), y(x.size());
  for (Index j = 0; j < n; ++j) x[at(j * n + j)] = 1;
  const std::vector<T> ones(at(n), T(1));
  const MatrixView<const T> one(ones.data(), n, 1), in(x.data(), n, n);
  const MatrixView<T> out(y.data(), n, n);
  if (rank == 0) {
    transpose ? mask.multiply_transpose(in, out) : mask.multiply(in, out);
  } else {
    transpose ? mask.multiply_low_rank_transpose({one, one, in}, {out, {}}) : mask.multiply_low_rank({one, one, in}, {out, {}});
  }
  DenseMatrix m(n, n);
  m.values.assign(y.begin(), y.end());
  return m;
}

std::vector<double> noise(std::size_t count, std::uint64_t seed) {
  const Random random(seed);
  std::vector<double> v(count);
  for (std::size_t k = 0; k < count; ++k) v[k] = random.normal(k);
  return v;
}

}  // namespace

TEST_CASE_TEMPLATE("far field: the laws", T, float, double) {
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-8;
  espalier::test::check_mask_laws(function_case<T>({20, 9}, Rational{4, 1.5, 1}, tolerance));
  espalier::test::check_mask_laws(function_case<T>({211}, Gaussian{40, 0.9}, tolerance));
}

// Kinks along the axes, and raster order, are left to the tiles between level patches.
TEST_CASE("far field: the laws on kinked and on causal grids") {
  const auto kinked = function_case<double>({33, 21}, Rational{4, 1.5, 1}, 1e-8, Distance::l1);
  CHECK(kinked.mask->report({.columns = 8, .rank = 8}).reason.find("along the axes") != std::string::npos);
  espalier::test::check_mask_laws(kinked);
  espalier::test::check_mask_laws(function_case<float>({14, 12}, Gaussian{20}, 1e-6, Distance::l2, true));
  espalier::test::check_mask_laws(function_case<double>({130}, Rational{4}, 1e-8, Distance::l1, true));
}

TEST_CASE("far field: the laws on three axes, and with axes of size 1") {
  espalier::test::check_mask_laws(function_case<double>({5, 4, 11}, Rational{4}, 1e-8));
  espalier::test::check_mask_laws(function_case<double>({1, 12, 1, 10}, Exponential{0.1}, 1e-8));
}

TEST_CASE("far field: products on grids of several levels equal the dense ones") {
  const Random random(3);
  for (const Sizes& sizes : {Sizes{40, 90}, Sizes{1531}, Sizes{8, 40, 36}, Sizes{83, 37}}) {
    const Index n = length_of(sizes), m = 15, c = 33;
    const double tolerance = sizes.size() == 3 ? 1e-3 : 1e-5;
    for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::entry}) {
      const std::vector<double> table = table_of(sizes, tilted);
      const GridMask<float> mask(sizes, table, forced(tolerance, kind));
      std::vector<float> a(at(n * m)), b(at(n * m)), x(at(n * c)), y(at(n * c)), sums(at(n));
      for (std::size_t k = 0; k < a.size(); ++k) {
        a[k] = static_cast<float>(random.normal(2 * k)), b[k] = static_cast<float>(random.normal(2 * k + 1));
      }
      for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<float>(random.normal(1000000 + k));
      for (const bool transpose : {false, true}) {
        const LowRankInputs<float> in{{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}};
        const LowRankOutputs<float> out{{y.data(), n, c}, {sums.data(), n}};
        transpose ? mask.multiply_low_rank_transpose(in, out) : mask.multiply_low_rank(in, out);
        CAPTURE(n);
        CAPTURE(transpose);
        double error = 0, size = 0;
        for (Index i = 3; i < n; i += n / 17) {
          std::vector<double> exact(at(c), 0.0), magnitude(at(c), 0.0);
          double sum = 0, sum_size = 0;
          for (Index j = 0; j < n; ++j) {
            Index p = 0, step = 1, u = transpose ? j : i, v = transpose ? i : j;
            for (std::size_t t = sizes.size(); t-- > 0; u /= sizes[t], v /= sizes[t]) {
              p += step * (u % sizes[t] - v % sizes[t] + sizes[t] - 1);
              step *= 2 * sizes[t] - 1;
            }
            double w = 0;
            for (Index r = 0; r < m; ++r) w += double(a[at(i * m + r)]) * double(b[at(j * m + r)]);
            w *= table[at(p)];
            sum += w, sum_size += std::abs(w);
            for (Index k = 0; k < c; ++k) {
              exact[at(k)] += w * double(x[at(j * c + k)]);
              magnitude[at(k)] += std::abs(w * double(x[at(j * c + k)]));
            }
          }
          CHECK(std::abs(double(sums[at(i)]) - sum) <= (tolerance + 2e-6) * sum_size);
          for (Index k = 0; k < c; ++k) {
            error += std::pow(double(y[at(i * c + k)]) - exact[at(k)], 2);
            size += std::pow(magnitude[at(k)], 2);
          }
        }
        CHECK(std::sqrt(error) <= (tolerance + 2e-6) * std::sqrt(size));
      }
    }
  }
}

TEST_CASE("far field: certificates hold for M~ as it is applied, both ways, on random masks") {
  const Random random(41);
  std::vector<double> ratios;
  std::uint64_t draw = 0;
  for (int turn = 0; turn < 30; ++turn) {
    const Sizes sizes = turn % 3 == 0   ? Sizes{300 + static_cast<Index>(random.below(draw++, 500))}
                        : turn % 3 == 1 ? Sizes{14 + static_cast<Index>(random.below(draw++, 20)),
                                                14 + static_cast<Index>(random.below(draw++, 20))}
                                        : Sizes{6, 8, 12 + static_cast<Index>(random.below(draw++, 4))};
    // Sums of Gaussians about centres of their own: smooth, of both signs, not symmetric.
    struct Bump {
      std::vector<double> centre;
      double width, height;
    };
    std::vector<Bump> bumps;
    for (int k = 0; k < 4; ++k) {
      Bump b;
      double size = 0;
      for (const Index n : sizes) {
        b.centre.push_back((random.uniform(draw++) - 0.5) * static_cast<double>(n));
        size = std::max(size, static_cast<double>(n));
      }
      b.width = size * (0.4 + random.uniform(draw++));
      b.height = random.normal(draw++);
      bumps.push_back(b);
    }
    const std::vector<double> table = table_of(sizes, [&](const std::vector<Index>& o) {
      double v = 0;
      for (const Bump& b : bumps) {
        double s = 0;
        for (std::size_t t = 0; t < o.size(); ++t) s += std::pow((static_cast<double>(o[t]) - b.centre[t]) / b.width, 2);
        v += b.height * std::exp(-s);
      }
      return v;
    });
    const DenseMatrix exact = matrix_of(sizes, table);
    const DenseMatrix turned = espalier::test::transposed(exact);
    const double tolerance = turn % 2 == 0 ? 1e-4 : 1e-7;
    const ToleranceKind kind = turn % 4 < 2 ? ToleranceKind::row : ToleranceKind::entry;
    const GridMask<double> mask(sizes, table, forced(tolerance, kind));
    for (const Index rank : {0, 1}) {
      const Report report = mask.report({.columns = mask.rows(), .rank = rank});
      REQUIRE(report.certificate);
      const Certificate& c = *report.certificate;
      const double rounding = 1e-13;
      for (const bool transpose : {false, true}) {
        const TrueErrors e = true_errors(applied(mask, rank, transpose), transpose ? turned : exact);
        CAPTURE(turn);
        CAPTURE(rank);
        CAPTURE(transpose);
        CHECK(e.row <= *c.row + rounding);
        CHECK(e.entry <= *c.entry + rounding);
        if (c.pointwise) CHECK(e.pointwise <= *c.pointwise + 1e7 * rounding);
        if (e.row > 1e-12) ratios.push_back(*c.row / e.row);
      }
      CHECK((kind == ToleranceKind::row ? *c.row : *c.entry) <= tolerance);
    }
  }
  std::sort(ratios.begin(), ratios.end());
  CHECK(ratios[ratios.size() / 2] <= 20);
}

// Found by review: far entries are sums of larger terms, whose rounding certificate and estimate together did not cover.
TEST_CASE("far field in float, kind pointwise: certificate and rounding estimate bound every single entry") {
  const double eps = std::numeric_limits<float>::epsilon();
  int beyond = 0;
  const Sizes sizes{33, 40};
  for (const DistanceFunction& f : {DistanceFunction(Rational{.width = 16}), DistanceFunction(Gaussian{.width = 25}),
                                    DistanceFunction(Gaussian{.width = 35})}) {
    const DenseMatrix exact = matrix_of(sizes, table_of(sizes, [&](const std::vector<Index>& o) { return f(l2(o)); }));
    for (const double tolerance : {1e-3, 1e-5, 1e-6}) {
      const GridMask<float> mask(sizes, f, Distance::l2, forced(tolerance, ToleranceKind::pointwise));
      for (const Index rank : {0, 1}) {
        CAPTURE(tolerance);
        const Report report = mask.report({.columns = mask.rows(), .rank = rank});
        const double error = true_errors(applied(mask, rank, false), exact).pointwise;
        if (error > *report.certificate->pointwise + 8 * eps) ++beyond;
        CHECK(error <= *report.certificate->pointwise + report.rounding_estimate);
        CHECK(report.rounding_estimate <= 1e-4);
      }
    }
  }
  CHECK(beyond > 0);
}

TEST_CASE("far field: a refusal quotes the error of the kind that was asked for") {
  const auto refusal = [](ToleranceKind kind, double tolerance) {
    const GridMask<float> mask({64, 64}, Rational{.width = 16}, Distance::l2, forced(tolerance, kind));
    try {
      (void)mask.report({.columns = 8, .rank = 8});
    } catch (const ValueError& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  // Below the rounding of what is stored.
  CHECK(refusal(ToleranceKind::pointwise, 1e-8).find("its form has a pointwise error of ") != std::string::npos);
  CHECK(refusal(ToleranceKind::entry, 1e-8).find("its form has an entry error of ") != std::string::npos);
  CHECK(refusal(ToleranceKind::row, 1e-8).find("its form has a row error of ") != std::string::npos);
  CHECK(refusal(ToleranceKind::row, 1e-8).find(", above the tolerance 1e-08") != std::string::npos);
}

// The product with a column of ones, and how often its set-up told how far it is: once for every 16 offsets of patches.
struct SetUp {
  std::vector<double> y;
  Index told = 0;
};
SetUp set_up_of(const Mask<double>& mask) {
  SetUp r;
  Progress progress;
  progress.callback = [&](std::string_view phase, double) { r.told += phase == "far field set-up" ? 1 : 0; };
  const std::vector<double> x(at(mask.cols()), 1.0);
  r.y.resize(at(mask.rows()));
  mask.multiply({x.data(), mask.cols(), 1}, {r.y.data(), mask.rows(), 1}, {.threads = 1, .progress = &progress});
  return r;
}

TEST_CASE("far field: a step of training begins with the vectors before, and makes new ones where they do not do") {
  struct Step {
    DistanceFunction from, to;
    Distance distance;
    bool near;  // so near that the vectors do
  };
  const Sizes sizes{48, 56};
  const double tolerance = 1e-6;
  for (const Step& s : {Step{Rational{.width = 16}, Rational{.width = 16.1}, Distance::l2, true},
                        Step{Rational{.width = 16}, Rational{.width = 16.1}, Distance::l1, true},
                        Step{Rational{.width = 16}, Rational{.width = 3, .power = 3}, Distance::l2, false},
                        Step{Gaussian{.width = 60}, Gaussian{.width = 12}, Distance::l2, false}}) {
    CAPTURE(s.to.name());
    const GridMask<double> first(sizes, s.from, s.distance, forced(tolerance)),
        anew(sizes, s.to, s.distance, forced(tolerance));
    const SetUp before = set_up_of(first), fresh = set_up_of(anew);
    const auto step = first.with_parameters(s.to.parameters());
    const SetUp stepped = set_up_of(*step);
    if (s.near) {
      CHECK(4 * stepped.told < 3 * fresh.told);
    } else {
      CHECK(stepped.told > fresh.told);
    }
    // A third mask begins where the second did.
    CHECK(set_up_of(*step->with_parameters(s.to.parameters())).told < fresh.told);
    const Report report = step->report({.columns = 1});
    CHECK(*report.certificate->row <= tolerance);
    const DenseMatrix exact =
        matrix_of(sizes, table_of(sizes, [&](const std::vector<Index>& o) {
                    return s.to(s.distance == Distance::l2 ? l2(o) : std::abs(double(o[0])) + std::abs(double(o[1])));
                  }));
    CHECK(true_errors(applied(*step, 1, false), exact).row <= *report.certificate->row + 1e-13);
    // The old mask is untouched.
    CHECK(set_up_of(first).y == before.y);
  }
}

TEST_CASE("far field: a set-up that found no form is not made again by the next steps") {
  const Sizes sizes{20, 20, 20};
  GridOptions options;
  options.tolerance = 1e-6;
  const Shape shape{.columns = 256, .rank = 256};
  const GridMask<double> first(sizes, Rational{.width = 16}, Distance::l1, options);
  const std::vector<double> a(at(first.rows() * 256), 0.5), b(a);
  std::vector<double> y(a.size());
  // Whether the first product of a mask sets a far field up: stopped at the first word of its progress.
  const auto sets_up = [&](const Mask<double>& mask) {
    std::stop_source stop;
    std::string first_phase;
    Progress progress;
    progress.stop = stop.get_token();
    progress.callback = [&](std::string_view phase, double) {
      if (first_phase.empty()) first_phase = phase;
      stop.request_stop();
    };
    const MatrixView<const double> in(a.data(), mask.rows(), 256), other(b.data(), mask.rows(), 256);
    CHECK_THROWS_AS(
        mask.multiply_low_rank({in, other, other}, {{y.data(), mask.rows(), 256}, {}}, {.threads = 1, .progress = &progress}),
        Cancelled);
    return first_phase == "far field set-up";
  };
  CHECK(sets_up(first));
  // Stopped is not failed.
  std::shared_ptr<const Mask<double>> step = first.with_parameters(first.parameters());
  CHECK(sets_up(*step));
  for (const Report& r : first.engines(shape)) CHECK(r.engine != "far-field");
  step = first.with_parameters(first.parameters());
  CHECK_FALSE(sets_up(*step));
  for (int k = 1; k < 32; ++k) step = step->with_parameters(first.parameters());
  CHECK_FALSE(sets_up(*step));
  CHECK(sets_up(*step->with_parameters(first.parameters())));
}

// Keys of very different sizes: rows far from the large ones keep their digits, which an FFT's do not.
TEST_CASE("far field: row by row with keys of very different sizes") {
  const Sizes sizes{64, 48};
  const Index n = length_of(sizes);
  const Random random(12);
  GridOptions options = forced(1e-5, ToleranceKind::pointwise);
  const GridMask<float> mask(sizes, Rational{16}, Distance::l2, options);
  CHECK(mask.report({.columns = 1, .rank = 1}).row_wise);
  std::vector<float> one(at(n), 1.0f), keys(at(n)), y(at(n));
  for (Index j = 0; j < n; ++j) keys[at(j)] = static_cast<float>(std::exp(8 * random.normal(static_cast<std::uint64_t>(j))));
  const MatrixView<const float> ones(one.data(), n, 1);
  mask.multiply_low_rank({ones, {keys.data(), n, 1}, ones}, {{y.data(), n, 1}, {}});
  const std::vector<double> table = table_of(sizes, [](const std::vector<Index>& o) { return 1 / (1 + l2(o) / 16); });
  const DenseMatrix exact = matrix_of(sizes, table);
  for (Index i = 0; i < n; ++i) {
    double sum = 0;
    for (Index j = 0; j < n; ++j) sum += exact(i, j) * double(keys[at(j)]);
    CHECK(std::abs(double(y[at(i)]) - sum) <= 2e-5 * sum);
  }
}

TEST_CASE("far field on one axis serves what no sum of exponentials fits") {
  const Index n = 2000;
  // A chirp: the frequency grows along the sequence.
  const std::vector<double> chirp = table_of({n}, [](const std::vector<Index>& o) {
    const double d = std::abs(static_cast<double>(o[0]));
    return std::cos(d * d / 40000) / (1 + d / 100);
  });
  const GridMask<double> mask({n}, chirp, forced(1e-8));
  const Report report = mask.report({.columns = 16, .rank = 16});
  CHECK(*report.certificate->row <= 1e-8);
  const DenseMatrix got = applied(mask, 1, false), exact = matrix_of({n}, chirp);
  CHECK(true_errors(got, exact).row <= 1e-8);
  // And agrees with exponentials where both serve.
  const DistanceFunction f(Rational{16});
  GridOptions by_exponentials = forced(1e-8);
  by_exponentials.engine = "exponentials";
  const DenseMatrix p = applied(GridMask<double>({n}, f, Distance::l1, forced(1e-8)), 1, false);
  const DenseMatrix q = applied(GridMask<double>({n}, f, Distance::l1, by_exponentials), 1, false);
  CHECK(true_errors(p, q).row <= 2.1e-8);
}

TEST_CASE_TEMPLATE("far field: the same bits for any number of threads", T, float, double) {
  const Sizes sizes{70, 45};
  const Index n = length_of(sizes), m = 17, c = 20;
  const Random random(5);
  std::vector<T> a, b, x;
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * m); ++k) {
    a.push_back(static_cast<T>(random.uniform(2 * k))), b.push_back(static_cast<T>(random.uniform(2 * k + 1)));
  }
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * c); ++k) x.push_back(static_cast<T>(random.normal(900000 + k)));
  const GridMask<T> mask(sizes, Gaussian{30}, Distance::l2, forced(1e-5));
  struct Outputs {
    std::vector<T> y, sums, a_bar, b_bar, x_bar;
    bool operator==(const Outputs&) const = default;
  };
  const auto run = [&](int threads) {
    Outputs o{std::vector<T>(x.size()), std::vector<T>(at(n)), a, b, x};
    const Context<Cpu> context{.threads = threads};
    const LowRankInputs<T> in{{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}};
    mask.multiply_low_rank(in, {{o.y.data(), n, c}, {o.sums.data(), n}}, context);
    mask.multiply_low_rank_vjp(in, {{o.y.data(), n, c}, {o.sums.data(), n}},
                               {{o.a_bar.data(), n, m}, {o.b_bar.data(), n, m}, {o.x_bar.data(), n, c}, {}}, context);
    return o;
  };
  const Outputs once = run(1);
  CHECK(once == run(1));
  CHECK(once == run(2));
  CHECK(once == run(3));
}

TEST_CASE("far field: scratch memory changes panels, not what they add up to") {
  const Sizes sizes{60, 64};
  const Index n = length_of(sizes), m = 40, c = 24;
  const std::vector<double> a = noise(at(n * m), 1), b = noise(at(n * m), 2), x = noise(at(n * c), 3);
  const GridMask<double> mask(sizes, Rational{16}, Distance::l2, forced(1e-8));
  std::vector<double> y(x.size()), z(x.size());
  const LowRankInputs<double> in{{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}};
  mask.multiply_low_rank(in, {{y.data(), n, c}, {}});
  mask.multiply_low_rank(in, {{z.data(), n, c}, {}}, {.scratch_bytes = 1 << 16});
  double largest = 0, difference = 0;
  for (std::size_t k = 0; k < y.size(); ++k) {
    largest = std::max(largest, std::abs(y[k]));
    difference = std::max(difference, std::abs(y[k] - z[k]));
  }
  CHECK(difference <= 1e-11 * largest);
}

TEST_CASE("far field: attention with heads and batches") {
  const Sizes sizes{20, 24};
  const Index n = length_of(sizes), heads = 2, batch = 2, d = 6;
  std::vector<double> q = noise(at(batch * heads * n * d), 1), k = noise(q.size(), 2);
  const std::vector<double> v = noise(q.size(), 3);
  for (auto* array : {&q, &k}) {
    for (double& value : *array) value = std::abs(value);
  }
  const auto out = [&](const std::string& engine) {
    std::vector<MaskPointer<double>> masks;
    for (const double scale : {4.0, 16.0}) {
      GridOptions options = forced(1e-9);
      options.engine = engine;
      masks.push_back(std::make_shared<GridMask<double>>(sizes, Rational{scale}, Distance::l2, options));
    }
    std::vector<double> y(q.size());
    const auto tensor = [&](const std::vector<double>& t) { return TensorView<const double>(t.data(), batch, heads, n, d); };
    masked_linear_attention(tensor(q), tensor(k), tensor(v), HeadMasks<double>(masks),
                            TensorView<double>(y.data(), batch, heads, n, d));
    return y;
  };
  const std::vector<double> exact = out("direct"), got = out("far-field");
  for (std::size_t i = 0; i < exact.size(); ++i) REQUIRE(std::abs(got[i] - exact[i]) <= 1e-7);
}

TEST_CASE("far field: what is refused, and why") {
  const auto reason = [](const GridMask<float>& mask, const char* text) {
    CHECK_THROWS_WITH_AS((void)mask.report({.columns = 64, .rank = 64}), doctest::Contains(text), ValueError);
  };
  reason(GridMask<float>({100, 100}, noise(at(199 * 199), 7), forced(1e-5)), "change from point to point");
  reason(GridMask<float>({4000}, noise(7999, 8), forced(1e-5)), "change from point to point");
  reason(GridMask<float>({5, 7}, Rational{4}, Distance::l2, forced(1e-5)), "no two patches of the grid are apart");
  reason(GridMask<float>({4, 4, 4, 40}, Rational{4}, Distance::l2, forced(1e-5)), "more than three axes");
  reason(GridMask<float>({64, 64}, Rational{4}, Distance::l2, forced(0)), "exact");
}

TEST_CASE("far field: the planner") {
  const Shape shape{.columns = 64, .rank = 64};
  // Large and smooth: the far field. Small or rough: not.
  CHECK(GridMask<float>({256, 256}, Rational{16}, Distance::l2).report(shape).engine == "far-field");
  CHECK(GridMask<float>({32, 32}, Rational{16}, Distance::l2).report(shape).engine == "direct");
  // Not where finding out would cost more than the product by tiles.
  for (const Report& r : GridMask<float>({64, 64}, Rational{16}, Distance::l2).engines({.columns = 16, .rank = 16})) {
    CHECK(r.engine != "far-field");
  }
  const auto random = GridMask<float>({256, 256}, noise(at(511 * 511), 9));
  for (const Report& r : random.engines(shape)) CHECK(r.engine != "far-field");
}
