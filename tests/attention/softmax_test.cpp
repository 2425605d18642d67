// Exact softmax attention against a slow loop in long double: values, gradients, masks, shapes, threads, errors.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/softmax.hpp>
#include <espalier/core/error.hpp>
#include <espalier/masks/dense.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "attention/strided.hpp"

using namespace espalier;
using test::Order;
using test::Strided;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A one-dimensional Toeplitz mask t[i - j + cols - 1] by its entries alone.
template <class T>
class ToeplitzMask final : public Mask<T> {
 public:
  ToeplitzMask(Index rows, Index cols, std::vector<double> table)
      : Mask<T>(rows, cols), parameters_(std::move(table)), table_(parameters_.begin(), parameters_.end()) {
    for (Index i = 0; i < rows; ++i) row_key_.push_back(static_cast<std::int32_t>(i + cols - 1));
    for (Index j = 0; j < cols; ++j) col_key_.push_back(static_cast<std::int32_t>(j));
  }
  Entries<T> entries() const override {
    Entries<T> e;
    e.kind = EntryKind::offset_table;
    e.rows = this->rows(), e.cols = this->cols();
    e.table = table_.data(), e.table_size = static_cast<Index>(table_.size());
    e.row_key = row_key_.data(), e.col_key = col_key_.data();
    return e;
  }
  Index entries_gradient_size() const override { return static_cast<Index>(table_.size()); }
  EntriesGradient<T> entries_gradient(T* scratch) const override {
    EntriesGradient<T> g;
    g.table = scratch;
    return g;
  }
  void fold_entries_gradient(const T* scratch, VectorView<T> bar, const Context<Cpu>&) const override {
    for (Index p = 0; p < bar.size; ++p) bar[p] += scratch[p];
  }
  std::span<const double> parameters() const override { return parameters_; }

 protected:
  void apply(MatrixView<const T>, MatrixView<T>, bool, const Context<Cpu>&) const override {}

 private:
  std::vector<double> parameters_;
  std::vector<T> table_;
  std::vector<std::int32_t> row_key_, col_key_;
};

// Entries from a formula, through an entry source; the only way to a bias of -inf.
template <class T>
class FormulaMask final : public Mask<T>, private EntrySource<T> {
 public:
  FormulaMask(Index rows, Index cols, std::function<double(Index, Index)> f) : Mask<T>(rows, cols), f_(std::move(f)) {}
  Entries<T> entries() const override {
    Entries<T> e;
    e.kind = EntryKind::source;
    e.rows = this->rows(), e.cols = this->cols();
    e.source = this;
    return e;
  }

 protected:
  void apply(MatrixView<const T>, MatrixView<T>, bool, const Context<Cpu>&) const override {}

 private:
  void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const override {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) out[i * stride + j] = static_cast<T>(f_(row0 + i, col0 + j));
    }
  }
  std::function<double(Index, Index)> f_;
};

struct NoEntries final : Mask<float> {
  NoEntries(Index rows, Index cols) : Mask<float>(rows, cols) {}
  void apply(MatrixView<const float>, MatrixView<float>, bool, const Context<Cpu>&) const override {}
};

using Entry = std::function<double(Index b, Index h, Index i, Index j)>;

// The whole call in exact terms: what the slow loop needs.
struct Setting {
  Entry bias{}, mask{};
  double scale = 1;
  bool causal = false;
  Index shift = 0;
  std::vector<std::int64_t> counts{};
};

