// Masks on one axis by exponentials between chunks and by bands: the laws, certificates against M~ itself, what is refused.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include "support/mask_laws.hpp"
#include "support/true_errors.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <set>
#include <string>

using namespace espalier;
using espalier::test::DenseMatrix;
using espalier::test::MaskCase;
using espalier::test::true_errors;
using espalier::test::TrueErrors;

namespace {

struct Named {
  std::string name;
  DistanceFunction f;
};

std::vector<Named> smooth_functions() {
  return {{"exponential", Exponential{1 / 20.0}},
          {"damped cosine", DampedCosine{1 / 5.0, 1 / 40.0}},
          {"rational", Rational{4}},
          {"Gaussian", Gaussian{30}},
          {"stretched", StretchedExponential{9, 0.5}},
          {"linear times exponential", PolynomialExponential{0.02, {1, 0.05}}}};
}

template <class T>
GridOptions forced(const std::string& engine, double tolerance, bool causal = false) {
  GridOptions options;
  options.engine = engine;
  options.tolerance = tolerance;
  options.causal = causal;
  return options;
}

// Room for the certificate beside rounding.
template <class T>
double bound(double tolerance) {
  return tolerance + (sizeof(T) == 4 ? 1e-6 : 1e-12);
}

template <class T>
MaskCase<T> sequence_case(const std::string& name, const DistanceFunction& f, Distance distance, Index n, bool causal,
                          const std::string& engine, double tolerance) {
  MaskCase<T> c;
  c.name = name + " " + engine + " " + std::to_string(n) + (causal ? " causal" : "");
  c.mask = std::make_shared<GridMask<T>>(std::vector<Index>{n}, f, distance, forced<T>(engine, tolerance, causal));
  c.reference = [=](std::span<const double> p) {
    const DistanceFunction g = f.parameters().empty() ? f : f.with_parameters(p);
    return espalier::test::dense_matrix(n, n, [&](Index i, Index j) {
      if (causal && j > i) return 0.0;
      return g(distance == Distance::offset ? static_cast<double>(i - j) : std::abs(static_cast<double>(i - j)));
    });
  };
  c.product_bound = bound<T>(tolerance);
  return c;
}

// M~ column by column, by products with unit vectors.
template <class T>
DenseMatrix applied(const Mask<T>& mask, Index rank) {
  const Index n = mask.rows();
  DenseMatrix m(n, n);
  std::vector<T> x(static_cast<std::size_t>(n * n), T(0)), y(x.size());
  for (Index j = 0; j < n; ++j) x[static_cast<std::size_t>(j * n + j)] = T(1);
  if (rank == 0) {
    mask.multiply({x.data(), n, n}, {y.data(), n, n});
  } else {
    const std::vector<T> ones(static_cast<std::size_t>(n), T(1));
    const MatrixView<const T> one(ones.data(), n, 1);
    mask.multiply_low_rank({one, one, {x.data(), n, n}}, {{y.data(), n, n}, {}});
  }
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) m(i, j) = static_cast<double>(y[static_cast<std::size_t>(i * n + j)]);
  }
  return m;
}

}  // namespace

TEST_CASE_TEMPLATE("exponentials: the laws", T, float, double) {
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-8;
  for (const auto& [name, f] : smooth_functions()) {
    espalier::test::check_mask_laws(sequence_case<T>(name, f, Distance::l1, 150, false, "exponentials", tolerance));
  }
  const DistanceFunction tilted(Callable{[](double d) { return d >= 0 ? std::exp(-0.05 * d) : 0.7 / (1 - d / 3); }, "tilted"});
  espalier::test::check_mask_laws(
      sequence_case<T>("asymmetric", tilted, Distance::offset, 150, false, "exponentials", tolerance));
  const DistanceFunction rational(Rational{4});
  espalier::test::check_mask_laws(sequence_case<T>("causal", rational, Distance::l1, 137, true, "exponentials", tolerance));
}

TEST_CASE("exponentials: the laws on lengths around the chunks' borders") {
  const DistanceFunction f(DampedCosine{1 / 5.0, 1 / 40.0});
  for (const Index n : {2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129}) {
    espalier::test::check_mask_laws(sequence_case<double>("short", f, Distance::l1, n, n % 2 == 1, "exponentials", 1e-8));
  }
}

TEST_CASE_TEMPLATE("band: the laws", T, float, double) {
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-8;
  const DistanceFunction narrow(Gaussian{3});
  espalier::test::check_mask_laws(sequence_case<T>("narrow", narrow, Distance::l1, 261, false, "band", tolerance));
  espalier::test::check_mask_laws(sequence_case<T>("narrow", narrow, Distance::l1, 263, true, "band", tolerance));
}

