// Masked linear attention against the slow definition: values, gradients, layouts, padding, causal order, determinism.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>
#include <espalier/masks/bordered.hpp>
#include <espalier/masks/dense.hpp>
#include <espalier/masks/grid.hpp>
#include <espalier/masks/scaled.hpp>

#include <doctest/doctest.h>

#include "support/attention_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>

namespace es = espalier;
using es::Index;
using namespace es::test;

namespace {

// Masks of the test: positive numbers without structure, one matrix a head.
struct Masked {
  std::vector<double> values;  // heads x rows x cols
  Index heads, rows, cols;
  Masked(Index h, Index r, Index c, unsigned seed) : values(static_cast<std::size_t>(h * r * c)), heads(h), rows(r), cols(c) {
    fill_pseudo_random(values, seed, true);
  }
  template <class T>
  std::vector<es::MaskPointer<T>> build() const {
    std::vector<es::MaskPointer<T>> masks;
    for (Index h = 0; h < heads; ++h) {
      masks.push_back(
          std::make_shared<es::DenseMask<T>>(es::MatrixView<const double>(values.data() + h * rows * cols, rows, cols)));
    }
    return masks;
  }
  MaskFunction function() const {
    return [this](Index, Index h, Index i, Index j) {
      return values[static_cast<std::size_t>(((h % heads) * rows + i) * cols + j)];
    };
  }
};

const PairFunction kAll = [](Index, Index, Index) { return true; };

template <class T>
constexpr double kBound = sizeof(T) == 4 ? 2e-6 : 1e-12;

}  // namespace

TEST_CASE("toy answers of ReLU features") {
  const double q[] = {1, 2, 3, 4, 1, -1, 1, 3}, k[] = {-3, 1, 1, 5, -2, -3, 4, 1}, v[] = {-1, 2, 3, 1};
  const es::FeatureMap<double> relu(2, {.kind = es::FeatureKind::relu});
  std::vector<double> fq(8), fk(8), out(4);
  relu.apply(es::TensorView<const double>(q, 1, 1, 4, 2), es::TensorView<double>(fq.data(), 1, 1, 4, 2));
  relu.apply(es::TensorView<const double>(k, 1, 1, 4, 2), es::TensorView<double>(fk.data(), 1, 1, 4, 2));
  es::masked_linear_attention(es::TensorView<double>(fq.data(), 1, 1, 4, 2), es::TensorView<double>(fk.data(), 1, 1, 4, 2),
                              es::TensorView<const double>(v, 1, 1, 4, 1), {}, es::TensorView<double>(out.data(), 1, 1, 4, 1));
  const double expected[] = {1.3684, 1.3488, 1.2, 1.3846};
  for (int i = 0; i < 4; ++i) CHECK(out[static_cast<std::size_t>(i)] == doctest::Approx(expected[i]).epsilon(1e-3));
}

TEST_CASE("toy answers of causal attention") {
  const double ones[] = {1, 1, 1}, v[] = {1, 0, 0};
  double out[3];
  const es::TensorView<const double> one(ones, 1, 1, 3, 1);
  es::masked_linear_attention(one, one, es::TensorView<const double>(v, 1, 1, 3, 1), {},
                              es::TensorView<double>(out, 1, 1, 3, 1), {}, {.causal = es::Causal::top_left});
  CHECK(out[0] == doctest::Approx(1));
  CHECK(out[1] == doctest::Approx(1.0 / 2));
  CHECK(out[2] == doctest::Approx(1.0 / 3));
}