// out and log-sum-exp by the definition, every operation in type R.
template <class R>
void slow_softmax(const Strided<R>& q, const Strided<R>& k, const Strided<R>& v, const Setting& s, Strided<R>& out,
                  Strided<R>& lse) {
  const auto qv = q.view(), kv = k.view(), vv = v.view();
  const Index group = qv.heads() / kv.heads();
  std::vector<R> scores(static_cast<std::size_t>(kv.length())), factors(scores.size());
  for (Index b = 0; b < qv.batch(); ++b) {
    const Index keys = s.counts.empty() ? kv.length() : static_cast<Index>(s.counts[static_cast<std::size_t>(b)]);
    for (Index h = 0; h < qv.heads(); ++h) {
      for (Index i = 0; i < qv.length(); ++i) {
        const bool padding = !s.counts.empty() && qv.length() == kv.length() && i >= keys;
        R most = -std::numeric_limits<R>::infinity();
        for (Index j = 0; j < kv.length(); ++j) {
          const auto at = static_cast<std::size_t>(j);
          const bool out_of_it = padding || j >= keys || (s.causal && j - i > s.shift);
          factors[at] = out_of_it ? R(0) : s.mask ? static_cast<R>(s.mask(b, h, i, j)) : R(1);
          R dot = 0;
          for (Index t = 0; t < qv.width(); ++t) dot += q(b, h, i, t) * k(b, h / group, j, t);
          scores[at] = static_cast<R>(s.scale) * dot + (s.bias ? static_cast<R>(s.bias(b, h, i, j)) : R(0));
          if (factors[at] != R(0)) most = std::max(most, scores[at]);
        }
        R sum = 0;
        for (Index c = 0; c < vv.width(); ++c) out(b, h, i, c) = 0;
        for (Index j = 0; j < kv.length() && most > -std::numeric_limits<R>::infinity(); ++j) {
          const auto at = static_cast<std::size_t>(j);
          const R w = factors[at] == R(0) ? R(0) : factors[at] * std::exp(scores[at] - most);
          sum += w;
          for (Index c = 0; c < vv.width(); ++c) out(b, h, i, c) += w * v(b, h / group, j, c);
        }
        for (Index c = 0; c < vv.width() && sum > 0; ++c) out(b, h, i, c) /= sum;
        lse(b, h, i, 0) = sum > 0 ? most + std::log(sum) : -std::numeric_limits<R>::infinity();
      }
    }
  }
}

// || a - b ||_F and || b ||_F.
template <class T, class R>
std::pair<double, double> distance(const Strided<T>& a, const Strided<R>& b) {
  double d = 0, n = 0;
  b.each([&](Index i, Index j, Index l, Index c) {
    const R x = static_cast<R>(a(i, j, l, c)), y = b(i, j, l, c);
    if (std::isinf(y) || std::isinf(x)) {
      CHECK(x == y);
      return;
    }
    d += static_cast<double>((x - y) * (x - y));
    n += static_cast<double>(y * y);
  });
  return {std::sqrt(d), std::sqrt(n)};
}

struct Shape4 {
  Index batch = 1, heads = 1, key_heads = 1, queries = 1, keys = 1, width = 4, values = 4;
};

template <class T>
struct Problem {
  Shape4 s;
  Strided<T> q, k, v, out, lse, out_bar;
  Problem(const Shape4& shape, Order order, double size = 1)
      : s(shape),
        q(s.batch, s.heads, s.queries, s.width, order),
        k(s.batch, s.key_heads, s.keys, s.width, order),
        v(s.batch, s.key_heads, s.keys, s.values, order),
        out(s.batch, s.heads, s.queries, s.values, order),
        lse(s.batch, s.heads, s.queries, 1, order),
        out_bar(s.batch, s.heads, s.queries, s.values, order) {
    q.randomise(1, size), k.randomise(2, size), v.randomise(3), out_bar.randomise(4);
    out.fill(T(55)), lse.fill(T(55));
  }
};

template <class T>
void check_forward(const Shape4& shape, const Setting& setting, const HeadMasks<T>& bias, const HeadMasks<T>& masks,
                   SoftmaxOptions options, Order order = Order::bhld, double size = 1) {
  CAPTURE(shape.queries);
  CAPTURE(shape.keys);
  CAPTURE(shape.width);
  Problem<T> p(shape, order, size);
  Setting exact = setting;
  exact.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(shape.width)));
  options.scale = exact.scale;
  if (!exact.counts.empty()) options.key_counts = {exact.counts.data(), static_cast<Index>(exact.counts.size())};
  for (const int threads : {1, 2}) {
    const Strided<T> before_out = p.out, before_lse = p.lse;
    softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, bias, masks, options, {.threads = threads});
    CHECK(p.out.gaps_intact());
    CHECK(p.lse.gaps_intact());
    if (threads == 2) {
      CHECK(p.out.same(before_out));
      CHECK(p.lse.same(before_lse));
    }
  }
  // One precision above double, so that the plain loop in double has an error to compare with.
  using Exact = long double;
  Strided<Exact> out(shape.batch, shape.heads, shape.queries, shape.values), lse(shape.batch, shape.heads, shape.queries, 1);
  slow_softmax<Exact>(test::converted<Exact>(p.q), test::converted<Exact>(p.k), test::converted<Exact>(p.v), exact, out, lse);
  Strided<T> plain_out = p.out, plain_lse = p.lse;
  slow_softmax<T>(p.q, p.k, p.v, exact, plain_out, plain_lse);
  // The plain loop may be exact by luck on tiny sizes: half an ulp of the result (out) and of the scores' size (log-sum-exp).
  const double eps = std::numeric_limits<T>::epsilon();
  const auto [error, norm] = distance(p.out, out);
  CHECK(error <= 2 * distance(plain_out, out).first + 2 * eps * norm);
  const auto [lse_error, lse_norm] = distance(p.lse, lse);
  CHECK(lse_error <=
        2 * distance(plain_lse, lse).first + 2 * eps * (lse_norm + std::sqrt(shape.queries * shape.heads * shape.batch)));
}