TEST_CASE("exponentials: certificates hold for M~ as it is applied, and are not far above it") {
  std::vector<double> ratios;
  for (const Index n : {200, 333}) {
    for (const Named& named : smooth_functions()) {
      const std::string& name = named.name;
      const DistanceFunction& f = named.f;
      for (const double tolerance : {1e-3, 1e-5, 1e-8}) {
        for (const ToleranceKind kind : {ToleranceKind::row, ToleranceKind::entry, ToleranceKind::pointwise}) {
          // Values down to 1e-7 of the largest, each to 1e-8: no sum of 48 states in double.
          if (kind == ToleranceKind::pointwise && tolerance < 1e-5) continue;
          for (const Index rank : {0, 1}) {
            GridOptions options = forced<double>("exponentials", tolerance);
            options.tolerance_kind = kind;
            CAPTURE(name);
            CAPTURE(n);
            CAPTURE(tolerance);
            CAPTURE(static_cast<int>(kind));
            CAPTURE(rank);
            const GridMask<double> mask({n}, f, Distance::l1, options);
            const Report report = mask.report({.columns = n, .rank = rank});
            REQUIRE(report.certificate);
            const auto exact = espalier::test::dense_matrix(n, n, [&](Index i, Index j) { return f(std::abs(double(i - j))); });
            const TrueErrors e = true_errors(applied(mask, rank), exact);
            const double rounding = 1e-13;
            CHECK(e.row <= *report.certificate->row + rounding);
            CHECK(e.entry <= *report.certificate->entry + rounding);
            // For another kind the estimate is normwise.
            const double of_an_entry = kind == ToleranceKind::pointwise ? report.rounding_estimate : 1e7 * rounding;
            if (report.certificate->pointwise) CHECK(e.pointwise <= *report.certificate->pointwise + of_an_entry);
            const double promised = kind == ToleranceKind::row     ? *report.certificate->row
                                    : kind == ToleranceKind::entry ? *report.certificate->entry
                                                                   : report.certificate->pointwise.value_or(1);
            CHECK(promised <= tolerance);
            if (e.row > 1e-12) ratios.push_back(*report.certificate->row / e.row);
          }
        }
      }
    }
  }
  std::sort(ratios.begin(), ratios.end());
  CHECK(ratios[ratios.size() / 2] <= 20);
}

// Found by review: far entries are sums of larger terms, whose rounding certificate and estimate together did not cover.
TEST_CASE("exponentials in float, kind pointwise: certificate and rounding estimate bound every single entry") {
  const double eps = std::numeric_limits<float>::epsilon();
  int beyond = 0;
  for (const Index n : {300, 1500}) {
    for (const Named& named : smooth_functions()) {
      for (const double tolerance : {1e-3, 1e-4, 1e-5}) {
        GridOptions options = forced<float>("exponentials", tolerance);
        options.tolerance_kind = ToleranceKind::pointwise;
        const GridMask<float> mask({n}, named.f, Distance::l1, options);
        const auto exact =
            espalier::test::dense_matrix(n, n, [&](Index i, Index j) { return named.f(std::abs(double(i - j))); });
        for (const Index rank : {0, 1}) {
          CAPTURE(named.name);
          CAPTURE(n);
          CAPTURE(tolerance);
          CAPTURE(rank);
          std::optional<Report> report;
          try {
            report = mask.report({.columns = n, .rank = rank});
          } catch (const ValueError&) {
            continue;  // below the rounding of what is stored
          }
          const double error = true_errors(applied(mask, rank), exact).pointwise;
          // What was taken for all of it before.
          if (error > *report->certificate->pointwise + 8 * eps) ++beyond;
          CHECK(report->rounding_estimate <= 0.01);
          CHECK(error <= *report->certificate->pointwise + report->rounding_estimate);
        }
      }
    }
  }
  CHECK(beyond > 0);
}

TEST_CASE("exponentials in float: fast decays keep their digits, entry by entry") {
  const Index n = 512;
  for (const double rate : {0.05, 0.2, 0.21, 0.2455}) {
    const DistanceFunction f(Exponential{rate});
    GridOptions options = forced<float>("exponentials", 1e-5);
    options.tolerance_kind = ToleranceKind::pointwise;
    const GridMask<float> mask({n}, f, Distance::l1, options);
    const auto exact = espalier::test::dense_matrix(n, n, [&](Index i, Index j) { return f(std::abs(double(i - j))); });
    CAPTURE(rate);
    CHECK(true_errors(applied(mask, 1), exact).pointwise <= 1e-5);
    CHECK(true_errors(applied(mask, 0), exact).pointwise <= 1e-5);
  }
}