TEST_CASE_TEMPLATE("values equal the definition", T, float, double) {
  for (const Index lq : {Index{1}, Index{7}, Index{33}}) {
    for (const Index lk : {lq, Index{13}}) {
      for (const bool blhd : {false, true}) {
        for (const double epsilon : {0.0, 1e-2}) {
          const Tensor q = random_tensor(2, 4, lq, 5, 1, true), k = random_tensor(2, 2, lk, 5, 2, true);
          const Tensor v = random_tensor(2, 2, lk, 3, 3);
          const Masked m(4, lq, lk, 4);
          const auto masks = m.build<T>();
          // NaN in the gaps of inputs must not reach any output; guard values in the gaps of outputs must survive.
          const T nan = std::numeric_limits<T>::quiet_NaN();
          Stored<T> sq(q, 3, blhd, nan), sk(k, 2, blhd, nan), sv(v, 1, blhd, nan);
          Stored<T> out(2, 4, lq, 3, 2, blhd, T(77)), den(2, 4, lq, 1, 1, blhd, T(77));
          const auto want = linear_attention(q, k, v, m.function(), kAll, epsilon);
          const auto result =
              es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, den.view, {.weight_epsilon = epsilon});
          CHECK(result.floored_rows == 0);
          CHECK(relative_to_max(out.flat(), want.out.values) < kBound<T>);
          CHECK(relative_to_max(den.flat(), want.denominator.values) < kBound<T>);
          CHECK(out.gaps_untouched(2));
          CHECK(den.gaps_untouched(1));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("causal order and key counts", T, float, double) {
  const Index lq = 9;
  for (const Index lk : {lq, Index{14}}) {
    for (const es::Causal causal : {es::Causal::none, es::Causal::top_left, es::Causal::bottom_right}) {
      const Tensor q = random_tensor(3, 2, lq, 4, 1, true), v = random_tensor(3, 2, lk, 3, 3);
      Tensor k = random_tensor(3, 2, lk, 4, 2, true);
      const std::vector<std::int64_t> counts = {lk, 0, 5};
      const Masked m(1, lq, lk, 4);
      for (const bool with_mask : {false, true}) {
        for (const double epsilon : {0.0, 0.05}) {
          const Index shift = causal == es::Causal::bottom_right ? lk - lq : 0;
          const PairFunction pair = [&](Index b, Index i, Index j) {
            const bool padded_query = lq == lk && i >= counts[static_cast<std::size_t>(b)];
            return !padded_query && j < counts[static_cast<std::size_t>(b)] && (causal == es::Causal::none || j - i <= shift);
          };
          const MaskFunction one = [](Index, Index, Index, Index) { return 1.0; };
          const auto want = linear_attention(q, k, v, with_mask ? m.function() : one, pair, epsilon);
          Stored<T> sq(q), sk(k), sv(v), out(3, 2, lq, 3), den(3, 2, lq, 1);
          // Keys and values beyond the count may hold anything.
          for (Index h = 0; h < 2; ++h) {
            for (Index j = 5; j < lk; ++j) sk.view.matrix(2, h)(j, 0) = sv.view.matrix(2, h)(j, 1) = std::nan("");
          }
          const auto masks = m.build<T>();
          const es::LinearOptions options{.weight_epsilon = epsilon, .causal = causal, .key_counts = {counts.data(), 3}};
          const auto result = es::masked_linear_attention(
              sq.view, sk.view, sv.view, with_mask ? es::HeadMasks<T>(masks) : es::HeadMasks<T>(), out.view, den.view, options);
          CHECK(relative_to_max(out.flat(), want.out.values) < kBound<T>);
          CHECK(relative_to_max(den.flat(), want.denominator.values) < kBound<T>);
          // Batch entry 1 has no key: with queries of their own all its rows are floored.
          CHECK(result.floored_rows == (lq == lk ? 0 : 2 * lq));
        }
      }
    }
  }
}

TEST_CASE("gradients equal central differences") {
  const Index lq = 6;
  for (const Index lk : {lq, Index{8}}) {
    for (const bool normalize : {true, false}) {
      for (const es::Causal causal : {es::Causal::none, es::Causal::bottom_right}) {
        const double epsilon = 0.03;
        Tensor q = random_tensor(2, 4, lq, 3, 1, true), k = random_tensor(2, 2, lk, 3, 2, true),
               v = random_tensor(2, 2, lk, 2, 3);
        const Tensor g = random_tensor(2, 4, lq, 2, 5);
        Masked m(4, lq, lk, 4);
        const std::vector<std::int64_t> counts = {lk, 4};
        const PairFunction pair = [&](Index b, Index i, Index j) {
          const bool padded_query = lq == lk && i >= counts[static_cast<std::size_t>(b)];
          return !padded_query && j < counts[static_cast<std::size_t>(b)] && (causal == es::Causal::none || j - i <= lk - lq);
        };
        const auto loss = [&] {
          const auto r = linear_attention(q, k, v, m.function(), pair, epsilon, normalize);
          double sum = 0;
          for (std::size_t p = 0; p < r.out.values.size(); ++p) sum += r.out.values[p] * g.values[p];
          return sum;
        };
        Stored<double> sq(q), sk(k), sv(v), sg(g), out(2, 4, lq, 2), den(2, 4, lq, 1);
        Stored<double> qb(2, 4, lq, 3), kb(2, 2, lk, 3), vb(2, 2, lk, 2);
        std::vector<double> pb(m.values.size());
        const auto masks = m.build<double>();
        const es::LinearOptions options{
            .normalize = normalize, .weight_epsilon = epsilon, .causal = causal, .key_counts = {counts.data(), 2}};
        es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, den.view, options);
        es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, masks, out.view, den.view, sg.view,
                                        {.q = qb.view, .k = kb.view, .v = vb.view, .parameters = {pb.data(), 4, lq * lk}},
                                        options);
        CHECK(relative_to_max(qb.flat(), central_differences(q.values, loss)) < 1e-6);
        CHECK(relative_to_max(kb.flat(), central_differences(k.values, loss)) < 1e-6);
        CHECK(relative_to_max(vb.flat(), central_differences(v.values, loss)) < 1e-6);
        CHECK(relative_to_max(pb, central_differences(m.values, loss)) < 1e-6);

        // Accumulating adds; a subset costs only itself.
        std::vector<double> twice = pb;
        Stored<double> kb2(2, 2, lk, 3);
        kb2.memory = kb.memory;
        es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, masks, out.view, den.view, sg.view,
                                        {.k = kb2.view, .parameters = {twice.data(), 4, lq * lk}, .accumulate = true}, options);
        for (std::size_t p = 0; p < twice.size(); ++p) CHECK(twice[p] == doctest::Approx(2 * pb[p]).epsilon(1e-14));
        for (std::size_t p = 0; p < kb.memory.size(); ++p)
          CHECK(kb2.memory[p] == doctest::Approx(2 * kb.memory[p]).epsilon(1e-14));
      }
    }
  }
}

// Found by use: padding rows of Q with NaN reached every gradient as 0 times NaN.
TEST_CASE("padding queries and keys may hold NaN: gradients are those of the rest, and 0 on the padding") {
  const Index l = 7, used = 4;
  Tensor q = random_tensor(1, 2, l, 3, 1, true), k = random_tensor(1, 1, l, 3, 2, true), v = random_tensor(1, 1, l, 2, 3);
  const Tensor g = random_tensor(1, 2, l, 2, 4);
  const std::int64_t count[] = {used};
  const Masked m(1, l, l, 5);
  const auto masks = m.build<double>();
  std::vector<std::vector<double>> results;
  for (const double padding : {0.5, std::nan("")}) {
    for (Tensor* t : {&q, &k, &v}) {
      for (Index h = 0; h < t->h; ++h) {
        for (Index i = used; i < l; ++i) {
          for (Index c = 0; c < t->d; ++c) (*t)(0, h, i, c) = padding;
        }
      }
    }
    Stored<double> sq(q), sk(k), sv(v), sg(g), out(1, 2, l, 2), den(1, 2, l, 1), qb(1, 2, l, 3), kb(1, 1, l, 3), vb(1, 1, l, 2);
    std::vector<double> all(static_cast<std::size_t>(l * l));
    const es::LinearOptions options{.weight_epsilon = 0.1, .key_counts = {count, 1}};
    es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, den.view, options);
    es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, masks, out.view, den.view, sg.view,
                                    {.q = qb.view, .k = kb.view, .v = vb.view, .parameters = {all.data(), 1, l * l}}, options);
    for (const auto* more : {&out.memory, &den.memory, &qb.memory, &kb.memory, &vb.memory}) {
      all.insert(all.end(), more->begin(), more->end());
    }
    for (Index i = used; i < l; ++i) {
      for (Index c = 0; c < 3; ++c) {
        CHECK(qb.view.matrix(0, 1)(i, c) == 0);
        CHECK(kb.view.matrix(0, 0)(i, c) == 0);
      }
    }
    results.push_back(std::move(all));
  }
  CHECK(results[0] == results[1]);
}