std::vector<double> random_table(Index n, std::uint64_t seed, double size = 1) {
  std::vector<double> t;
  for (Index i = 0; i < n; ++i)
    t.push_back(static_cast<double>(static_cast<float>(size * Random(seed).normal(static_cast<std::uint64_t>(i)))));
  return t;
}

}  // namespace

TEST_CASE_TEMPLATE("forward equals the slow loop for many sizes", T, float, double) {
  for (const Index n : {1, 2, 3, 7, 13, 64, 101, 129, 197, 311}) {
    for (const Index m : {n, n + 5}) {
      check_forward<T>({1, 1, 1, n, m, 16, 16}, {}, {}, {}, {});
      check_forward<T>({1, 2, 1, n, m, 5, 7}, {}, {}, {}, {}, Order::blhd);
    }
  }
  check_forward<T>({2, 4, 2, 37, 53, 64, 80}, {}, {}, {}, {}, Order::blhd);
  check_forward<T>({1, 1, 1, 40, 40, 1, 1}, {}, {}, {}, {.scale = 3.0});
  check_forward<T>({1, 1, 1, 300, 700, 64, 64}, {}, {}, {}, {}, Order::bhld, 4);  // sharp: scores up to some 100
}

TEST_CASE_TEMPLATE("causal, both alignments", T, float, double) {
  for (const Index n : {1, 5, 64, 197, 300}) {
    for (const Index m : {n, n + 41, n / 2 + 1}) {
      Setting s;
      s.causal = true;
      check_forward<T>({1, 2, 2, n, m, 8, 8}, s, {}, {}, {.causal = Causal::top_left});
      s.shift = m - n;
      check_forward<T>({1, 2, 2, n, m, 8, 8}, s, {}, {}, {.causal = Causal::bottom_right});
    }
  }
}

TEST_CASE_TEMPLATE("key counts, zero among them", T, float, double) {
  Setting s;
  s.counts = {0, 7, 40};
  check_forward<T>({3, 2, 1, 40, 40, 8, 8}, s, {}, {}, {});
  check_forward<T>({3, 2, 1, 13, 40, 8, 8}, s, {}, {}, {});
  s.causal = true;
  check_forward<T>({3, 2, 1, 40, 40, 8, 8}, s, {}, {}, {.causal = Causal::top_left});
}

TEST_CASE_TEMPLATE("bias and multiplicative masks: one, one a head, one a batch and head", T, float, double) {
  const Shape4 shape{2, 2, 1, 150, 133, 16, 16};
  std::vector<MaskPointer<T>> toeplitz, dense;
  std::vector<std::vector<double>> tables, values;
  for (Index i = 0; i < 4; ++i) {
    tables.push_back(random_table(282, static_cast<std::uint64_t>(10 + i)));
    values.push_back(random_table(150 * 133, static_cast<std::uint64_t>(20 + i)));
    for (double& x : values.back()) x = x < -0.3 ? 0 : std::abs(x);
    toeplitz.push_back(std::make_shared<ToeplitzMask<T>>(150, 133, tables.back()));
    dense.push_back(std::make_shared<DenseMask<T>>(MatrixView<const double>(values.back().data(), 150, 133)));
  }
  for (const Index count : {1, 2, 4}) {
    const auto position = [count](Index b, Index h) {
      return static_cast<std::size_t>(count == 1 ? 0 : count == 2 ? h : 2 * b + h);
    };
    const Entry table = [&](Index b, Index h, Index i, Index j) {
      return tables[position(b, h)][static_cast<std::size_t>(i - j + 132)];
    };
    const Entry matrix = [&](Index b, Index h, Index i, Index j) {
      return values[position(b, h)][static_cast<std::size_t>(i * 133 + j)];
    };
    const HeadMasks<T> t(std::vector<MaskPointer<T>>(toeplitz.begin(), toeplitz.begin() + count));
    const HeadMasks<T> m(std::vector<MaskPointer<T>>(dense.begin(), dense.begin() + count));
    check_forward<T>(shape, {.bias = table}, t, {}, {});
    check_forward<T>(shape, {.mask = matrix}, {}, m, {});
    check_forward<T>(shape, {.bias = matrix}, m, {}, {});
    check_forward<T>(shape, {.bias = table, .mask = matrix}, t, m, {});
    check_forward<T>(shape, {.bias = table, .mask = matrix, .causal = true, .shift = -17}, t, m,
                     {.causal = Causal::bottom_right});
  }
}

