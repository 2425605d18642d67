// RecurrentMask: token by token as the causal mask does the whole sequence, slow decays, saved states, errors.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/recurrent.hpp>

#include <cmath>
#include <complex>
#include <limits>

using namespace espalier;

namespace {

struct Tokens {
  Index n, m, c;
  std::vector<double> a, b, x;
  Tokens(Index tokens, Index features, Index columns) : n(tokens), m(features), c(columns) {
    const Random random(3);
    for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * m); ++k) {
      a.push_back(random.uniform(4 * k)), b.push_back(random.uniform(4 * k + 1));
    }
    for (std::uint64_t k = 0; k < static_cast<std::uint64_t>(n * c); ++k) x.push_back(random.normal(2 * k + 1'000'000));
  }
};

template <class T>
std::vector<T> as(const std::vector<double>& v) {
  return std::vector<T>(v.begin(), v.end());
}

// Worst row of ||y~ - y|| / || |M o A B^T| |X| ||, row sums included, by the definition.
template <class T, class F>
double worst_row(RecurrentMask<T>& mask, const Tokens& t, const F& f, Index prefilled) {
  const std::vector<T> a = as<T>(t.a), b = as<T>(t.b), x = as<T>(t.x);
  const auto row = [](const std::vector<T>& v, Index i, Index width) {
    return VectorView<const T>{v.data() + i * width, width};
  };
  mask.prefill({b.data(), prefilled, t.m}, {x.data(), prefilled, t.c});
  std::vector<T> y(static_cast<std::size_t>(t.c));
  double worst = 0;
  for (Index i = prefilled; i < t.n; ++i) {
    T row_sum = 0;
    mask.step(row(a, i, t.m), row(b, i, t.m), row(x, i, t.c), {y.data(), t.c}, &row_sum);
    std::vector<double> exact(static_cast<std::size_t>(t.c) + 1, 0.0), size(exact);
    for (Index j = 0; j <= i; ++j) {
      double s = 0;
      for (Index k = 0; k < t.m; ++k) s += double(a[std::size_t(i * t.m + k)]) * double(b[std::size_t(j * t.m + k)]);
      s *= f(static_cast<double>(i - j));
      for (Index k = 0; k <= t.c; ++k) {
        const double term = s * (k < t.c ? double(x[std::size_t(j * t.c + k)]) : 1.0);
        exact[std::size_t(k)] += term, size[std::size_t(k)] += std::abs(term);
      }
    }
    double error = 0, norm = 0;
    for (Index k = 0; k <= t.c; ++k) {
      const double got = k < t.c ? double(y[std::size_t(k)]) : double(row_sum);
      error += std::pow(got - exact[std::size_t(k)], 2), norm += std::pow(size[std::size_t(k)], 2);
    }
    worst = std::max(worst, std::sqrt(error / norm));
  }
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("a recurrence gives the causal product token by token", T, float, double) {
  const Tokens t(90, 3, 5);
  const ExponentialSum sum{
      {{1.0, 0.05, 0}, {{0.3, -0.4}, {0.02, 0.7}, 0}, {-0.2, 0.05, 2}, {{0.1, 0.2}, {0.02, 0.7}, 1}, {0.5, 0.0, 0}}};
  RecurrentMask<T> mask(sum, t.m, t.c);
  const double bound = sizeof(T) == 4 ? 2e-7 : 1e-14;
  CHECK(worst_row(
            mask, t, [&](double d) { return sum(d); }, 17) <= bound);
  CHECK(mask.length() == t.n);
}

TEST_CASE("a recurrence of a fitted function is within its certificate") {
  const Tokens t(300, 2, 3);
  const DistanceFunction f(Rational{8});
  MaskOptions options;
  options.tolerance = 1e-6;
  RecurrentMask<double> mask(f, 300, t.m, t.c, options);
  REQUIRE(mask.certificate().row);
  CHECK(*mask.certificate().row <= 1e-6);
  // Features and weights are positive, so that a row's error is at most its certificate (x of either sign only lessens it).
  CHECK(worst_row(
            mask, t, [&](double d) { return f(d); }, 0) <= 2e-6);
}

TEST_CASE("slow and turning decays do not drift over 200,000 tokens") {
  const Index n = 200'000;
  for (const std::complex<double> s : {std::complex<double>(1e-6, 0), {1e-7, 0.02}, {1e-2, 0.02}}) {
    RecurrentMask<float> mask(ExponentialSum{{{1.0, s, 0}}}, 1, 1);
    const Random random(5);
    // The same sum by a recurrence in long double, whose factor is exact to 1e-19.
    const std::complex<long double> factor = std::exp(-std::complex<long double>(s.real(), s.imag()));
    std::complex<long double> state = 0;
    long double size = 0;
    double worst = 0;
    for (Index i = 0; i < n; ++i) {
      const float one = 1, x = static_cast<float>(random.uniform(static_cast<std::uint64_t>(i)));
      float y = 0;
      mask.step({&one, 1}, {&one, 1}, {&x, 1}, {&y, 1});
      state = state * factor + static_cast<long double>(x);
      size = size * std::abs(factor) + static_cast<long double>(x);
      worst = std::max(worst, static_cast<double>(std::abs(static_cast<long double>(y) - state.real()) / size));
    }
    CHECK(worst <= 1e-6);
  }
}

TEST_CASE("a saved recurrence goes on bit by bit, and copies are independent") {
  const ExponentialSum sum{{{1.0, {0.01, 0.3}, 0}}};
  RecurrentMask<float> first(sum, 2, 2), second(sum, 2, 2);
  const float a[] = {1, 2}, b[] = {0.5f, -1}, x[] = {3, 4};
  float y[2], z[2], w[2];
  const auto step = [&](RecurrentMask<float>& m, float* out) { m.step({a, 2}, {b, 2}, {x, 2}, {out, 2}); };
  for (int k = 0; k < 5; ++k) step(first, y);
  second.restore(first.save());
  RecurrentMask<float> copy = first;
  step(first, y);
  step(second, z);
  step(copy, w);
  for (int k = 0; k < 2; ++k) CHECK((y[k] == z[k] && y[k] == w[k]));
  CHECK(second.length() == 6);
}

TEST_CASE("a saved recurrence of another mask with as many numbers is refused, and changes nothing") {
  const auto mask = [](double decay, double coefficient, Index m, Index c) {
    return RecurrentMask<float>(ExponentialSum{{{coefficient, decay, 0}}}, m, c);
  };
  RecurrentMask<float> own = mask(0.1, 1, 2, 1);
  const float a[] = {1, 2}, x[] = {3};
  own.prefill({a, 1, 2}, {x, 1, 1});
  const std::vector<double> before = own.save();
  RecurrentMask<float> same = mask(0.1, 1, 2, 1);
  same.restore(before);
  CHECK(same.save() == before);
  // Another decay, another coefficient, another number of columns within the same padding.
  for (const RecurrentMask<float>& other : {mask(0.2, 1, 2, 1), mask(0.1, 2, 2, 1), mask(0.1, 1, 2, 3)}) {
    REQUIRE(other.save().size() == before.size());
    CHECK_THROWS_WITH_AS(own.restore(other.save()), doctest::Contains("of another mask"), ValueError);
    CHECK(own.save() == before);
  }
}

TEST_CASE("recurrences refuse what they cannot do") {
  const ExponentialSum sum{{{1.0, 0.1, 0}}};
  CHECK_THROWS_AS(RecurrentMask<float>(sum, 0, 1), ValueError);
  CHECK_THROWS_AS(RecurrentMask<float>(sum, 1, -1), ValueError);
  CHECK_THROWS_WITH_AS(RecurrentMask<float>(ExponentialSum{{{1.0, -0.1, 0}}}, 1, 1), doctest::Contains("grows"), ValueError);
  CHECK_THROWS_AS(RecurrentMask<float>(ExponentialSum{{{std::numeric_limits<double>::quiet_NaN(), 0.1, 0}}}, 1, 1), ValueError);
  const Random random(1);
  std::vector<double> noise(500);
  for (std::size_t k = 0; k < noise.size(); ++k) noise[k] = random.normal(k);
  CHECK_THROWS_AS(RecurrentMask<float>(DistanceFunction(FunctionTable{noise}), 500, 1, 1), ValueError);
  RecurrentMask<float> mask(sum, 2, 1);
  const float a[] = {1, 2}, x[] = {3};
  float y[] = {7};
  CHECK_THROWS_AS(mask.step({a, 1}, {a, 2}, {x, 1}, {y, 1}), ShapeError);
  CHECK(mask.length() == 0);
  CHECK(y[0] == 7);
  CHECK_THROWS_AS(mask.restore(std::vector<double>(3, 0.0)), ShapeError);
}
