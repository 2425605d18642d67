// Feature maps: definitions, unbiasedness of the softmax kernel, orthogonal blocks, shifts, gradients, mean absorption.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>

#include <doctest/doctest.h>

#include "support/attention_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace es = espalier;
using es::Index;
using namespace es::test;

namespace {

double definition(const es::FeatureMap<double>& map, const Tensor& x, Index b, Index h, Index i, Index r,
                  double log_weight = 0) {
  const auto& o = map.options();
  const double value = x(b, h, i, std::min(r, x.d - 1));
  switch (o.kind) {
    case es::FeatureKind::identity:
      return value + o.epsilon;
    case es::FeatureKind::relu:
      return std::max(value, 0.0) + o.epsilon;
    case es::FeatureKind::elu:
      return (value > 0 ? value + 1 : std::exp(value)) + o.epsilon;
    case es::FeatureKind::squared:
      return value * value + o.epsilon;
    case es::FeatureKind::exp:
      return std::exp(value) + o.epsilon;
    case es::FeatureKind::positive_softmax:
      break;
  }
  const double scale = o.scale.value_or(1 / std::sqrt(static_cast<double>(x.d)));
  double dot = 0, square = 0;
  for (Index k = 0; k < x.d; ++k) {
    const double xs = std::sqrt(scale) * x(b, h, i, k);
    dot += map.projection()[static_cast<std::size_t>(r * x.d + k)] * xs;
    square += xs * xs;
  }
  return std::exp(dot - square / 2 + log_weight) / std::sqrt(static_cast<double>(map.features())) + o.epsilon;
}

constexpr es::FeatureKind kKinds[] = {es::FeatureKind::identity, es::FeatureKind::relu, es::FeatureKind::elu,
                                      es::FeatureKind::squared,  es::FeatureKind::exp,  es::FeatureKind::positive_softmax};

}  // namespace

TEST_CASE_TEMPLATE("features equal their definition, whatever the shift", T, float, double) {
  for (const auto kind : kKinds) {
    for (const double epsilon : {0.0, 1e-3}) {
      for (const auto shift : {es::FeatureShift::none, es::FeatureShift::per_row, es::FeatureShift::per_head}) {
        const es::FeatureOptions options{.kind = kind, .epsilon = epsilon, .features = 11, .seed = 3};
        const es::FeatureMap<double> reference(5, options);
        const es::FeatureMap<T> map(5, options);
        const Tensor x = random_tensor(2, 3, 9, 5, 1);
        const Tensor w = random_tensor(2, 3, 9, 1, 2);
        const bool softmax = kind == es::FeatureKind::positive_softmax;
        CHECK(map.features() == (softmax ? 11 : 5));
        const T nan = std::numeric_limits<T>::quiet_NaN();
        Stored<T> sx(x, 2, true, nan), sw(w), y(2, 3, 9, map.features(), 1, false, T(5)), s(2, 3, 9, 1);
        map.apply(sx.view, y.view, shift, s.view, softmax ? sw.view : es::TensorView<T>());
        CHECK(y.gaps_untouched(1));
        double worst = 0;
        for (Index b = 0; b < 2; ++b) {
          for (Index h = 0; h < 3; ++h) {
            for (Index i = 0; i < 9; ++i) {
              for (Index r = 0; r < map.features(); ++r) {
                const double want = definition(reference, x, b, h, i, r, softmax ? w(b, h, i, 0) : 0);
                const double got =
                    static_cast<double>(y.view.matrix(b, h)(i, r)) * std::exp(static_cast<double>(s.view.matrix(b, h)(i, 0)));
                worst = std::max(worst, std::abs(got - want) / std::max(1e-3, std::abs(want)));
              }
            }
          }
        }
        CHECK(worst < (sizeof(T) == 4 ? 2e-5 : 1e-13));
      }
    }
  }
}

