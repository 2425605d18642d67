// Exact top-k search and k-MIP attention against slow loops: order, ties, limits, gradients, threads, errors.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/softmax.hpp>
#include <espalier/attention/top_k.hpp>
#include <espalier/core/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stop_token>
#include <vector>

#include "attention/strided.hpp"

using namespace espalier;
using test::Order;
using test::Strided;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Shape5 {
  Index batch = 1, heads = 1, key_heads = 1, queries = 1, keys = 1, width = 4, count = 1;
};

// sum_t q_t k_t from t = 0 on, by fused multiply-adds or by products and sums.
template <class T>
T score(const Strided<T>& q, const Strided<T>& k, Index b, Index h, Index hk, Index i, Index j, bool fused) {
  T sum = 0;
  for (Index t = 0; t < q.view().width(); ++t) {
    const T x = q(b, h, i, t), y = k(b, hk, j, t);
    volatile T product = x * y;  // no contraction
    sum = fused ? std::fma(x, y, sum) : sum + product;
  }
  return sum;
}

template <class T, class I>
struct Search {
  Shape5 s;
  Strided<T> q, k, scores;
  Strided<I> indices;
  TopKOptions options;
  std::vector<std::int64_t> counts, key_counts;

  Search(const Shape5& shape, Order order)
      : s(shape),
        q(s.batch, s.heads, s.queries, s.width, order),
        k(s.batch, s.key_heads, s.keys, s.width, order),
        scores(s.batch, s.heads, s.queries, s.count, order),
        indices(s.batch, s.heads, s.queries, s.count, order) {
    q.randomise(1), k.randomise(2);
    scores.fill(T(55)), indices.fill(I(55));
  }
  void run(int threads = 1) {
    if (!counts.empty()) options.counts = {counts.data(), static_cast<Index>(counts.size())};
    if (!key_counts.empty()) options.key_counts = {key_counts.data(), static_cast<Index>(key_counts.size())};
    top_k_search(q.view(), k, indices.view(), scores, options, {.threads = threads});
  }
  // The answer of a full sort over the same scores.
  void check(bool fused) const {
    const Index group = s.heads / std::max<Index>(1, s.key_heads);
    const Index shift = options.causal == Causal::bottom_right ? s.keys - s.queries : 0;
    Index wrong = 0;
    for (Index b = 0; b < s.batch; ++b) {
      const Index keys = key_counts.empty() ? s.keys : static_cast<Index>(key_counts[static_cast<std::size_t>(b)]);
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) {
          std::vector<std::pair<T, Index>> all;
          const bool padding = !key_counts.empty() && s.queries == s.keys && i >= keys;
          for (Index j = 0; j < keys && !padding; ++j) {
            if (options.causal != Causal::none && j - i > shift) continue;
            if (options.exclude_self && i == j) continue;
            const T x = score(q, k, b, h, h / group, i, j, fused);
            if (!std::isnan(x)) all.emplace_back(x, j);
          }
          std::sort(all.begin(), all.end(), [](const auto& x, const auto& y) {
            return x.first > y.first || (x.first == y.first && x.second < y.second);
          });
          Index places = s.count;
          if (!counts.empty()) places = std::min<Index>(places, counts[static_cast<std::size_t>(i)]);
          places = std::min<Index>(places, static_cast<Index>(all.size()));
          for (Index r = 0; r < s.count; ++r) {
            const T expected = r < places ? all[static_cast<std::size_t>(r)].first : -std::numeric_limits<T>::infinity();
            const I index = r < places ? static_cast<I>(all[static_cast<std::size_t>(r)].second) : I(-1);
            wrong += scores(b, h, i, r) != expected || indices(b, h, i, r) != index;
          }
        }
      }
    }
    CHECK(wrong == 0);
  }
};

// Whether this machine's kernels fuse: one long dot product tells.
template <class T>
bool kernels_fuse() {
  Search<T, std::int32_t> one({1, 1, 1, 1, 1, 200, 1}, Order::bhld);
  one.run();
  const bool fused = one.scores(0, 0, 0, 0) == score(one.q, one.k, 0, 0, 0, 0, 0, true);
  CHECK((fused || one.scores(0, 0, 0, 0) == score(one.q, one.k, 0, 0, 0, 0, 0, false)));
  return fused;
}