// Vectors of moments that would lie whole pages apart lie further apart.
TEST_CASE_TEMPLATE("exponentials: moments of whole pages, with row sums and without", T, float, double) {
  const Index n = 1000;
  const GridMask<T> mask({n}, Rational{4}, Distance::l1, forced<T>("exponentials", 1e-6));
  const GridMask<T> tiles({n}, Rational{4}, Distance::l1, forced<T>("direct", 0));
  struct Width {
    Index m, c;
    bool sums;
  };
  for (const Width& w : std::vector<Width>{{64, 64, false}, {63, 64, true}, {16, 64, false}, {8, 64, false}, {7, 64, true}}) {
    CAPTURE(w.m);
    CAPTURE(w.sums);
    const auto random = [&](Index width, std::uint64_t seed) {
      std::vector<T> v(static_cast<std::size_t>(n * width));
      const Random numbers(seed);
      for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<T>(numbers.uniform(i));
      return v;
    };
    const std::vector<T> a = random(w.m, 1), b = random(w.m, 2), x = random(w.c, 3);
    std::vector<T> y(x.size()), exact(x.size()), sums(static_cast<std::size_t>(n)), exact_sums(sums.size());
    const LowRankInputs<T> in{{a.data(), n, w.m}, {b.data(), n, w.m}, {x.data(), n, w.c}};
    const auto row_sum = [&](std::vector<T>& v) { return w.sums ? VectorView<T>{v.data(), n} : VectorView<T>{}; };
    mask.multiply_low_rank(in, {{y.data(), n, w.c}, row_sum(sums)});
    tiles.multiply_low_rank(in, {{exact.data(), n, w.c}, row_sum(exact_sums)});
    double worst = 0;  // everything is positive: relative to what is summed
    for (std::size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(y[i] / exact[i]) - 1));
    for (std::size_t i = 0; w.sums && i < sums.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(sums[i] / exact_sums[i]) - 1));
    }
    CHECK(worst <= (sizeof(T) == 4 ? 4e-6 : 2e-6));
  }
}

// A growing power as a sum of decays needs terms hundreds of times larger than itself: double has the digits, float does not. A
// row of positive numbers is either refused or within certificate and rounding estimate.
TEST_CASE("exponentials: terms that cancel beyond the type's digits are refused, others count in the rounding estimate") {
  const auto table = [](Index n, const auto& f) {
    std::vector<double> values;
    for (Index d = 1 - n; d < n; ++d) values.push_back(f(std::abs(static_cast<double>(d))));
    return values;
  };
  const auto worst_row = []<class T>(const GridMask<T>& mask, const std::vector<double>& values) {
    const Index n = mask.rows();
    const std::vector<T> one(static_cast<std::size_t>(n), T(1));
    std::vector<T> y(one.size());
    mask.multiply({one.data(), n, 1}, {y.data(), n, 1});
    double worst = 0;
    for (Index i = 0; i < n; ++i) {
      double sum = 0;
      for (Index j = 0; j < n; ++j) sum += values[static_cast<std::size_t>(i - j + n - 1)];
      worst = std::max(worst, std::abs(static_cast<double>(y[static_cast<std::size_t>(i)]) / sum - 1));
    }
    return worst;
  };
  const auto served = [&]<class T>(const GridMask<T>& mask, const std::vector<double>& values) {
    try {
      const Report report = mask.report({.columns = 1});
      CHECK(worst_row(mask, values) <= report.certificate->row.value() + report.rounding_estimate);
    } catch (const ValueError& error) {
      CHECK(std::string(error.what()).find("the terms of its sum cancel") != std::string::npos);
      return false;
    }
    return true;
  };
  for (const Index n : {400, 1009}) {
    for (const double tolerance : {1e-6, 1e-5}) {
      CAPTURE(n);
      CAPTURE(tolerance);
      for (const double power : {0.5, 1.5, 1.75, 2.2}) {
        CAPTURE(power);
        const std::vector<double> values = table(n, [&](double d) { return std::pow(d, power); });
        CHECK(served(GridMask<float>({n}, values, forced<float>("exponentials", tolerance)), values) == (power < 1));
        CHECK(served(GridMask<double>({n}, values, forced<double>("exponentials", tolerance)), values));
        CHECK(worst_row(GridMask<float>({n}, values, forced<float>("auto", tolerance)), values) <= 2 * tolerance);
      }
      const std::vector<double> gaussian = table(n, [](double d) { return std::exp(-d * d / 9e4); });
      CHECK(served(GridMask<float>({n}, gaussian, forced<float>("exponentials", tolerance)), gaussian));
      // Both sides differ: the rows' norms are of both.
      std::vector<double> sides = gaussian;
      for (Index d = 0; d < n; ++d) sides[static_cast<std::size_t>(d)] = std::exp(static_cast<double>(d - n) / 50);
      CHECK(served(GridMask<float>({n}, sides, forced<float>("exponentials", tolerance)), sides));
    }
  }
}