TEST_CASE("positive features are unbiased and their rows orthogonal") {
  const Index d = 8, m = 8;
  Tensor q = random_tensor(1, 1, 1, d, 1), k = random_tensor(1, 1, 1, d, 2);
  for (const bool orthogonal : {true, false}) {
    double sum = 0, square = 0, exact = 0;
    for (Index c = 0; c < d; ++c) exact += q(0, 0, 0, c) * k(0, 0, 0, c);
    exact = std::exp(exact / std::sqrt(static_cast<double>(d)));
    const int draws = 2000;
    es::FeatureMap<double> map(d, {.kind = es::FeatureKind::positive_softmax, .features = m, .orthogonal = orthogonal});
    for (int s = 0; s < draws; ++s) {
      map = map.redraw(static_cast<std::uint64_t>(s));
      double dot = 0;
      for (Index r = 0; r < m; ++r) dot += definition(map, q, 0, 0, 0, r) * definition(map, k, 0, 0, 0, r);
      sum += dot;
      square += dot * dot;
    }
    const double mean = sum / draws, deviation = std::sqrt((square / draws - mean * mean) / draws);
    // Seeded: a miss of four standard errors (probability 6e-5) is a fault.
    CHECK(std::abs(mean - exact) < 4 * deviation);
    CHECK(deviation < 0.1 * exact);
  }
  const es::FeatureMap<double> map(d, {.kind = es::FeatureKind::positive_softmax, .features = 2 * d + 3});
  const auto& w = map.projection();
  for (Index r = 0; r < 2 * d + 3; ++r) {
    for (Index p = (r / d) * d; p < r; ++p) {
      double dot = 0, nr = 0, np = 0;
      for (Index c = 0; c < d; ++c) {
        const double a = w[static_cast<std::size_t>(r * d + c)], b = w[static_cast<std::size_t>(p * d + c)];
        dot += a * b, nr += a * a, np += b * b;
      }
      CHECK(std::abs(dot) < 1e-12 * std::sqrt(nr * np));
    }
  }
}

TEST_CASE("large norms stay in range with shifts and the attention does not change") {
  const Tensor q = random_tensor(1, 2, 12, 16, 1), k = random_tensor(1, 2, 12, 16, 2), v = random_tensor(1, 2, 12, 3, 3);
  Tensor big_q = q, big_k = k;
  for (double& x : big_q.values) x *= 25;
  for (double& x : big_k.values) x *= 25;
  const es::FeatureOptions options{.kind = es::FeatureKind::positive_softmax, .features = 64};
  const auto attend = [&]<class T>(T, es::FeatureShift sq, es::FeatureShift sk, Stored<T>& out) {
    const es::FeatureMap<T> map(16, options);
    Stored<T> xq(big_q), xk(big_k), xv(v), fq(1, 2, 12, 64), fk(1, 2, 12, 64), s(1, 2, 12, 1);
    map.apply(xq.view, fq.view, sq, s.view);
    map.apply(xk.view, fk.view, sk, s.view);
    return es::masked_linear_attention(fq.view, fk.view, xv.view, {}, out.view).floored_rows;
  };
  Stored<double> exact(1, 2, 12, 3);
  CHECK(attend(1.0, es::FeatureShift::per_row, es::FeatureShift::per_head, exact) == 0);
  Stored<float> shifted(1, 2, 12, 3), plain(1, 2, 12, 3);
  // Without shifts everything underflows in float: exponents lie near -x^2 / 2 = -400.
  CHECK(attend(1.0f, es::FeatureShift::none, es::FeatureShift::none, plain) == 24);
  CHECK(attend(1.0f, es::FeatureShift::per_row, es::FeatureShift::per_head, shifted) == 0);
  CHECK(relative_to_max(shifted.flat(), exact.flat()) < 1e-3);
}

TEST_CASE("gradients equal central differences") {
  for (const auto kind : kKinds) {
    const es::FeatureMap<double> map(4, {.kind = kind, .epsilon = 1e-2, .features = 7});
    Tensor x = random_tensor(1, 2, 5, 4, 1);
    const Tensor g = random_tensor(1, 2, 5, map.features(), 2);
    Stored<double> sx(x), y(1, 2, 5, map.features()), shift(1, 2, 5, 1), sg(g), x_bar(1, 2, 5, 4);
    map.apply(sx.view, y.view, es::FeatureShift::per_row, shift.view);
    map.apply_vjp(sx.view, y.view, shift.view, sg.view, x_bar.view);
    const auto loss = [&] {
      double sum = 0;
      for (Index h = 0; h < 2; ++h) {
        for (Index i = 0; i < 5; ++i) {
          for (Index r = 0; r < map.features(); ++r) {
            sum += g(0, h, i, r) * definition(map, x, 0, h, i, r) * std::exp(-shift.view.matrix(0, h)(i, 0));
          }
        }
      }
      return sum;
    };
    CHECK(relative_to_max(x_bar.flat(), central_differences(x.values, loss)) < 1e-6);
    Stored<double> twice = x_bar;
    twice.view.data = twice.memory.data();
    map.apply_vjp(sx.view, y.view, shift.view, sg.view, twice.view, true);
    for (std::size_t p = 0; p < twice.memory.size(); ++p) CHECK(twice.memory[p] == doctest::Approx(2 * x_bar.memory[p]));
  }
}