TEST_CASE("elementwise features named in the options: values of a FeatureMap before the call, gradients by differences") {
  const Index l = 6;
  const std::int64_t counts[] = {l, 4};
  Masked m(4, l, l, 4);
  const auto masks = m.build<double>();
  for (const auto kind : {es::FeatureKind::identity, es::FeatureKind::relu, es::FeatureKind::elu, es::FeatureKind::squared,
                          es::FeatureKind::exp}) {
    CAPTURE(static_cast<int>(kind));
    // Values of both signs; an epsilon keeps denominators of ReLU away from 0.
    Tensor q = random_tensor(2, 4, l, 3, 1), k = random_tensor(2, 2, l, 3, 2), v = random_tensor(2, 2, l, 2, 3);
    const Tensor g = random_tensor(2, 4, l, 2, 5);
    const double epsilon = kind == es::FeatureKind::identity ? 2 : 0.25;
    const auto phi = [&](const Tensor& x) {
      Tensor y = x;
      for (double& e : y.values) {
        switch (kind) {
          case es::FeatureKind::relu:
            e = std::max(e, 0.0);
            break;
          case es::FeatureKind::elu:
            e = e > 0 ? e + 1 : std::exp(e);
            break;
          case es::FeatureKind::squared:
            e = e * e;
            break;
          case es::FeatureKind::exp:
            e = std::exp(e);
            break;
          default:
            break;
        }
        e += epsilon;
      }
      return y;
    };
    const PairFunction pair = [&](Index b, Index i, Index j) { return i < counts[b] && j < counts[b]; };
    const auto reference = [&] { return linear_attention(phi(q), phi(k), v, m.function(), pair); };
    const auto loss = [&] {
      const auto r = reference();
      double sum = 0;
      for (std::size_t p = 0; p < r.out.values.size(); ++p) sum += r.out.values[p] * g.values[p];
      return sum;
    };
    // Rows beyond the counts may hold anything.
    Stored<double> sq(q), sk(k), sv(v), sg(g), out(2, 4, l, 2), den(2, 4, l, 1);
    for (Index h = 0; h < 4; ++h) sq.view.matrix(1, h)(5, 1) = std::nan("");
    for (Index h = 0; h < 2; ++h) sk.view.matrix(1, h)(4, 0) = std::nan("");
    Stored<double> qb(2, 4, l, 3), kb(2, 2, l, 3), vb(2, 2, l, 2);
    std::vector<double> pb(m.values.size());
    const es::LinearOptions options{.key_counts = {counts, 2}, .features = kind, .feature_epsilon = epsilon};
    es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, den.view, options);
    CHECK(relative_to_max(out.flat(), reference().out.values) < 1e-12);
    es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, masks, out.view, den.view, sg.view,
                                    {.q = qb.view, .k = kb.view, .v = vb.view, .parameters = {pb.data(), 4, l * l}}, options);
    CHECK(relative_to_max(qb.flat(), central_differences(q.values, loss)) < 1e-6);
    CHECK(relative_to_max(kb.flat(), central_differences(k.values, loss)) < 1e-6);
    CHECK(relative_to_max(vb.flat(), central_differences(v.values, loss)) < 1e-6);
    CHECK(relative_to_max(pb, central_differences(m.values, loss)) < 1e-6);
    // Without padding the same bits as a FeatureMap beforehand.
    Stored<double> plain_q(q), plain_k(k), fq(2, 4, l, 3), fk(2, 2, l, 3), once(2, 4, l, 2), before(2, 4, l, 2);
    const es::FeatureMap<double> map(3, {.kind = kind, .epsilon = epsilon});
    map.apply(plain_q.view, fq.view);
    map.apply(plain_k.view, fk.view);
    es::masked_linear_attention(fq.view, fk.view, sv.view, masks, before.view);
    es::masked_linear_attention(plain_q.view, plain_k.view, sv.view, masks, once.view, {},
                                {.features = kind, .feature_epsilon = epsilon});
    CHECK(once.memory == before.memory);
  }
}