// Constant input is the worst for a running sum: every step rounds the same way.
TEST_CASE("exponentials in float: slow decays do not drift") {
  const Index n = Index{1} << 17;
  for (const double rate : {0.0, 1e-7, 1e-5, 1e-3}) {
    for (const bool turns : {false, true}) {
      const DistanceFunction f = turns ? DistanceFunction(DampedCosine{0.02, rate}) : DistanceFunction(Exponential{rate});
      const GridMask<float> mask({n}, f, Distance::l1, forced<float>("exponentials", 1e-5, true));
      std::vector<float> one(static_cast<std::size_t>(n), 1.0f), x(one.size(), 0.3f), y(one.size());
      const MatrixView<const float> ones(one.data(), n, 1);
      mask.multiply_low_rank({ones, ones, {x.data(), n, 1}}, {{y.data(), n, 1}, {}});
      const std::complex<long double> factor = std::exp(std::complex<long double>(-rate, turns ? 0.02L : 0.0L));
      std::complex<long double> state = 0;
      long double size = 0;
      double worst = 0;
      for (Index i = 0; i < n; ++i) {
        state = state * factor + static_cast<long double>(0.3f);
        size = size * std::abs(factor) + static_cast<long double>(0.3f);
        worst =
            std::max(worst, static_cast<double>(std::abs(static_cast<long double>(y[std::size_t(i)]) - state.real()) / size));
      }
      CAPTURE(rate);
      CAPTURE(turns);
      CHECK(worst <= 2e-6);
    }
  }
}

TEST_CASE("sequence gradients: signed offsets and a scale of 0, by every engine alike") {
  const Index n = 700, m = 3, c = 2;
  const Random random(5);
  std::vector<double> a, b, x, y_bar;
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * m); ++k)
    a.push_back(random.normal(2 * k)), b.push_back(random.normal(2 * k + 1));
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * c); ++k) {
    x.push_back(random.normal(9000 + 2 * k)), y_bar.push_back(random.normal(9001 + 2 * k));
  }
  struct Learned {
    std::string name;
    DistanceFunction f;
    Distance distance;
  };
  for (const Learned& l :
       std::vector<Learned>{{"even now, odd derivative", ExponentiatedPolynomial{{0, 0, -1e-4}}, Distance::offset},
                            {"no scale yet", Exponential{0.02, 0}, Distance::l1},
                            {"damped cosine", DampedCosine{0.1, 0.02}, Distance::l1}}) {
    const auto gradient = [&](const std::string& engine) {
      const GridMask<double> mask({n}, l.f, l.distance, forced<double>(engine, 1e-8));
      std::vector<double> p(mask.parameters().size());
      mask.multiply_low_rank_vjp({{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}}, {{y_bar.data(), n, c}, {}},
                                 {{}, {}, {}, {p.data(), static_cast<Index>(p.size())}});
      return p;
    };
    const auto exact = gradient("direct"), got = gradient("exponentials");
    double largest = 0;
    for (const double v : exact) largest = std::max(largest, std::abs(v));
    for (std::size_t k = 0; k < exact.size(); ++k) {
      CAPTURE(l.name);
      CAPTURE(k);
      CHECK(std::abs(got[k] - exact[k]) <= 1e-6 * largest);
    }
  }
}

namespace {

// Inputs between 1/2 and 1 and what they give, rows `stride` apart with a mark between them.
template <class T>
struct LearningRun {
  Index n, m, c, stride;
  std::vector<T> a, b, x, y_bar, r_bar, a_bar, b_bar, x_bar, p;