TEST_CASE("gradients of features far below epsilon keep their digits") {
  // Exponents about -18 +- 6 beside an epsilon of 10: a float's y has hardly a digit of the features.
  Tensor x = random_tensor(1, 2, 30, 4, 1);
  for (double& v : x.values) v = static_cast<float>(v + 3);
  const es::FeatureOptions options{.kind = es::FeatureKind::positive_softmax, .epsilon = 10, .features = 7, .scale = 1.0};
  Tensor g = random_tensor(1, 2, 30, 7, 2);
  for (double& v : g.values) v = static_cast<float>(v);
  for (const auto shift : {es::FeatureShift::none, es::FeatureShift::per_row, es::FeatureShift::per_head}) {
    const auto gradient = [&]<class T>(T) {
      const es::FeatureMap<T> map(4, options);
      Stored<T> sx(x), sg(g), y(1, 2, 30, 7), s(1, 2, 30, 1), x_bar(1, 2, 30, 4);
      map.apply(sx.view, y.view, shift, s.view);
      map.apply_vjp(sx.view, y.view, s.view, sg.view, x_bar.view);
      return x_bar.flat();
    };
    // Each term of a gradient errs by its exponent's rounding, the exponents being below 40 in magnitude; 4 operations.
    CHECK(relative_to_max(gradient(1.0f), gradient(1.0)) < 4 * 40 * std::numeric_limits<float>::epsilon());
  }
}

TEST_CASE("gradients beside an epsilon and a log_weight equal central differences") {
  const es::FeatureMap<double> map(4, {.kind = es::FeatureKind::positive_softmax, .epsilon = 1e-2, .features = 7});
  Tensor x = random_tensor(1, 2, 5, 4, 1);
  const Tensor g = random_tensor(1, 2, 5, 7, 2);
  Tensor w = random_tensor(1, 2, 5, 1, 3);
  w(0, 0, 1, 0) = -200, w(0, 1, 2, 0) = 900, w(0, 1, 3, 0) = 0;  // out of every range beside features without it
  Stored<double> sx(x), sw(w), y(1, 2, 5, 7), shift(1, 2, 5, 1), sg(g), x_bar(1, 2, 5, 4);
  map.apply(sx.view, y.view, es::FeatureShift::per_row, shift.view, sw.view);
  map.apply_vjp(sx.view, y.view, shift.view, sg.view, x_bar.view);
  const auto loss = [&] {
    double sum = 0;
    for (Index h = 0; h < 2; ++h) {
      for (Index i = 0; i < 5; ++i) {
        const double s = shift.view.matrix(0, h)(i, 0);
        for (Index r = 0; r < 7; ++r) {
          // Weight and shift together: each alone leaves the range of a double.
          const double feature = definition(map, x, 0, h, i, r) - map.options().epsilon;
          sum += g(0, h, i, r) * feature * std::exp(w(0, h, i, 0) - s);
        }
      }
    }
    return sum;
  };
  CHECK(relative_to_max(x_bar.flat(), central_differences(x.values, loss)) < 1e-6);
}