template <class T, class I>
void check_search(const Shape5& s, const std::function<void(Search<T, I>&)>& change = {}, Order order = Order::bhld) {
  CAPTURE(s.queries);
  CAPTURE(s.keys);
  CAPTURE(s.count);
  Search<T, I> a(s, order);
  if (change) change(a);
  Search<T, I> b = a;
  a.run(1);
  b.run(2);
  CHECK(a.scores.same(b.scores));
  CHECK(a.indices.same(b.indices));
  CHECK(a.scores.gaps_intact());
  CHECK(a.indices.gaps_intact());
  a.check(kernels_fuse<T>());
}

}  // namespace

TEST_CASE_TEMPLATE("search equals a full sort over the same scores", T, float, double) {
  for (const Index n : {1, 2, 7, 13, 64, 101, 197}) {
    for (const Index m : {n, Index{1}, Index{600}}) {
      for (const Index count : {1, 3, 16, 70}) check_search<T, std::int32_t>({1, 1, 1, n, m, 5, count});
    }
  }
  check_search<T, std::int64_t>({2, 4, 2, 37, 3000, 64, 10}, {}, Order::blhd);
  check_search<T, std::int64_t>({1, 1, 1, 600, 531, 33, 600});
}

TEST_CASE("ties go to the lower index, wherever they fall") {
  // Small integers: many equal scores, exact in every order of summation.
  check_search<float, std::int32_t>({1, 2, 1, 70, 1500, 3, 20}, [](auto& s) {
    for (auto* x : {&s.q, &s.k})
      x->each([&](Index b, Index h, Index l, Index d) { (*x)(b, h, l, d) = std::round((*x)(b, h, l, d)); });
  });
  check_search<float, std::int32_t>({1, 1, 1, 3, 900, 2, 40}, [](auto& s) { s.k.fill(1); });
}

TEST_CASE("causal, self left out, key counts, places per query") {
  for (const auto causal : {Causal::top_left, Causal::bottom_right}) {
    check_search<float, std::int32_t>({1, 2, 1, 90, 130, 8, 5}, [&](auto& s) { s.options.causal = causal; });
    check_search<double, std::int64_t>({1, 1, 1, 130, 90, 8, 5}, [&](auto& s) { s.options.causal = causal; });
    check_search<float, std::int32_t>({2, 1, 1, 50, 50, 8, 4}, [&](auto& s) {
      s.options.causal = causal;
      s.options.exclude_self = true;
      s.key_counts = {0, 33};
    });
  }
  check_search<float, std::int32_t>({2, 1, 1, 20, 50, 8, 4}, [&](auto& s) { s.key_counts = {17, 50}; });
  check_search<float, std::int32_t>({1, 1, 1, 200, 700, 8, 12}, [&](auto& s) {
    for (Index i = 0; i < 200; ++i) s.counts.push_back(i % 20);
  });
}

TEST_CASE("NaN is never selected; infinities and zeros take their places") {
  check_search<float, std::int32_t>({1, 1, 1, 40, 300, 2, 300}, [](auto& s) {
    for (Index j = 0; j < 300; j += 7) s.k(0, 0, j, 0) = std::numeric_limits<float>::quiet_NaN();
    for (Index j = 1; j < 300; j += 11) s.k(0, 0, j, 1) = std::numeric_limits<float>::infinity();
    for (Index j = 2; j < 300; j += 13) s.k(0, 0, j, 0) = s.k(0, 0, j, 1) = 0;
    s.q(0, 0, 5, 0) = std::numeric_limits<float>::quiet_NaN();
  });
}