TEST_CASE_TEMPLATE("ReLU made by products of tiles: the bits of features in memory, whatever mask, shape and threads", T, float,
                   double) {
  const auto dense = [](Index n) {
    return es::MaskPointer<T>(
        std::make_shared<es::DenseMask<T>>(es::MatrixView<const double>(Masked(1, n, n, 6).values.data(), n, n)));
  };
  std::vector<double> table(27 * 27);
  fill_pseudo_random(table, 4, true);
  const auto grid = std::make_shared<es::GridMask<T>>(std::vector<Index>{14, 14}, table);
  struct Sample {
    const char* name;
    es::MaskPointer<T> mask;
    Index length, width, values;
    es::Causal causal = es::Causal::none;
  };
  const Sample samples[] = {
      {"grid with a border", std::make_shared<es::BorderedMask<T>>(grid, 1, es::BorderWeights{0.5, 1.5, 2}), 197, 64, 64},
      {"grid, causal", grid, 196, 16, 12, es::Causal::top_left},
      {"scale", std::make_shared<es::ScaledMask<T>>(dense(53), 0.75), 53, 7, 5},
      {"one row too many for the last panel", dense(25), 25, 33, 3},
      {"many rows", dense(300), 300, 8, 9},
      {"no mask", nullptr, 40, 24, 8},
  };
  for (const Sample& sample : samples) {
    CAPTURE(sample.name);
    const Index l = sample.length, m = sample.width, c = sample.values;
    const Tensor q = random_tensor(2, 2, l, m, 1), k = random_tensor(2, 1, l, m, 2), v = random_tensor(2, 1, l, c, 3);
    std::vector<es::MaskPointer<T>> masks;
    if (sample.mask) masks.push_back(sample.mask);
    for (const double epsilon : {0.0, 0.125}) {
      // Rows with gaps between them; NaN in a query stays in its row.
      Stored<T> sq(q, 3), sk(k, 1), sv(v), fq(2, 2, l, m), fk(2, 1, l, m), before(2, 2, l, c), before_sums(2, 2, l, 1);
      sq.view.matrix(0, 1)(l / 2, m - 1) = std::numeric_limits<T>::quiet_NaN();
      const es::FeatureMap<T> map(m, {.kind = es::FeatureKind::relu, .epsilon = epsilon});
      map.apply(sq.view, fq.view);
      map.apply(sk.view, fk.view);
      es::masked_linear_attention(fq.view, fk.view, sv.view, masks, before.view, before_sums.view, {.causal = sample.causal});
      CHECK(std::isnan(before.view.matrix(0, 1)(l / 2, 0)));
      CHECK(std::isfinite(before.view.matrix(0, 1)(l / 2 - 1, 0)));
      for (const int threads : {1, 2, 5}) {
        Stored<T> once(2, 2, l, c), sums(2, 2, l, 1);
        es::masked_linear_attention(sq.view, sk.view, sv.view, masks, once.view, sums.view,
                                    {.causal = sample.causal, .features = es::FeatureKind::relu, .feature_epsilon = epsilon},
                                    {.threads = threads});
        CHECK(std::memcmp(once.memory.data(), before.memory.data(), once.memory.size() * sizeof(T)) == 0);
        CHECK(std::memcmp(sums.memory.data(), before_sums.memory.data(), sums.memory.size() * sizeof(T)) == 0);
      }
    }
  }
}