TEST_CASE("mean absorption leaves the softmax weights as they are and helps random features") {
  const Index l = 40, d = 8;
  Tensor q = random_tensor(1, 1, l, d, 1), k = random_tensor(1, 1, l, d, 2);
  const Tensor v = random_tensor(1, 1, l, 3, 3);
  for (Index i = 0; i < l; ++i) {
    for (Index c = 0; c < d; ++c) q(0, 0, i, c) += 1.5, k(0, 0, i, c) += 1.0;
  }
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  Stored<double> sq(q), sk(k), sv(v), cq(1, 1, l, d), ck(1, 1, l, d), lw(1, 1, l, 1);
  es::absorb_means(sq.view, sk.view, scale, cq.view, ck.view, lw.view);
  const auto softmax = [&](const Stored<double>& a, const Stored<double>& b, bool weights) {
    std::vector<double> out;
    for (Index i = 0; i < l; ++i) {
      std::vector<double> sum(4);
      for (Index j = 0; j < l; ++j) {
        double s = weights ? lw.view.matrix(0, 0)(j, 0) : 0;
        for (Index c = 0; c < d; ++c) s += scale * a.view.matrix(0, 0)(i, c) * b.view.matrix(0, 0)(j, c);
        sum[3] += std::exp(s);
        for (Index c = 0; c < 3; ++c) sum[static_cast<std::size_t>(c)] += std::exp(s) * v(0, 0, j, c);
      }
      for (std::size_t c = 0; c < 3; ++c) out.push_back(sum[c] / sum[3]);
    }
    return out;
  };
  const auto exact = softmax(sq, sk, false);
  CHECK(relative_to_max(softmax(cq, ck, true), exact) < 1e-12);
  double plain_error = 0, centred_error = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const es::FeatureMap<double> map(d, {.kind = es::FeatureKind::positive_softmax, .features = 64, .seed = seed});
    Stored<double> fq(1, 1, l, 64), fk(1, 1, l, 64), s(1, 1, l, 1), out(1, 1, l, 3);
    map.apply(sq.view, fq.view, es::FeatureShift::per_row, s.view);
    map.apply(sk.view, fk.view, es::FeatureShift::per_head, s.view);
    es::masked_linear_attention(fq.view, fk.view, sv.view, {}, out.view);
    plain_error += relative_to_max(out.flat(), exact);
    map.apply(cq.view, fq.view, es::FeatureShift::per_row, s.view);
    map.apply(ck.view, fk.view, es::FeatureShift::per_head, s.view, lw.view);
    es::masked_linear_attention(fq.view, fk.view, sv.view, {}, out.view);
    centred_error += relative_to_max(out.flat(), exact);
  }
  CHECK(centred_error < 0.5 * plain_error);
}

TEST_CASE("wrong options and shapes are refused") {
  CHECK_THROWS_AS(es::FeatureMap<float>(0, {}), es::ValueError);
  CHECK_THROWS_AS(es::FeatureMap<float>(2, {.epsilon = -1}), es::ValueError);
  CHECK_THROWS_AS(es::FeatureMap<float>(2, {.kind = es::FeatureKind::positive_softmax, .features = 0}), es::ValueError);
  CHECK_THROWS_AS(es::FeatureMap<float>(2, {.kind = es::FeatureKind::positive_softmax, .projection = {1, 2, 3}}),
                  es::ShapeError);
  CHECK_THROWS_AS(es::FeatureMap<float>(2, {.kind = es::FeatureKind::positive_softmax, .projection = {1, std::nan("")}}),
                  es::ValueError);
  const es::FeatureMap<float> map(2, {.kind = es::FeatureKind::positive_softmax, .projection = {1, 2, 3, 4}});
  CHECK(map.features() == 2);
  CHECK_THROWS_AS(map.redraw(1), es::ValueError);
  Stored<float> x(1, 1, 3, 2), y(1, 1, 3, 2, 0, false, 4.0f), wrong(1, 1, 3, 3);
  CHECK_THROWS_AS(map.apply(wrong.view, y.view), es::ShapeError);
  CHECK_THROWS_AS(map.apply(x.view, y.view, es::FeatureShift::per_row), es::ValueError);
  CHECK_THROWS_AS(map.apply(x.view, x.view), es::ValueError);
  CHECK(y.memory == std::vector<float>(6, 4.0f));
}

// ---- a weight epsilon beside stabilised features ------------------------------------------------------------------------