TEST_CASE_TEMPLATE("rows without a pair: out 0, log-sum-exp -inf, gradients 0", T, float, double) {
  const Shape4 shape{1, 1, 1, 70, 60, 8, 8};
  const auto f = [](Index i, Index j) {
    return i % 3 == 0 || (i + j) % 5 == 0 ? -kInfinity : 0.25 * static_cast<double>(j % 4);
  };
  const FormulaMask<T> bias(70, 60, f);
  check_forward<T>(shape, {.bias = [&](Index, Index, Index i, Index j) { return f(i, j); }}, bias, {}, {});
  const auto g = [](Index i, Index j) { return i % 3 == 0 ? 0.0 : static_cast<double>(j % 2); };
  const FormulaMask<T> mask(70, 60, g);
  check_forward<T>(shape, {.mask = [&](Index, Index, Index i, Index j) { return g(i, j); }}, {}, mask, {});
  // A pair left out may have any score: it must not set the row's maximum.
  Problem<T> p(shape, Order::bhld);
  p.k(0, 0, 0, 0) = T(1000), p.k(0, 0, 2, 0) = T(-1000);
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, {}, mask, {});
  p.out.each([&](Index, Index, Index i, Index c) {
    CHECK((i % 3 == 0 ? p.out(0, 0, i, c) == T(0) : std::isfinite(p.out(0, 0, i, c))));
  });

  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, bias, {}, {});
  Strided<T> q_bar(1, 1, 70, 8);
  q_bar.fill(T(9));
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, {.q = q_bar}, bias, {}, {});
  q_bar.each([&](Index, Index, Index i, Index c) {
    CHECK((i % 3 == 0 ? q_bar(0, 0, i, c) == T(0) : std::isfinite(q_bar(0, 0, i, c))));
  });
}

namespace {

// Gradient of `value` at every element that `each` visits, by central differences.
double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
  double most = 0, error = 0;
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    most = std::max(most, std::abs(expected[i]));
    error = std::max(error, std::abs(got[i] - expected[i]));
  }
  return error / most;
}

template <class Loss>
std::vector<double> differences(const Strided<double>& x, const Loss& loss) {
  std::vector<double> r;
  constexpr double h = 1e-5;
  x.each([&](Index b, Index i, Index l, Index c) {
    const double at = x(b, i, l, c);
    x(b, i, l, c) = at + h;
    const double up = loss();
    x(b, i, l, c) = at - h;
    const double down = loss();
    x(b, i, l, c) = at;
    r.push_back((up - down) / (2 * h));
  });
  return r;
}
template <class Loss>
std::vector<double> differences(std::vector<double>& x, const Loss& loss) {
  std::vector<double> r;
  constexpr double h = 1e-5;
  for (double& e : x) {
    const double at = e;
    e = at + h;
    const double up = loss();
    e = at - h;
    const double down = loss();
    e = at;
    r.push_back((up - down) / (2 * h));
  }
  return r;
}
std::vector<double> flat(const Strided<double>& x) {
  std::vector<double> r;
  x.each([&](Index b, Index h, Index l, Index c) { r.push_back(x(b, h, l, c)); });
  return r;
}