namespace {

// Ones with a masked product of its own, and entries too: its only engine's name is that of tiles.
class OwnProduct final : public es::Mask<double> {
 public:
  explicit OwnProduct(es::Index n) : Mask(n, n) {}
  es::Entries<double, es::Cpu> entries() const override {
    es::Entries<double, es::Cpu> e;
    e.kind = es::EntryKind::ones;
    e.rows = e.cols = rows();
    return e;
  }
  mutable int asked = 0;

 protected:
  void apply(es::MatrixView<const double> x, es::MatrixView<double> y, bool transpose,
             const es::Context<es::Cpu>& context) const override {
    apply_by_tiles(x, y, transpose, context);
  }
  void apply_low_rank(const es::LowRankInputs<double>& in, const es::LowRankOutputs<double>& out, bool transpose,
                      const es::Context<es::Cpu>& context) const override {
    ++asked;
    low_rank_by_tiles(in, out, transpose, context);
  }
};

}  // namespace

TEST_CASE("ReLU features leave a mask's own masked product in its place") {
  const Tensor q = random_tensor(1, 2, 20, 5, 1), k = random_tensor(1, 2, 20, 5, 2), v = random_tensor(1, 2, 20, 4, 3);
  Stored<double> sq(q), sk(k), sv(v), out(1, 2, 20, 4);
  const OwnProduct mask(20);
  CHECK_FALSE(mask.multiplies_by_tiles({.columns = 4, .rank = 5}));
  es::masked_linear_attention(sq.view, sk.view, sv.view, mask, out.view, {}, {.features = es::FeatureKind::relu},
                              {.threads = 1});
  CHECK(mask.asked == 2);
}

TEST_CASE_TEMPLATE("the same bits for any number of threads, and in little scratch memory", T, float, double) {
  const Tensor q = random_tensor(2, 2, 70, 5, 1, true), k = random_tensor(2, 2, 70, 5, 2, true),
               v = random_tensor(2, 2, 70, 4, 3);
  const Masked m(1, 70, 70, 4);
  const auto masks = m.build<T>();
  std::vector<std::vector<T>> results;
  for (const int threads : {1, 2, 3, 8}) {
    for (const std::size_t scratch : {std::size_t{256} << 20, std::size_t{1}}) {
      Stored<T> sq(q), sk(k), sv(v), out(2, 2, 70, 4), den(2, 2, 70, 1), qb(2, 2, 70, 5), kb(2, 2, 70, 5), vb(2, 2, 70, 4);
      std::vector<T> pb(70 * 70);
      const es::Context<es::Cpu> context{.threads = threads, .scratch_bytes = scratch};
      es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, den.view, {}, context);
      es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, masks, out.view, den.view, sv.view,
                                      {.q = qb.view, .k = kb.view, .v = vb.view, .parameters = {pb.data(), 1, 70 * 70}}, {},
                                      context);
      std::vector<T> all = out.memory;
      for (const auto* more : {&den.memory, &qb.memory, &kb.memory, &vb.memory, &pb})
        all.insert(all.end(), more->begin(), more->end());
      results.push_back(std::move(all));
    }
  }
  for (const auto& r : results) CHECK(r == results.front());
}