namespace {

using Wide = long double;  // exp(-4000) is still a number

// exp(w_r . x' - |x'|^2 / 2) / sqrt(m) + epsilon.
std::vector<Wide> wide_features(const es::FeatureMap<double>& map, const Tensor& x, Index b, Index h, Index i) {
  const Wide scale = map.options().scale.value_or(1 / std::sqrt(static_cast<double>(x.d)));
  std::vector<Wide> y;
  for (Index r = 0; r < map.features(); ++r) {
    Wide dot = 0, square = 0;
    for (Index k = 0; k < x.d; ++k) {
      dot += static_cast<Wide>(map.projection()[static_cast<std::size_t>(r * x.d + k)]) * std::sqrt(scale) * x(b, h, i, k);
      square += scale * x(b, h, i, k) * x(b, h, i, k);
    }
    y.push_back(std::exp(dot - square / 2) / std::sqrt(static_cast<Wide>(map.features())) +
                static_cast<Wide>(map.options().epsilon));
  }
  return y;
}

struct WideAttention {
  std::vector<double> out, log_denominator;
};
WideAttention wide_attention(const es::FeatureMap<double>& map, const Tensor& q, const Tensor& k, const Tensor& v,
                             double epsilon, bool causal) {
  WideAttention r;
  for (Index h = 0; h < q.h; ++h) {
    for (Index i = 0; i < q.l; ++i) {
      const std::vector<Wide> a = wide_features(map, q, 0, h, i);
      Wide total = 0;
      std::vector<Wide> sum(static_cast<std::size_t>(v.d));
      for (Index j = 0; j < (causal ? i + 1 : k.l); ++j) {
        const std::vector<Wide> b = wide_features(map, k, 0, h / (q.h / k.h), j);
        Wide w = epsilon;
        for (std::size_t f = 0; f < a.size(); ++f) w += a[f] * b[f];
        total += w;
        for (Index c = 0; c < v.d; ++c) sum[static_cast<std::size_t>(c)] += w * v(0, h / (q.h / k.h), j, c);
      }
      r.log_denominator.push_back(static_cast<double>(std::log(total)));
      for (const Wide s : sum) r.out.push_back(static_cast<double>(s / total));
    }
  }
  return r;
}

// Rows of very different norms, rounded to float so that both types see the same numbers.
Tensor rows_of_all_sizes(Index h, Index l, Index d, double largest, unsigned seed) {
  Tensor t = random_tensor(1, h, l, d, seed);
  for (Index i = 0; i < l; ++i) {
    for (Index ih = 0; ih < h; ++ih) {
      for (Index c = 0; c < d; ++c) {
        t(0, ih, i, c) = static_cast<float>(t(0, ih, i, c) * largest * static_cast<double>(i % 4) / 3);
      }
    }
  }
  return t;
}

}  // namespace