// zeros: half of the mask's entries are 0 (one in each row is not, or there would be no gradient).
void check_gradients(const Shape4& s, SoftmaxOptions options, Setting setting, Order order, bool zeros = false) {
  Problem<double> p(s, order);
  setting.scale = 1 / std::sqrt(static_cast<double>(s.width));
  if (!setting.counts.empty()) options.key_counts = {setting.counts.data(), static_cast<Index>(setting.counts.size())};
  std::vector<std::vector<double>> tables, values;
  std::vector<MaskPointer<double>> bias, masks;
  const Index lags = s.queries + s.keys - 1;
  for (Index h = 0; h < s.heads; ++h) {
    tables.push_back(random_table(lags, static_cast<std::uint64_t>(30 + h)));
    values.push_back(random_table(s.queries * s.keys, static_cast<std::uint64_t>(40 + h)));
    for (Index p = 0; p < s.queries * s.keys; ++p) {
      double& x = values.back()[static_cast<std::size_t>(p)];
      x = zeros && x < 0 && p % s.keys != p / s.keys % s.keys ? 0 : std::abs(x) + 0.1;
    }
    bias.push_back(std::make_shared<ToeplitzMask<double>>(s.queries, s.keys, tables.back()));
    masks.push_back(std::make_shared<DenseMask<double>>(MatrixView<const double>(values.back().data(), s.queries, s.keys)));
  }
  setting.bias = [&](Index, Index h, Index i, Index j) {
    return tables[static_cast<std::size_t>(h)][static_cast<std::size_t>(i - j + s.keys - 1)];
  };
  setting.mask = [&](Index, Index h, Index i, Index j) {
    return values[static_cast<std::size_t>(h)][static_cast<std::size_t>(i * s.keys + j)];
  };
  const auto loss = [&] {
    Strided<double> out(s.batch, s.heads, s.queries, s.values), lse(s.batch, s.heads, s.queries, 1);
    slow_softmax<double>(p.q, p.k, p.v, setting, out, lse);
    double sum = 0;
    out.each([&](Index b, Index h, Index l, Index c) { sum += out(b, h, l, c) * p.out_bar(b, h, l, c); });
    return sum;
  };
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, bias, masks, options);
  Strided<double> q_bar = p.q, k_bar = p.k, v_bar = p.v;
  std::vector<double> table_bar(static_cast<std::size_t>(s.heads * lags), 3),
      value_bar(static_cast<std::size_t>(s.heads * s.queries * s.keys), 3);
  AttentionGradients<double> g{.q = q_bar, .k = k_bar, .v = v_bar};
  g.bias_parameters = MatrixView<double>(table_bar.data(), s.heads, lags);
  g.parameters = MatrixView<double>(value_bar.data(), s.heads, s.queries * s.keys);
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, bias, masks, options);
  CHECK(q_bar.gaps_intact());
  CHECK(k_bar.gaps_intact());
  CHECK(v_bar.gaps_intact());
  CHECK(relative_error(flat(q_bar), differences(p.q, loss)) < 1e-6);
  CHECK(relative_error(flat(k_bar), differences(p.k, loss)) < 1e-6);
  CHECK(relative_error(flat(v_bar), differences(p.v, loss)) < 1e-6);
  std::vector<double> expected_tables, expected_values;
  for (auto& t : tables) {
    for (const double x : differences(t, loss)) expected_tables.push_back(x);
  }
  for (auto& m : values) {
    for (const double x : differences(m, loss)) expected_values.push_back(x);
  }
  CHECK(relative_error(table_bar, expected_tables) < 1e-6);
  CHECK(relative_error(value_bar, expected_values) < 1e-6);

  // The same again on top: twice the gradient. And any one alone: the same bits.
  const Strided<double> once = q_bar;
  g.accumulate = true;
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, bias, masks, options);
  once.each([&](Index b, Index h, Index l, Index c) {
    CHECK(q_bar(b, h, l, c) == doctest::Approx(2 * once(b, h, l, c)).epsilon(1e-12));
  });
  Strided<double> alone = p.q;
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, {.q = alone}, bias, masks, options);
  CHECK(alone.same(once));
}

}  // namespace

TEST_CASE("gradients equal central differences") {
  check_gradients({1, 1, 1, 5, 7, 3, 2}, {}, {}, Order::bhld);
  check_gradients({2, 2, 1, 6, 4, 3, 5}, {}, {}, Order::blhd);
  check_gradients({1, 2, 2, 9, 9, 2, 3}, {.causal = Causal::top_left}, {.causal = true}, Order::bhld);
  check_gradients({3, 2, 1, 6, 6, 3, 3}, {}, {.counts = {0, 4, 6}}, Order::blhd);
}

TEST_CASE("entries of the mask that are 0 have the gradient of the definition") {
  check_gradients({1, 1, 1, 5, 7, 3, 2}, {}, {}, Order::bhld, true);
  check_gradients({1, 2, 2, 9, 9, 2, 3}, {.causal = Causal::top_left}, {.causal = true}, Order::bhld, true);
  check_gradients({3, 2, 1, 6, 6, 3, 3}, {}, {.counts = {0, 4, 6}}, Order::blhd, true);
}