TEST_CASE("the three largest of 1 .. 10") {
  std::vector<float> keys(10), query{1}, scores(3);
  std::iota(keys.begin(), keys.end(), 1.0f);
  std::vector<std::int32_t> indices(3);
  top_k_search(TensorView<const float>(query.data(), 1, 1, 1, 1), TensorView<const float>(keys.data(), 1, 1, 10, 1),
               TensorView<std::int32_t>(indices.data(), 1, 1, 1, 3), TensorView<float>(scores.data(), 1, 1, 1, 3));
  CHECK(scores == std::vector<float>{10, 9, 8});
  CHECK(indices == std::vector<std::int32_t>{9, 8, 7});
}

TEST_CASE_TEMPLATE("k of all keys equals full attention; k = 1 gives the best key's value", T, float, double) {
  Strided<T> q(1, 2, 30, 8), k(1, 1, 40, 8), v(1, 1, 40, 5), out(1, 2, 30, 5), full(1, 2, 30, 5), scores(1, 2, 30, 40),
      best(1, 2, 30, 1);
  Strided<std::int32_t> indices(1, 2, 30, 40), best_index(1, 2, 30, 1);
  q.randomise(1), k.randomise(2), v.randomise(3);
  top_k_attention(q.view(), k, v, out, indices.view(), scores);
  softmax_attention(q.view(), k, v, full);
  // Two ways to sum 40 products: 20 eps of the values' size.
  out.each([&](Index b, Index h, Index l, Index c) {
    CHECK(std::abs(out(b, h, l, c) - full(b, h, l, c)) < 20 * 4 * std::numeric_limits<T>::epsilon());
  });
  CHECK(out.gaps_intact());
  top_k_attention(q.view(), k, v, out, best_index.view(), best);
  out.each([&](Index b, Index h, Index l, Index c) { CHECK(out(b, h, l, c) == v(0, 0, best_index(b, h, l, 0), c)); });
  const std::int64_t none[] = {0};
  top_k_attention(q.view(), k, v, out, indices.view(), scores, {.key_counts = {none, 1}});
  out.each([&](Index b, Index h, Index l, Index c) { CHECK(out(b, h, l, c) == T(0)); });
}

TEST_CASE("gradients equal central differences with the selection held") {
  for (const Order order : {Order::bhld, Order::blhd}) {
    Strided<double> q(2, 4, 9, 3, order), k(2, 2, 11, 3, order), v(2, 2, 11, 2, order), out(2, 4, 9, 2, order),
        bar(2, 4, 9, 2, order);
    Strided<double> scores(2, 4, 9, 4, order);
    Strided<std::int64_t> indices(2, 4, 9, 4, order);
    q.randomise(1), k.randomise(2), v.randomise(3), bar.randomise(4);
    std::vector<std::int64_t> counts;
    for (int i = 0; i < 9; ++i) counts.push_back(i % 5);
    const TopKOptions options{.causal = Causal::bottom_right, .counts = {counts.data(), 9}, .scale = 0.7};
    top_k_attention(q.view(), k, v, out, indices.view(), scores, options);
    // The slow loop over the forward's own selection.
    const auto loss = [&] {
      double total = 0;
      for (Index b = 0; b < 2; ++b) {
        for (Index h = 0; h < 4; ++h) {
          for (Index i = 0; i < 9; ++i) {
            double sum = 0, y[2] = {0, 0};
            for (Index r = 0; r < 4 && indices(b, h, i, r) >= 0; ++r) {
              const Index j = indices(b, h, i, r);
              double dot = 0;
              for (Index t = 0; t < 3; ++t) dot += q(b, h, i, t) * k(b, h / 2, j, t);
              const double w = std::exp(0.7 * dot);
              sum += w;
              for (Index c = 0; c < 2; ++c) y[c] += w * v(b, h / 2, j, c);
            }
            for (Index c = 0; c < 2 && sum > 0; ++c) total += y[c] / sum * bar(b, h, i, c);
          }
        }
      }
      return total;
    };
    Strided<double> q_bar = q, k_bar = k, v_bar = v;
    top_k_attention_vjp(q.view(), k, v, out, indices.view(), scores, bar, {.q = q_bar, .k = k_bar, .v = v_bar}, options);
    for (const auto& pair : {std::pair{&q, &q_bar}, std::pair{&k, &k_bar}, std::pair{&v, &v_bar}}) {
      auto *x = pair.first, *g = pair.second;
      double most = 0, error = 0;
      x->each([&](Index b, Index h, Index l, Index c) {
        double& e = (*x)(b, h, l, c);
        const double at = e;
        e = at + 1e-5;
        const double up = loss();
        e = at - 1e-5;
        const double down = loss();
        e = at;
        most = std::max(most, std::abs(up - down) / 2e-5);
        error = std::max(error, std::abs((up - down) / 2e-5 - (*g)(b, h, l, c)));
      });
      CHECK(error < 1e-6 * most);
      CHECK(g->gaps_intact());
    }
    // Threads and scratch memory change no bit; gradients add up where asked.
    Strided<double> q2 = q_bar, k2 = k_bar, v2 = v_bar;
    top_k_attention_vjp(q.view(), k, v, out, indices.view(), scores, bar, {.q = q2, .k = k2, .v = v2}, options,
                        {.threads = 2, .scratch_bytes = 1});
    CHECK(q2.same(q_bar));
    CHECK(k2.same(k_bar));
    CHECK(v2.same(v_bar));
    top_k_attention_vjp(q.view(), k, v, out, indices.view(), scores, bar, {.k = k2, .accumulate = true}, options);
    k2.each([&](Index b, Index h, Index l, Index c) {
      CHECK(k2(b, h, l, c) == doctest::Approx(2 * k_bar(b, h, l, c)).epsilon(1e-12));
    });
  }
}