TEST_CASE("zero denominators give zero rows, counted, with zero gradients") {
  Tensor q = random_tensor(1, 1, 4, 2, 1, true);
  const Tensor k = random_tensor(1, 1, 4, 2, 2, true), v = random_tensor(1, 1, 4, 2, 3);
  q(0, 0, 2, 0) = q(0, 0, 2, 1) = 0;
  Stored<float> sq(q), sk(k), sv(v), out(1, 1, 4, 2), den(1, 1, 4, 1), qb(1, 1, 4, 2);
  const auto result = es::masked_linear_attention(sq.view, sk.view, sv.view, {}, out.view, den.view);
  CHECK(result.floored_rows == 1);
  CHECK(out.view.matrix(0, 0)(2, 0) == 0);
  es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, {}, out.view, den.view, sv.view, {.q = qb.view});
  CHECK(qb.view.matrix(0, 0)(2, 0) == 0);
  CHECK(qb.view.matrix(0, 0)(1, 0) != 0);
}

// Where a mask gives a row no weight at all, a transform leaves its rounding in the place of the sum 0.
TEST_CASE_TEMPLATE("rows that the mask gives no weight are 0 and counted by tiles and FFT, gradients too", T, float, double) {
  // A band of offsets 3 .. 8: the first 3 rows see nothing.
  const Index n = 600;
  std::vector<double> table(2 * n - 1, 0.0);
  for (Index o = 3; o <= 8; ++o) table[static_cast<std::size_t>(n - 1 + o)] = 0.2 * static_cast<double>(o);
  const Tensor q = random_tensor(2, 1, n, 6, 1, true), k = random_tensor(2, 1, n, 6, 2, true), v = random_tensor(2, 1, n, 5, 3),
               bar = random_tensor(2, 1, n, 5, 4);
  std::vector<std::int64_t> counts = {n, 5};
  std::vector<std::vector<T>> results;
  for (const char* engine : {"direct", "fft"}) {
    const auto known = es::GridMask<T>({n}, table).engines({.columns = 5, .rank = 6});
    if (std::none_of(known.begin(), known.end(), [&](const es::Report& r) { return r.engine == engine; })) continue;
    es::GridOptions options;
    options.engine = engine;
    const es::GridMask<T> mask({n}, table, options);
    Stored<T> sq(q), sk(k), sv(v), sbar(bar), out(2, 1, n, 5), den(2, 1, n, 1), qb(2, 1, n, 6), kb(2, 1, n, 6), vb(2, 1, n, 5);
    std::vector<T> tb(table.size());
    const es::LinearOptions linear{.key_counts = {counts.data(), 2}};
    const auto result = es::masked_linear_attention(sq.view, sk.view, sv.view, mask, out.view, den.view, linear);
    CHECK(result.floored_rows == 3 + 3);  // in the second entry queries beyond the count are not rows
    for (const Index b : {Index{0}, Index{1}}) {
      for (const Index i : {Index{0}, Index{1}, Index{2}}) {
        CHECK(den.view.matrix(b, 0)(i, 0) == 0);
        for (Index c = 0; c < 5; ++c) CHECK(out.view.matrix(b, 0)(i, c) == 0);
      }
    }
    es::masked_linear_attention_vjp(
        sq.view, sk.view, sv.view, mask, out.view, den.view, sbar.view,
        {.q = qb.view, .k = kb.view, .v = vb.view, .parameters = {tb.data(), 1, static_cast<Index>(tb.size())}}, linear);
    std::vector<T> all = out.memory;
    for (const auto* more : {&den.memory, &qb.memory, &kb.memory, &vb.memory, &tb})
      all.insert(all.end(), more->begin(), more->end());
    results.push_back(std::move(all));
  }
  double largest = 0;
  for (const T x : results.front()) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (const auto& r : results) {
    double worst = 0;
    for (std::size_t p = 0; p < r.size(); ++p)
      worst = std::max(worst, std::abs(static_cast<double>(r[p] - results.front()[p])));
    CHECK(worst <= (sizeof(T) == 4 ? 2e-5 : 1e-12) * largest);
  }
}