TEST_CASE_TEMPLATE("a pair of weight 0 with a score past all others: finite gradients, 0 where it weighs nothing", T, float,
                   double) {
  const Shape4 shape{1, 1, 1, 3, 4, 2, 2};
  Problem<T> p(shape, Order::bhld);
  const T far = sizeof(T) == 4 ? T(200) : T(2000);  // e^(s - LSE) is beyond the type
  for (Index i = 0; i < 3; ++i) p.q(0, 0, i, 0) = far, p.q(0, 0, i, 1) = T(0);
  for (Index j = 0; j < 4; ++j) p.k(0, 0, j, 0) = j == 2 ? T(1) : T(0), p.k(0, 0, j, 1) = T(0);
  std::vector<double> values(12, 1.0);
  for (std::size_t i = 0; i < 3; ++i) values[4 * i + 2] = 0;
  const DenseMask<T> mask(MatrixView<const double>(values.data(), 3, 4));
  const SoftmaxOptions options{.scale = 1.0};
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, {}, mask, options);
  Strided<T> q_bar = p.q, k_bar = p.k, v_bar = p.v;
  std::vector<T> bar(12);
  AttentionGradients<T> g{.q = q_bar, .k = k_bar, .v = v_bar};
  g.parameters = MatrixView<T>(bar.data(), 1, 12);
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, {}, mask, options);
  for (const Strided<T>* x : {&q_bar, &k_bar, &v_bar}) {
    x->each([&](Index b, Index h, Index l, Index c) { CHECK(std::isfinite((*x)(b, h, l, c))); });
  }
  CHECK(v_bar(0, 0, 2, 0) == 0);
  for (const T x : bar) CHECK(std::isfinite(x));
  // Two such pairs share one entry of a table, with cotangents of either sign: their sum is a number, too.
  std::vector<double> table(6, 1.0);
  table[4] = 0;  // pairs one before the diagonal: (1, 0), (2, 1)
  const ToeplitzMask<T> shared(3, 4, table);
  for (Index j = 0; j < 4; ++j) p.k(0, 0, j, 0) = j < 2 ? T(1) : T(0);
  for (Index i = 0; i < 3; ++i) {
    for (Index c = 0; c < 2; ++c) p.out_bar(0, 0, i, c) = i == 1 ? T(1e3) : T(-1e3), p.v(0, 0, i, c) = i < 2 ? T(3) : T(1);
  }
  std::vector<T> table_bar(6);
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, {}, shared, options);
  AttentionGradients<T> of_table{};
  of_table.parameters = MatrixView<T>(table_bar.data(), 1, 6);
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, of_table, {}, shared, options);
  for (const T x : table_bar) CHECK(std::isfinite(x));
}

TEST_CASE_TEMPLATE("a key of NaN that the mask hides spoils nothing but its entries' gradient", T, float, double) {
  const Shape4 shape{1, 1, 1, 5, 6, 3, 2};
  Problem<T> p(shape, Order::bhld);
  std::vector<double> values(30, 1.0);
  for (std::size_t i = 0; i < 5; ++i) values[6 * i + 4] = 0;
  const DenseMask<T> mask(MatrixView<const double>(values.data(), 5, 6));
  for (Index c = 0; c < 3; ++c) p.k(0, 0, 4, c) = std::numeric_limits<T>::quiet_NaN();
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, {}, mask, {});
  Strided<T> k_bar = p.k, v_bar = p.v;
  std::vector<T> bar(30);
  AttentionGradients<T> g{.k = k_bar, .v = v_bar};
  g.parameters = MatrixView<T>(bar.data(), 1, 30);
  softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, {}, mask, {});
  k_bar.each([&](Index b, Index h, Index l, Index c) { CHECK(std::isfinite(k_bar(b, h, l, c))); });
  v_bar.each([&](Index b, Index h, Index l, Index c) { CHECK(std::isfinite(v_bar(b, h, l, c))); });
  for (std::size_t at = 0; at < 30; ++at) CHECK((at % 6 == 4) == std::isnan(bar[at]));
}