TEST_CASE_TEMPLATE("a weight epsilon beside features far out of range of the type", T, float, double) {
  const Index l = 12, d = 4;
  // The exponents of one row, w . x' - |x'|^2 / 2 with |x'|^2 up to scale d largest^2, reach -2000: e^-2000 is no double.
  const double largest = 45;
  const es::FeatureOptions options{.kind = es::FeatureKind::positive_softmax, .features = 16, .seed = 5};
  const es::FeatureMap<double> exact(d, options);
  const es::FeatureMap<T> map(d, options);
  const Tensor v = random_tensor(1, 1, l, 3, 3), g = random_tensor(1, 2, l, 3, 4);
  for (const double key_size : {1.0, largest}) {
    for (const double epsilon : {1e-8, 1.0, 1e-300}) {
      for (const bool causal : {false, true}) {
        Tensor q = rows_of_all_sizes(2, l, d, largest, 1), k = rows_of_all_sizes(1, l, d, key_size, 2);
        CAPTURE(key_size);
        CAPTURE(epsilon);
        CAPTURE(causal);
        Stored<T> sq(q), sk(k), sv(v), fq(1, 2, l, 16), fk(1, 1, l, 16), q_shift(1, 2, l, 1), k_shift(1, 1, l, 1);
        Stored<T> out(1, 2, l, 3), den(1, 2, l, 1);
        map.apply(sq.view, fq.view, es::FeatureShift::per_row, q_shift.view);
        map.apply(sk.view, fk.view, es::FeatureShift::per_head, k_shift.view);
        std::vector<double> shift(static_cast<std::size_t>(2 * l));
        es::balance_shifts(epsilon, fq.view, q_shift.view, k_shift.view, {shift.data(), 2 * l});
        const es::LinearOptions linear{.weight_epsilon = epsilon,
                                       .causal = causal ? es::Causal::top_left : es::Causal::none,
                                       .weight_log_shift = {shift.data(), 2 * l}};
        const auto result = es::masked_linear_attention(fq.view, fk.view, sv.view, {}, out.view, den.view, linear);
        CHECK(result.floored_rows == 0);
        // An exponent of size E carries E eps of rounding in the scale and the square and in their shift; weights are positive,
        // so that a ratio has at most twice that of its terms.
        const double bound = 4 * 2000 * std::numeric_limits<T>::epsilon();
        const WideAttention want = wide_attention(exact, q, k, v, epsilon, causal);
        CHECK(relative_to_max(out.flat(), want.out) < 2 * bound);
        double worst = 0;
        for (std::size_t p = 0; p < shift.size(); ++p) {
          CHECK(shift[p] >= std::log(epsilon) - 1e-4 * std::abs(std::log(epsilon)));
          worst = std::max(worst, std::abs(std::log(static_cast<double>(den.flat()[p])) + shift[p] - want.log_denominator[p]));
        }
        CHECK(worst < bound);
        if (sizeof(T) == 4) continue;

        Stored<T> sg(g), fq_bar(1, 2, l, 16), fk_bar(1, 1, l, 16), q_bar(1, 2, l, d), k_bar(1, 1, l, d), v_bar(1, 1, l, 3);
        es::masked_linear_attention_vjp(fq.view, fk.view, sv.view, {}, out.view, den.view, sg.view,
                                        {.q = fq_bar.view, .k = fk_bar.view, .v = v_bar.view}, linear);
        map.apply_vjp(sq.view, fq.view, q_shift.view, fq_bar.view, q_bar.view);
        map.apply_vjp(sk.view, fk.view, k_shift.view, fk_bar.view, k_bar.view);
        Tensor values = v;
        const auto loss = [&] {
          const auto r = wide_attention(exact, q, k, values, epsilon, causal);
          double sum = 0;
          for (std::size_t p = 0; p < r.out.size(); ++p) sum += r.out[p] * g.values[p];
          return sum;
        };
        // Differences of a loss near 1 with a step of 1e-5 carry an error of 1e-11 of their own, and where epsilon or the keys
        // of norm 0 outweigh all others, the gradient in q is smaller than that.
        const auto agree = [&](const std::vector<T>& got, std::vector<double>& at) {
          const std::vector<double> differences = central_differences(at, loss);
          double error = 0, size = 0;
          for (std::size_t p = 0; p < got.size(); ++p) {
            error = std::max(error, std::abs(static_cast<double>(got[p]) - differences[p]));
            size = std::max(size, std::abs(differences[p]));
          }
          return error <= 1e-6 * size + 1e-9;
        };
        CHECK(agree(q_bar.flat(), q.values));
        CHECK(agree(k_bar.flat(), k.values));
        CHECK(agree(v_bar.flat(), values.values));
      }
    }
  }
}

TEST_CASE("balance_shifts refuses shifts that are not one a head, and wrong sizes") {
  Stored<double> f(1, 2, 3, 4), s(1, 2, 3, 1), k(1, 1, 3, 1);
  std::vector<double> rows(6, 7.0);
  const es::VectorView<double> view{rows.data(), 6};
  CHECK_THROWS_AS(es::balance_shifts(0, f.view, s.view, k.view, view), es::ValueError);
  CHECK_THROWS_AS(es::balance_shifts(std::nan(""), f.view, s.view, k.view, view), es::ValueError);
  CHECK_THROWS_AS(es::balance_shifts(1, f.view, s.view, k.view, es::VectorView<double>{rows.data(), 5}), es::ShapeError);
  CHECK_THROWS_AS(es::balance_shifts(1, f.view, k.view, k.view, view), es::ShapeError);
  k.view.matrix(0, 0)(1, 0) = 1;
  CHECK_THROWS_AS(es::balance_shifts(1, f.view, s.view, k.view, view), es::ValueError);
  CHECK(rows == std::vector<double>(6, 7.0));
  // The option itself.
  Stored<double> v(1, 1, 3, 2), out(1, 2, 3, 2), fk(1, 1, 3, 4);
  CHECK_THROWS_AS(es::masked_linear_attention(f.view, fk.view, v.view, {}, out.view, {},
                                              {.weight_epsilon = 1, .weight_log_shift = {rows.data(), 5}}),
                  es::ShapeError);
  rows[2] = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(es::masked_linear_attention(f.view, fk.view, v.view, {}, out.view, {},
                                              {.weight_epsilon = 1, .weight_log_shift = {rows.data(), 6}}),
                  es::ValueError);
}