// Raster order on two axes: zeros that approximating engines make of sums that cancel are zeros to the rows that divide by
// them.
TEST_CASE_TEMPLATE("causal grids: rows before the first key with a feature are 0 and counted by every engine", T, float,
                   double) {
  const std::vector<Index> sizes = {40, 36};
  const Index n = 40 * 36, first = 200;
  Tensor k = random_tensor(1, 1, n, 3, 2, true);
  for (Index j = 0; j < first; ++j) k(0, 0, j, 0) = k(0, 0, j, 1) = k(0, 0, j, 2) = 0;
  const Tensor q = random_tensor(1, 1, n, 3, 1, true), v = random_tensor(1, 1, n, 4, 3);
  Tensor with_large = k;
  with_large(0, 0, n - 1, 0) = 1e7;
  Stored<T> sq(q), sk(k), large(with_large), sv(v);
  std::map<std::string, int> ran;
  for (const auto distance : {es::Distance::l1, es::Distance::l2}) {
    for (const bool decays : {true, false}) {
      const es::DistanceFunction f = decays ? es::DistanceFunction(es::Exponential{.rate = 0.1}) : es::Rational{.width = 16};
      std::vector<T> exact;
      for (const char* engine : {"direct", "fft", "far-field", "separable", "auto"}) {
        es::GridOptions options;
        options.engine = engine;
        options.causal = true;
        const es::GridMask<T> mask(sizes, f, distance, options);
        try {
          (void)mask.report({.columns = 4, .rank = 3});
        } catch (const es::ValueError&) {
          continue;  // not an engine of this mask or build
        }
        ++ran[engine];
        CAPTURE(engine);
        Stored<T> out(1, 1, n, 4), den(1, 1, n, 1);
        const auto result = es::masked_linear_attention(sq.view, sk.view, sv.view, mask, out.view, den.view);
        CHECK(result.floored_rows == first);
        for (Index i = 0; i < first; ++i) CHECK(den.view.matrix(0, 0)(i, 0) == 0);
        for (Index i = first; i < n; ++i) CHECK(den.view.matrix(0, 0)(i, 0) > 0);
        // A key so large that every other row is far below it: their sums are not taken for zeros.
        Stored<T> out_of(1, 1, n, 4);
        CHECK(es::masked_linear_attention(sq.view, large.view, sv.view, mask, out_of.view).floored_rows == first);
        if (exact.empty()) exact = out.memory;
        // The first of the other rows see hardly anything yet, which FFT rounds away: compared where there is weight.
        for (Index i = n / 2; i < n; ++i) {
          for (Index c = 0; c < 4; ++c) {
            const auto p = static_cast<std::size_t>(i * 4 + c);
            CHECK(std::abs(static_cast<double>(out.memory[p] - exact[p])) < (sizeof(T) == 4 ? 1e-4 : 1e-10));
          }
        }
      }
    }
  }
  CHECK(ran["direct"] == 4);
  CHECK(ran["auto"] == 4);
  CHECK(ran["far-field"] == 4);
  CHECK(ran["fft"] % 4 == 0);  // none in a build without FFT
}