  LearningRun(Index length, Index rank, Index columns, Index row_stride)
      : n(length), m(rank), c(columns), stride(row_stride), a(rows()), b(a), x(a), y_bar(a), a_bar(a), b_bar(a), x_bar(a) {
    const Random random(7);
    for (Index i = 0; i < n; ++i) {
      for (Index k = 0; k < std::max(m, c); ++k) {
        const auto at = static_cast<std::size_t>(i * stride + k);
        const auto next = 4 * static_cast<std::uint64_t>(i * 1000 + k);
        const auto value = [&](std::uint64_t which) { return static_cast<T>(0.5 + 0.5 * random.uniform(next + which)); };
        if (k < m) a[at] = value(0), b[at] = value(1);
        if (k < c) x[at] = value(2), y_bar[at] = value(3);
      }
      r_bar.push_back(static_cast<T>(0.5 + 0.5 * random.uniform(static_cast<std::uint64_t>(900000 + i))));
    }
  }
  std::vector<T> rows() const { return std::vector<T>(static_cast<std::size_t>(n * stride), T(-7)); }

  void run(const Mask<T>& mask, int threads) {
    p.assign(mask.parameters().size(), T(0));
    const auto view = [&](auto& v, Index columns) { return MatrixView<T>(v.data(), n, columns, stride); };
    mask.multiply_low_rank_vjp({view(a, m), view(b, m), view(x, c)}, {view(y_bar, c), {r_bar.data(), n}},
                               {view(a_bar, m), view(b_bar, m), view(x_bar, c), {p.data(), static_cast<Index>(p.size())}},
                               {.threads = threads});
  }
  // The gradients alone, rows close together; false for a mark that is gone.
  bool gradients(std::vector<T>& all) const {
    all = p;
    bool kept = true;
    const auto add = [&](const std::vector<T>& v, Index columns) {
      for (std::size_t k = 0; k < v.size(); ++k) {
        if (static_cast<Index>(k) % stride < columns) {
          all.push_back(v[k]);
        } else {
          kept = kept && v[k] == T(-7);
        }
      }
    };
    add(a_bar, m), add(b_bar, m), add(x_bar, c);
    return kept;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("sequence gradients: whole and partial chunks, rows as they lie or copied, any number of threads", T, float,
                   double) {
  struct Learned {
    DistanceFunction f;
    Distance distance;
    bool causal;
    Index n, m, c;
  };
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-8;
  for (const Learned& l :
       std::vector<Learned>{{StretchedExponential{9, 0.5}, Distance::l1, false, 320, 64, 64},
                            {StretchedExponential{9, 0.5}, Distance::l1, false, 320, 64, 63},  // moments of whole pages
                            {Rational{4}, Distance::l1, false, 333, 61, 18},
                            {Rational{4}, Distance::l1, true, 320, 32, 64},
                            {Gaussian{60}, Distance::l1, true, 331, 16, 33},
                            {DampedCosine{1 / 50.0, 1 / 40.0}, Distance::l1, false, 386, 32, 16},
                            {ExponentiatedPolynomial{{0, 2e-3, -1e-4}}, Distance::offset, false, 333, 48, 64}}) {
    CAPTURE(l.f.name());
    CAPTURE(l.n);
    const GridMask<T> mask({l.n}, l.f, l.distance, forced<T>("exponentials", tolerance, l.causal));
    LearningRun<T> run(l.n, l.m, l.c, std::max(l.m, l.c)), apart(l.n, l.m, l.c, 300);
    std::vector<T> got, again;
    run.run(mask, 1);
    CHECK(run.gradients(got));
    apart.run(mask, 1);
    CHECK(apart.gradients(again));
    CHECK(got == again);
    run.run(mask, 3);
    CHECK(run.gradients(again));
    CHECK(got == again);

    // By the definition. W and S differ from place to place by 4 times at most: errors of a row count 16-fold in what W ∘ S is
    // summed with.
    const auto at = [](const std::vector<T>& v, Index i, Index k, Index stride) {
      return static_cast<double>(v[static_cast<std::size_t>(i * stride + k)]);
    };
    DenseMatrix a_bar(l.n, l.m), b_bar(l.n, l.m), x_bar(l.n, l.c), sizes(l.n, 3);
    std::vector<double> p(run.p.size()), p_size(p.size());
    for (Index i = 0; i < l.n; ++i) {
      for (Index j = 0; j < (l.causal ? i + 1 : l.n); ++j) {
        const double d = l.distance == Distance::offset ? static_cast<double>(i - j) : std::abs(static_cast<double>(i - j));
        double s = 0, w = static_cast<double>(run.r_bar[static_cast<std::size_t>(i)]);
        for (Index k = 0; k < l.m; ++k) s += at(run.a, i, k, run.stride) * at(run.b, j, k, run.stride);
        for (Index k = 0; k < l.c; ++k) w += at(run.y_bar, i, k, run.stride) * at(run.x, j, k, run.stride);
        const double f = l.f(d);
        sizes(i, 0) += std::abs(f) * w, sizes(j, 1) += std::abs(f) * w, sizes(j, 2) += std::abs(f) * s;
        for (Index k = 0; k < l.m; ++k) {
          a_bar(i, k) += f * w * at(run.b, j, k, run.stride);
          b_bar(j, k) += f * w * at(run.a, i, k, run.stride);
        }
        for (Index k = 0; k < l.c; ++k) x_bar(j, k) += f * s * at(run.y_bar, i, k, run.stride);
        for (std::size_t k = 0; k < p.size(); ++k) {
          const double part = l.f.derivative(k, d) * s * w;
          p[k] += part, p_size[k] += std::abs(part);
        }
      }
    }
    const double allowed = 16 * bound<T>(tolerance);
    const auto worst = [&](const DenseMatrix& exact, const std::vector<T>& v, Index size) {
      double most = 0;
      for (Index i = 0; i < l.n; ++i) {
        for (Index k = 0; k < exact.cols; ++k) most = std::max(most, std::abs(at(v, i, k, run.stride) - exact(i, k)));
      }
      double norm = 0;
      for (Index i = 0; i < l.n; ++i) norm = std::max(norm, sizes(i, size));
      return most / norm;
    };
    CHECK(worst(a_bar, run.a_bar, 0) <= allowed);
    CHECK(worst(b_bar, run.b_bar, 1) <= allowed);
    CHECK(worst(x_bar, run.x_bar, 2) <= allowed);
    for (std::size_t k = 0; k < p.size(); ++k) {
      CAPTURE(k);
      CHECK(std::abs(static_cast<double>(run.p[k]) - p[k]) <= allowed * p_size[k]);
    }
  }
}

TEST_CASE_TEMPLATE("sequence engines: many waves, the same bits for any number of threads", T, float, double) {
  const Index n = 9001, m = 16, c = 40;
  const Random random(5);
  std::vector<T> a, b, x;
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * m); ++k) {
    a.push_back(static_cast<T>(random.uniform(2 * k))), b.push_back(static_cast<T>(random.uniform(2 * k + 1)));
  }
  for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * c); ++k) x.push_back(static_cast<T>(random.normal(900000 + k)));
  for (const Named& named : smooth_functions()) {
    const std::string& name = named.name;
    const DistanceFunction& f = named.f;
    const GridMask<T> mask({n}, f, Distance::l1, forced<T>("exponentials", 1e-5));
    struct Outputs {
      std::vector<T> y, sums, a_bar, b_bar, x_bar, p;
      bool operator==(const Outputs&) const = default;
    };
    const auto run = [&](int threads) {
      Outputs o{std::vector<T>(x.size()),
                std::vector<T>(static_cast<std::size_t>(n)),
                a,
                b,
                x,
                std::vector<T>(mask.parameters().size())};
      const Context<Cpu> context{.threads = threads};
      mask.multiply_low_rank({{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}}, {{o.y.data(), n, c}, {o.sums.data(), n}},
                             context);
      mask.multiply_low_rank_vjp({{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}},
                                 {{o.y.data(), n, c}, {o.sums.data(), n}},
                                 {{o.a_bar.data(), n, m},
                                  {o.b_bar.data(), n, m},
                                  {o.x_bar.data(), n, c},
                                  {o.p.data(), static_cast<Index>(o.p.size())}},
                                 context);
      return o;
    };
    const Outputs once = run(1);
    CAPTURE(name);
    CHECK(once == run(1));
    CHECK(once == run(3));
    // A few rows by the definition.
    for (const Index i : {Index{0}, Index{4500}, n - 1}) {
      double exact = 0, size = 0;
      for (Index j = 0; j < n; ++j) {
        double s = 0;
        for (Index k = 0; k < m; ++k) s += double(a[std::size_t(i * m + k)]) * double(b[std::size_t(j * m + k)]);
        s *= f(std::abs(double(i - j)));
        exact += s, size += std::abs(s);
      }
      CHECK(std::abs(double(once.sums[std::size_t(i)]) - exact) <= 1.2e-5 * size);
    }
  }
}