TEST_CASE_TEMPLATE("gradients on long sequences: stripes add up, two threads give the same bits", T, float, double) {
  // 1100 keys make two stripes and more than one chunk; checked against the formula with P from the slow loop.
  const Shape4 s{1, 2, 1, 150, 1100, 16, 16};
  Problem<T> p(s, Order::bhld);
  const ToeplitzMask<T> bias(s.queries, s.keys, random_table(s.queries + s.keys - 1, 5));
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, bias, {}, {});
  Strided<T> bars[2][3];
  std::vector<T> table_bar[2];
  for (const int run : {0, 1}) {
    for (int i = 0; i < 3; ++i) bars[run][i] = i == 0 ? p.q : p.k;
    table_bar[run].assign(static_cast<std::size_t>(s.queries + s.keys - 1), T(1));
    AttentionGradients<T> g{.q = bars[run][0], .k = bars[run][1], .v = bars[run][2]};
    g.bias_parameters = MatrixView<T>(table_bar[run].data(), 1, s.queries + s.keys - 1);
    softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, bias, {}, {}, {.threads = run + 1});
  }
  for (int i = 0; i < 3; ++i) CHECK(bars[0][i].same(bars[1][i]));
  CHECK(table_bar[0] == table_bar[1]);

  Strided<double> q_bar(1, 2, s.queries, 16), k_bar(1, 1, s.keys, 16), v_bar(1, 1, s.keys, 16);
  std::vector<double> exact_table(table_bar[0].size(), 0);
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < s.queries; ++i) {
      std::vector<double> w(static_cast<std::size_t>(s.keys));
      double most = -kInfinity, sum = 0, delta = 0;
      for (Index j = 0; j < s.keys; ++j) {
        double dot = 0;
        for (Index t = 0; t < 16; ++t) dot += static_cast<double>(p.q(0, h, i, t)) * static_cast<double>(p.k(0, 0, j, t));
        w[static_cast<std::size_t>(j)] = dot / 4 + bias.parameters()[static_cast<std::size_t>(i - j + s.keys - 1)];
        most = std::max(most, w[static_cast<std::size_t>(j)]);
      }
      for (double& x : w) sum += x = std::exp(x - most);
      std::vector<double> dp(w.size(), 0);
      for (Index j = 0; j < s.keys; ++j) {
        const auto at = static_cast<std::size_t>(j);
        w[at] /= sum;
        for (Index c = 0; c < 16; ++c)
          dp[at] += static_cast<double>(p.out_bar(0, h, i, c)) * static_cast<double>(p.v(0, 0, j, c));
        delta += w[at] * dp[at];
      }
      for (Index j = 0; j < s.keys; ++j) {
        const auto at = static_cast<std::size_t>(j);
        const double ds = w[at] * (dp[at] - delta);
        exact_table[static_cast<std::size_t>(i - j + s.keys - 1)] += ds;
        for (Index t = 0; t < 16; ++t) {
          q_bar(0, h, i, t) += ds / 4 * static_cast<double>(p.k(0, 0, j, t));
          k_bar(0, 0, j, t) += ds / 4 * static_cast<double>(p.q(0, h, i, t));
          v_bar(0, 0, j, t) += w[at] * static_cast<double>(p.out_bar(0, h, i, t));
        }
      }
    }
  }
  // Sums of some 1000 terms of both signs, normwise.
  const double bound = 20 * std::numeric_limits<T>::epsilon();
  const Strided<double>* exact[] = {&q_bar, &k_bar, &v_bar};
  for (int i = 0; i < 3; ++i) {
    const auto [error, norm] = distance(bars[0][i], *exact[i]);
    CHECK(error <= bound * norm);
  }
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < exact_table.size(); ++i) {
    error += std::pow(static_cast<double>(table_bar[0][i]) - exact_table[i], 2);
    norm += exact_table[i] * exact_table[i];
  }
  CHECK(std::sqrt(error) <= bound * std::sqrt(norm));
}

// Few rows read the values where they lie, unless their rows are about a page apart; then, and for many rows, they are packed.
TEST_CASE_TEMPLATE("the same bits for any distance of the values' rows", T, float, double) {
  for (const Index width : {Index{4}, Index{36}, Index{64}}) {
    Strided<T> q(1, 1, 197, 8), k(1, 1, 197, 8), near(1, 1, 197, width), far(1, 1, 197, 512);
    q.randomise(1), k.randomise(2), near.randomise(3);
    TensorView<T> apart = far.view();
    apart.sizes[3] = width;
    near.each([&](Index b, Index h, Index l, Index d) { far(b, h, l, d) = near(b, h, l, d); });
    Strided<T> out(1, 1, 197, width), other(1, 1, 197, width);
    softmax_attention(q.view(), k, near, out);
    softmax_attention(q.view(), k, apart, other);
    CHECK(out.same(other));
  }
}

TEST_CASE("NaN in the data passes through to its own rows only") {
  Problem<float> p({1, 1, 1, 50, 50, 8, 8}, Order::bhld);
  p.q(0, 0, 3, 2) = std::numeric_limits<float>::quiet_NaN();
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse);
  p.out.each([&](Index, Index, Index i, Index c) { CHECK(std::isnan(p.out(0, 0, i, c)) == (i == 3)); });
  CHECK(std::isnan(p.lse(0, 0, 3, 0)));
}