// Products divide their own rows where nothing is to be added to them first: sums by sums from a call without the division.
TEST_CASE_TEMPLATE("rows divided by the product: the bits of dividing them afterwards", T, float, double) {
  struct Sample {
    const char* name;
    Index queries, keys, width, values;
    bool masked;
    es::Causal causal = es::Causal::none;
  };
  const Sample samples[] = {
      {"columns along lanes", 197, 197, 64, 64, true},
      {"columns along lanes, two sets of them", 40, 33, 9, 128, true},
      {"rows along lanes", 50, 61, 12, 7, true},
      {"many rows", 300, 210, 16, 64, true},
      {"the last sources hidden from every row", 30, 300, 8, 64, true, es::Causal::top_left},
      {"no source seen by the first rows", 300, 40, 8, 64, true, es::Causal::bottom_right},
      {"rows along lanes, no source seen by the first rows", 300, 40, 8, 5, true, es::Causal::bottom_right},
      {"no mask", 70, 70, 8, 64, false},
      {"features of width 0", 20, 20, 0, 64, true},
  };
  for (const Sample& s : samples) {
    CAPTURE(s.name);
    Tensor q = random_tensor(2, 2, s.queries, s.width, 1, true);
    const Tensor k = random_tensor(2, 2, s.keys, s.width, 2, true), v = random_tensor(2, 2, s.keys, s.values, 3);
    Stored<T> sq(q, 1), sk(k), sv(v, 2);
    for (Index c = 0; c < s.width; ++c) {
      sq.view.matrix(0, 1)(1, c) = sq.view.matrix(1, 0)(s.queries - 1, c) = 0;
      sq.view.matrix(1, 1)(s.queries / 2, c) = std::numeric_limits<T>::quiet_NaN();
    }
    const Masked m(2, s.queries, s.keys, 4);
    const auto masks = s.masked ? m.build<T>() : std::vector<es::MaskPointer<T>>{};
    // The greater floor is what sums of all keys are on average: it lies among them.
    for (const double floor : {0.0, 0.125 * static_cast<double>(s.keys * s.width)}) {
      CAPTURE(floor);
      Stored<T> expected(2, 2, s.queries, s.values), sums(2, 2, s.queries, 1);
      const auto undivided = es::masked_linear_attention(sq.view, sk.view, sv.view, masks, expected.view, sums.view,
                                                         {.normalize = false, .causal = s.causal});
      CHECK(undivided.floored_rows == 0);
      Index floored = 0;
      for (Index head = 0; head < 4; ++head) {
        const auto y = expected.view.matrix(head / 2, head % 2), d = sums.view.matrix(head / 2, head % 2);
        for (Index i = 0; i < s.queries; ++i) {
          const bool zero = std::abs(static_cast<double>(d(i, 0))) <= floor;
          floored += zero;
          for (Index c = 0; c < s.values; ++c) y(i, c) = zero ? T(0) : y(i, c) * (T(1) / d(i, 0));
        }
      }
      CHECK(floored >= (s.width == 0 ? 4 * s.queries : 2));
      if (floor == 0 && s.width > 0 && s.causal != es::Causal::bottom_right) CHECK(floored == 2);
      if (floor > 0 && s.width > 0 && s.masked && s.causal == es::Causal::none) {
        CHECK(floored > 2);
        CHECK(floored < 4 * s.queries);
      }
      for (const int threads : {1, 3}) {
        for (const std::size_t scratch : {std::size_t{256} << 20, std::size_t{1}}) {
          Stored<T> out(2, 2, s.queries, s.values), den(2, 2, s.queries, 1);
          const auto result = es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, den.view,
                                                          {.denominator_floor = floor, .causal = s.causal},
                                                          {.threads = threads, .scratch_bytes = scratch});
          CHECK(result.floored_rows == floored);
          CHECK(std::memcmp(out.memory.data(), expected.memory.data(), out.memory.size() * sizeof(T)) == 0);
          CHECK(std::memcmp(den.memory.data(), sums.memory.data(), den.memory.size() * sizeof(T)) == 0);
        }
      }
    }
  }
}

TEST_CASE("wrong calls throw and write nothing") {
  const Tensor q = random_tensor(1, 2, 4, 3, 1), k = random_tensor(1, 1, 5, 3, 2), v = random_tensor(1, 1, 5, 2, 3);
  Stored<double> sq(q), sk(k), sv(v), out(1, 2, 4, 2, 0, false, 9.0);
  const std::vector<double> before = out.memory;
  const Masked m(1, 4, 5, 4), square(1, 4, 4, 4);
  const auto masks = m.build<double>(), wrong = square.build<double>();
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sv.view, sv.view, masks, out.view), es::ShapeError);
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, wrong, out.view), es::ShapeError);
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, sq.view), es::ShapeError);
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, {}, {.weight_epsilon = -1}),
                  es::ValueError);
  CHECK_THROWS_AS(
      es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, {}, {.denominator_floor = std::nan("")}),
      es::ValueError);
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, {},
                                              {.features = es::FeatureKind::positive_softmax}),
                  es::ValueError);
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, {}, {.feature_epsilon = -1}),
                  es::ValueError);
  const std::int64_t too_many[] = {6};
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, {}, {.key_counts = {too_many, 1}}),
                  es::ValueError);
  Stored<double> own(1, 2, 5, 3, 0, false, 9.0);
  es::TensorView<double> same = sv.view;
  same.sizes[1] = 2, same.sizes[2] = 4, same.strides[1] = 0;
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, same), es::ValueError);
  std::stop_source stop;
  stop.request_stop();
  es::Progress progress{{}, stop.get_token()};
  CHECK_THROWS_AS(es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, {}, {}, {.progress = &progress}),
                  es::Cancelled);
  CHECK(out.memory == before);
}