// Found by review: a derivative's search that had failed for up to a second was made again by every step.
TEST_CASE("exponentials: a derivative without a sum of exponentials is not searched for again by the next steps") {
  const Index n = 2000;
  const DistanceFunction hard(StretchedExponential{.width = 100, .exponent = 1}), easy(StretchedExponential{.width = 36});
  const std::vector<double> ones(static_cast<std::size_t>(n), 1.0);
  const MatrixView<const double> one(ones.data(), n, 1);
  // Whether parameters get their gradient in the same pass: then no other engine reports progress.
  const auto phases = [&](const Mask<double>& mask, LowRankGradients<double> gradients) {
    std::set<std::string> seen;
    Progress progress;
    progress.callback = [&](std::string_view phase, double) { seen.emplace(phase); };
    mask.multiply_low_rank_vjp({one, one, one}, {one, {}}, gradients, {.threads = 1, .progress = &progress});
    return seen;
  };
  const auto fused = [&](const Mask<double>& mask) {
    std::vector<double> x(ones), p(3);
    const std::set<std::string> chunks = phases(mask, {.x = {x.data(), n, 1}});
    return phases(mask, {.x = {x.data(), n, 1}, .parameters = {p.data(), 3}}) == chunks;
  };
  const GridMask<double> first({n}, hard, Distance::l1, forced<double>("exponentials", 3e-12));
  const GridMask<double> anew({n}, easy, Distance::l1, forced<double>("exponentials", 3e-12));
  CHECK_FALSE(fused(first));
  CHECK(fused(anew));
  // A step that could: told by the one before not to try.
  std::shared_ptr<const Mask<double>> step = first.with_parameters(easy.parameters());
  CHECK_FALSE(fused(*step));
  for (int k = 1; k < 31; ++k) step = step->with_parameters(easy.parameters());
  CHECK_FALSE(fused(*step));
  // After 32 steps it is worth another search, and what is found is kept.
  step = step->with_parameters(easy.parameters());
  step = step->with_parameters(easy.parameters());
  CHECK(fused(*step));
  CHECK(fused(*step->with_parameters(easy.parameters())));
}