TEST_CASE("wrong calls throw and write nothing; a cancelled call throws Cancelled") {
  Search<float, std::int32_t> s({1, 2, 1, 6, 5, 4, 3}, Order::bhld);
  const Strided<float> before = s.scores;
  const Strided<std::int32_t> before_indices = s.indices;
  const auto call = [&](const TopKOptions& options) { top_k_search(s.q.view(), s.k, s.indices.view(), s.scores, options); };
  const std::int64_t counts[] = {1, -1, 1, 1, 1, 1}, many[] = {6};
  CHECK_THROWS_AS(call({.counts = {counts, 5}}), ShapeError);
  CHECK_THROWS_AS(call({.counts = {counts, 6}}), ValueError);
  CHECK_THROWS_AS(call({.key_counts = {many, 1}}), ValueError);
  CHECK_THROWS_AS(call({.key_counts = {counts, 2}}), ShapeError);
  Strided<float> narrow(1, 2, 6, 2), three(1, 3, 5, 4);
  Strided<std::int32_t> nothing(1, 2, 6, 0);
  CHECK_THROWS_AS(top_k_search(s.q.view(), s.k, s.indices.view(), narrow), ShapeError);
  CHECK_THROWS_AS(top_k_search(s.q.view(), s.k, nothing.view(), narrow), ValueError);
  CHECK_THROWS_AS(top_k_search(s.q.view(), three, s.indices.view(), s.scores), ShapeError);
  CHECK(s.scores.same(before));
  CHECK(s.indices.same(before_indices));
  Search<float, std::int32_t> square({1, 1, 1, 6, 5, 4, 4}, Order::bhld);
  CHECK_THROWS_AS(top_k_search(square.q.view(), square.k, square.indices.view(), square.q), ValueError);
  // Indices that are not the forward's must not be followed.
  Strided<float> v(1, 1, 5, 4), out(1, 2, 6, 4), q_bar(1, 2, 6, 4);
  s.indices.fill(5);
  CHECK_THROWS_AS(top_k_attention_vjp(s.q.view(), s.k, v, out, s.indices.view(), s.scores, out, {.q = q_bar}), ValueError);

  std::stop_source source;
  source.request_stop();
  Progress progress;
  progress.stop = source.get_token();
  Context<Cpu> context;
  context.progress = &progress;
  CHECK_THROWS_AS(top_k_search(s.q.view(), s.k, s.indices.view(), s.scores, {}, context), Cancelled);
}