TEST_CASE("wrong calls throw and write nothing") {
  Problem<float> p({1, 2, 1, 6, 5, 4, 4}, Order::bhld);
  const Strided<float> before = p.out;
  const auto call = [&](const HeadMasks<float>& bias, const HeadMasks<float>& masks, const SoftmaxOptions& options) {
    softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, bias, masks, options);
  };
  const std::vector<double> ones(30, 1);
  const DenseMask<float> wrong(MatrixView<const double>(ones.data(), 5, 6)), right(MatrixView<const double>(ones.data(), 6, 5));
  const NoEntries none(6, 5);
  const std::int64_t counts[] = {6, 5};
  CHECK_THROWS_AS(call(wrong, {}, {}), ShapeError);
  CHECK_THROWS_AS(call({}, wrong, {}), ShapeError);
  CHECK_THROWS_AS(call({}, std::vector<MaskPointer<float>>(3, std::make_shared<NoEntries>(6, 5)), {}), ShapeError);
  CHECK_THROWS_AS(call(none, {}, {}), ValueError);
  CHECK_THROWS_AS(call({}, {}, {.scale = kInfinity}), ValueError);
  CHECK_THROWS_AS(call({}, {}, {.key_counts = {counts, 2}}), ShapeError);
  CHECK_THROWS_AS(call({}, {}, {.key_counts = {counts, 1}}), ValueError);
  Strided<float> short_out(1, 2, 5, 4), odd_keys(1, 3, 5, 4);
  CHECK_THROWS_AS(softmax_attention(p.q.view(), p.k, p.v, short_out, p.lse), ShapeError);
  CHECK_THROWS_AS(softmax_attention(p.q.view(), odd_keys, odd_keys, p.out, p.lse), ShapeError);
  CHECK_THROWS_AS(softmax_attention(p.q.view(), p.k, p.v, p.out, p.out), ShapeError);
  CHECK_THROWS_AS(softmax_attention(p.q.view(), p.k, p.v, p.q, p.lse), ValueError);
  CHECK(p.out.same(before));
  std::vector<float> bar(60, 5);
  CHECK_THROWS_AS(softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, {.q = p.k}, right, {}), ShapeError);
  CHECK_THROWS_AS(softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, {.q = p.q}, right, {}), ValueError);
  AttentionGradients<float> g;
  g.parameters = MatrixView<float>(bar.data(), 1, 30);
  CHECK_THROWS_AS(softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, right, {}), ValueError);
  g = {};
  g.bias_parameters = MatrixView<float>(bar.data(), 2, 30);
  CHECK_THROWS_AS(softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, g, right, {}), ShapeError);
  for (const float x : bar) CHECK(x == 5);
}

TEST_CASE("a cancelled call throws Cancelled; empty sizes are no-ops") {
  Problem<float> p({1, 1, 1, 40, 40, 4, 4}, Order::bhld);
  std::stop_source source;
  Progress progress;
  progress.stop = source.get_token();
  Context<Cpu> context;
  context.progress = &progress;
  softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, {}, {}, {}, context);
  source.request_stop();
  CHECK_THROWS_AS(softmax_attention(p.q.view(), p.k, p.v, p.out, p.lse, {}, {}, {}, context), Cancelled);
  CHECK_THROWS_AS(
      softmax_attention_vjp(p.q.view(), p.k, p.v, p.out, p.lse, p.out_bar, {.q = Strided<float>(p.q)}, {}, {}, {}, context),
      Cancelled);
  Problem<float> none({1, 1, 1, 0, 0, 4, 4}, Order::bhld);
  softmax_attention(none.q.view(), none.k, none.v, none.out, none.lse);
  // No key at all: every row is a row without a pair, and gradients are zero.
  Problem<float> keyless({1, 1, 1, 3, 0, 4, 4}, Order::bhld);
  softmax_attention(keyless.q.view(), keyless.k, keyless.v, keyless.out, keyless.lse);
  Strided<float> q_bar(1, 1, 3, 4);
  q_bar.fill(7);
  softmax_attention_vjp(keyless.q.view(), keyless.k, keyless.v, keyless.out, keyless.lse, keyless.out_bar, {.q = q_bar});
  keyless.out.each([&](Index b, Index h, Index l, Index c) {
    CHECK(keyless.out(b, h, l, c) == 0);
    CHECK(q_bar(b, h, l, c) == 0);
  });
}