// Found by review: what a gradient takes grew with the columns of x.
TEST_CASE_TEMPLATE("gradients of wide values, in several blocks of columns, are those of tiles", T, float, double) {
  const Index n = 500, m = 3, c = 600;
  const Random random(81);
  const auto numbers = [&](Index count, std::uint64_t first) {
    std::vector<T> v;
    for (Index k = 0; k < count; ++k) v.push_back(static_cast<T>(random.normal(first + static_cast<std::uint64_t>(k))));
    return v;
  };
  const std::vector<T> a = numbers(n * m, 0), b = numbers(n * m, 10000), x = numbers(n * c, 20000), y = numbers(n * c, 400000),
                       r = numbers(n, 800000);
  struct Gradients {
    std::vector<T> a, b, x, p;
    bool operator==(const Gradients&) const = default;
  };
  const auto gradients = [&](const Mask<T>& mask, int threads) {
    Gradients g{a, b, x, std::vector<T>(mask.parameters().size())};
    mask.multiply_low_rank_vjp(
        {{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}}, {{y.data(), n, c}, {r.data(), n}},
        {{g.a.data(), n, m}, {g.b.data(), n, m}, {g.x.data(), n, c}, {g.p.data(), static_cast<Index>(g.p.size())}},
        {.threads = threads});
    return g;
  };
  const auto difference = [](const std::vector<T>& got, const std::vector<T>& expected) {
    double largest = 0, error = 0;
    for (std::size_t k = 0; k < got.size(); ++k) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[k])));
      error = std::max(error, std::abs(static_cast<double>(got[k]) - static_cast<double>(expected[k])));
    }
    return error / largest;
  };
  const PiecewiseConstant pieces{{3, 150, 170}, {1, 0.5, -0.25, 0.125}};
  const std::vector<std::pair<const char*, DistanceFunction>> masks = {
      {"exponentials", Rational{.width = 16}}, {"band", Gaussian{.width = 20}}, {"piecewise", pieces}};
  for (const auto& one : masks) {
    const char* engine = one.first;
    const DistanceFunction& f = one.second;
    CAPTURE(engine);
    const GridMask<T> mask({n}, f, Distance::l1, forced<T>(engine, sizeof(T) == 4 ? 1e-6 : 1e-10));
    const GridMask<T> tiles({n}, f, Distance::l1, forced<T>("direct", 0));
    const Gradients got = gradients(mask, 1), expected = gradients(tiles, 1);
    CHECK(got == gradients(mask, 3));
    // The tolerance is relative to sums of absolute values; sums of either sign over 500 tokens are some 1/22 of them, and both
    // the mask's and its derivative's forms have it: 100 times the tolerance.
    const double close = sizeof(T) == 4 ? 1e-4 : 1e-8;
    CHECK(difference(got.a, expected.a) <= close);
    CHECK(difference(got.b, expected.b) <= close);
    CHECK(difference(got.x, expected.x) <= close);
    CHECK(difference(got.p, expected.p) <= close);
  }
}

TEST_CASE("sequence engines: what is refused, and why") {
  const Index n = 2000;
  const Random random(7);
  std::vector<double> noise(static_cast<std::size_t>(2 * n - 1));
  for (std::size_t k = 0; k < noise.size(); ++k) noise[k] = random.normal(k);
  const GridMask<float> automatic({n}, noise);
  for (const Report& r : automatic.engines({.columns = 64, .rank = 64})) {
    CHECK(r.engine != "exponentials");
    CHECK(r.engine != "band");
  }
  const GridMask<float> rough({n}, noise, forced<float>("exponentials", 1e-5));
  CHECK_THROWS_WITH_AS((void)rough.report({.columns = 64, .rank = 64}), doctest::Contains("no low rank away from the diagonal"),
                       ValueError);
  const GridMask<float> wide({n}, Rational{100}, Distance::l1, forced<float>("band", 1e-5));
  CHECK_THROWS_WITH_AS((void)wide.report({.columns = 64, .rank = 64}), doctest::Contains("before they may be left out"),
                       ValueError);
  // Tolerance 0: exact engines only.
  const GridMask<float> exact({n}, Exponential{0.01}, Distance::l1, forced<float>("exponentials", 0));
  CHECK_THROWS_WITH_AS((void)exact.report({.columns = 64, .rank = 64}), doctest::Contains("exact engines only"), ValueError);
  // Two axes: nothing to chunk.
  const GridMask<float> grid({40, 50}, Exponential{0.01}, Distance::l1, forced<float>("exponentials", 1e-5));
  CHECK_THROWS_AS((void)grid.report({.columns = 64, .rank = 64}), ValueError);
}

// Exact tiles near 0 and a sum of exponentials beyond.
TEST_CASE("sequence engines: a learned table that is rough near 0 and smooth far away") {
  const Random random(9);
  for (const Index n : {Index{3000}, Index{16384}, Index{65536}}) {
    std::vector<double> table(static_cast<std::size_t>(2 * n - 1));
    for (Index o = 1 - n; o < n; ++o) {
      const double d = std::abs(static_cast<double>(o));
      table[static_cast<std::size_t>(o + n - 1)] =
          d < 100 ? random.normal(static_cast<std::uint64_t>(o + n)) : 1 / (1 + d / 16);
    }
    GridOptions options;
    options.tolerance = 1e-5;
    const GridMask<float> mask({n}, table, options);
    const Report report = mask.report({.columns = 64, .rank = 64});
    CAPTURE(n);
    CHECK(report.engine == "exponentials");
    // |o| < 100 needs two chunks of 64 beside the own one, or one of 128.
    CHECK((report.reason.find("of 64 tokens, exact tiles within 3 chunks") != std::string::npos ||
           report.reason.find("of 128 tokens, exact tiles within 2 chunks") != std::string::npos));
    // A few rows by the definition.
    std::vector<float> ones(static_cast<std::size_t>(n), 1.0f), x(ones.size()), y(ones.size());
    for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<float>(random.normal(1000000 + k));
    const MatrixView<const float> one(ones.data(), n, 1);
    mask.multiply_low_rank({one, one, {x.data(), n, 1}}, {{y.data(), n, 1}, {}});
    for (const Index i : {Index{0}, n / 3, n - 1}) {
      double exact = 0, size = 0, largest = 0;
      for (Index j = 0; j < n; ++j) {
        const double v = table[std::size_t(i - j + n - 1)], t = v * static_cast<double>(x[std::size_t(j)]);
        exact += t, size += std::abs(t), largest = std::max(largest, std::abs(static_cast<double>(x[std::size_t(j)])));
      }
      // Errors of entries meet the largest x; 1.25: mean |x| is 0.8.
      CHECK(std::abs(static_cast<double>(y[std::size_t(i)]) - exact) <= (1e-5 * 1.25 * largest + 1e-6) * size);
    }
  }
}

TEST_CASE("sequence engines: white noise goes to tiles or FFT") {
  const Random random(10);
  for (const Index n : {Index{1024}, Index{65536}}) {
    std::vector<double> noise(static_cast<std::size_t>(2 * n - 1));
    for (std::size_t k = 0; k < noise.size(); ++k) noise[k] = random.normal(k);
    const GridMask<float> mask({n}, noise);
    for (const Shape shape : {Shape{.columns = 64, .rank = 64}, Shape{.columns = 64}}) {
      std::vector<std::string> names;
      for (const Report& r : mask.engines(shape)) names.push_back(r.engine);
      std::sort(names.begin(), names.end());
      const bool expected = names == std::vector<std::string>{"direct"} || names == std::vector<std::string>{"direct", "fft"};
      CHECK(expected);
    }
  }
}
