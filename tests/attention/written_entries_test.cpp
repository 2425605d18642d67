// Masks that several heads share: forward products read their entries written out once, and give the bits of one head alone.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/masks/bordered.hpp>
#include <espalier/masks/causal.hpp>
#include <espalier/masks/dense.hpp>
#include <espalier/masks/grid.hpp>
#include <espalier/masks/ones.hpp>
#include <espalier/masks/scaled.hpp>

#include <doctest/doctest.h>

#include "support/attention_reference.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace es = espalier;
using es::Index;
using namespace es::test;

namespace {

std::vector<double> random_values(Index n, unsigned seed) {
  std::vector<double> v(static_cast<std::size_t>(n));
  fill_pseudo_random(v, seed, true);
  return v;
}

template <class T>
es::MaskPointer<T> dense(Index rows, Index cols, unsigned seed) {
  const std::vector<double> v = random_values(rows * cols, seed);
  return std::make_shared<es::DenseMask<T>>(es::MatrixView<const double>(v.data(), rows, cols));
}

template <class T>
es::MaskPointer<T> grid(std::vector<Index> sizes, unsigned seed, bool causal = false) {
  Index table = 1;
  for (const Index n : sizes) table *= 2 * n - 1;
  es::GridOptions options;
  options.engine = "direct";
  options.causal = causal;
  return std::make_shared<es::GridMask<T>>(std::move(sizes), random_values(table, seed), options);
}

// A user's mask with entries, whose product is its own: twice that of its entries.
template <class T>
class Doubled final : public es::Mask<T> {
 public:
  Doubled(Index rows, Index cols) : es::Mask<T>(rows, cols, {}), values_(static_cast<std::size_t>(rows * cols), T(1)) {}
  es::Entries<T> entries() const override {
    es::Entries<T> e;
    e.kind = es::EntryKind::dense;
    e.rows = this->rows(), e.cols = this->cols();
    e.values = values_.data();
    e.values_stride = this->cols();
    return e;
  }

 protected:
  void apply(es::MatrixView<const T> x, es::MatrixView<T> y, bool transpose,
             const es::Context<es::Cpu>& context) const override {
    this->apply_by_tiles(x, y, transpose, context);
  }
  void apply_low_rank(const es::LowRankInputs<T>& in, const es::LowRankOutputs<T>& out, bool transpose,
                      const es::Context<es::Cpu>& context) const override {
    this->low_rank_by_tiles(in, out, transpose, context);
    for (Index i = 0; i < out.y.rows; ++i) {
      for (Index c = 0; c < out.y.cols; ++c) out.y(i, c) *= T(2);
      if (out.row_sum) out.row_sum[i] *= T(2);
    }
  }

 private:
  std::vector<T> values_;
};

// Counts how often its entries are asked for; its product is that of tiles, and says so.
template <class T>
class Counted final : public es::Mask<T>, public es::EntrySource<T> {
 public:
  Counted(Index rows, Index cols) : es::Mask<T>(rows, cols, {.engine = "direct"}) {}
  bool multiplies_by_tiles(es::Shape) const override { return true; }
  es::Entries<T> entries() const override {
    es::Entries<T> e;
    e.kind = es::EntryKind::source;
    e.rows = this->rows(), e.cols = this->cols();
    e.source = this;
    return e;
  }
  void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const override {
    asked += rows * cols;
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) out[i * stride + j] = T(1) / static_cast<T>(row0 + i + 2 * (col0 + j) + 1);
    }
  }
  mutable std::atomic<Index> asked{0};

 protected:
  void apply(es::MatrixView<const T> x, es::MatrixView<T> y, bool transpose,
             const es::Context<es::Cpu>& context) const override {
    this->apply_by_tiles(x, y, transpose, context);
  }
};

template <class T>
std::vector<std::pair<std::string, es::MaskPointer<T>>> samples(Index rows, Index cols) {
  std::vector<std::pair<std::string, es::MaskPointer<T>>> all;
  all.emplace_back("dense", dense<T>(rows, cols, 3));
  all.emplace_back("scaled", std::make_shared<es::ScaledMask<T>>(dense<T>(rows, cols, 4), 0.7));
  all.emplace_back("bordered dense",
                   std::make_shared<es::BorderedMask<T>>(dense<T>(rows - 1, cols - 1, 5), 1, es::BorderWeights{0.3, 0.6, 2}));
  all.emplace_back("bordered, scaled inside", std::make_shared<es::BorderedMask<T>>(
                                                  std::make_shared<es::ScaledMask<T>>(dense<T>(rows - 2, cols - 2, 6), 1.3), 2,
                                                  es::BorderWeights{1, 0.1, 0.5}));
  all.emplace_back("ones", std::make_shared<es::OnesMask<T>>(rows, cols));
  all.emplace_back("a user's entries", std::make_shared<Counted<T>>(rows, cols));
  all.emplace_back("a user's own product", std::make_shared<Doubled<T>>(rows, cols));
  if (rows == cols) {
    all.emplace_back("line", grid<T>({rows}, 7));
    all.emplace_back("causal line", grid<T>({rows}, 8, true));
    all.emplace_back("causal over dense", std::make_shared<es::CausalMask<T>>(dense<T>(rows, cols, 9)));
    for (Index n = 2; n * n <= rows; ++n) {
      if (n * n == rows) all.emplace_back("image", grid<T>({n, n}, 10));
      if (n * n + 1 == rows)
        all.emplace_back("image with CLS",
                         std::make_shared<es::BorderedMask<T>>(grid<T>({n, n}, 11), 1, es::BorderWeights{1, 2, 3}));
    }
  }
  return all;
}

// Every head in a call of its own, with a mask of its own: nothing is shared.
template <class T>
void check_shared(const std::string& name, const std::vector<es::MaskPointer<T>>& masks, Index batch, Index heads, Index lq,
                  Index lk, Index m, Index c, const es::LinearOptions& options, const es::Context<es::Cpu>& context) {
  CAPTURE(name);
  CAPTURE(lq);
  CAPTURE(lk);
  CAPTURE(c);
  const Stored<T> q(random_tensor(batch, heads, lq, m, 1), 3), k(random_tensor(batch, heads, lk, m, 2), 2);
  const Stored<T> v(random_tensor(batch, heads, lk, c, 3), 1);
  Stored<T> out(batch, heads, lq, c, 5, false, T(77)), normaliser(batch, heads, lq, 1, 1, false, T(77));
  es::masked_linear_attention(q.view, k.view, v.view, masks, out.view, normaliser.view, options, context);
  CHECK(out.gaps_untouched(5));
  CHECK(normaliser.gaps_untouched(1));
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      const auto one = [&](const es::TensorView<T>& t) {
        const es::MatrixView<T> head = t.matrix(b, h);
        es::TensorView<T> r(head.data, 1, 1, head.rows, head.cols);
        r.strides[2] = head.row_stride;
        return r;
      };
      Stored<T> alone(1, 1, lq, c), sum(1, 1, lq, 1);
      const std::vector<es::MaskPointer<T>> mask{masks[static_cast<std::size_t>(h) % masks.size()]};
      es::masked_linear_attention(one(q.view), one(k.view), one(v.view), mask, alone.view, sum.view, options);
      const std::vector<T> want = alone.flat(), want_sum = sum.flat();
      bool same = true;
      for (Index i = 0; i < lq; ++i) {
        same = same &&
               std::memcmp(out.view.matrix(b, h).row(i), want.data() + i * c, static_cast<std::size_t>(c) * sizeof(T)) == 0;
        same = same && normaliser.view.matrix(b, h)(i, 0) == want_sum[static_cast<std::size_t>(i)];
      }
      CHECK(same);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a head among many gives the bits of the head alone", T, float, double) {
  for (const auto& [lq, lk] : {std::pair<Index, Index>{5, 5}, {17, 17}, {37, 37}, {65, 65}, {197, 197}, {31, 130}, {129, 7}}) {
    for (const auto& [name, mask] : samples<T>(lq, lk)) {
      const std::vector<es::MaskPointer<T>> masks{mask};
      const es::LinearOptions relu{.denominator_floor = 1e-6, .features = es::FeatureKind::relu, .feature_epsilon = 1e-3};
      check_shared(name, masks, 3, 2, lq, lk, 8, 64, relu, {.threads = 1});
      check_shared(name, masks, 5, 1, lq, lk, 3, 20, {.denominator_floor = 1e-6}, {.threads = 2});
      // No memory for entries: they are made head by head.
      check_shared(name, masks, 3, 1, lq, lk, 5, 64, relu, {.threads = 1, .scratch_bytes = 1});
    }
  }
}

TEST_CASE_TEMPLATE("the entries of a shared mask are asked for once a call, where they fit", T, float, double) {
  const auto entries_asked = [](Index n, Index batch, std::size_t scratch) {
    const auto mask = std::make_shared<Counted<T>>(n, n);
    const std::vector<es::MaskPointer<T>> masks{mask};
    const Stored<T> q(random_tensor(batch, 2, n, 4, 1, true)), k(random_tensor(batch, 2, n, 4, 2, true));
    Stored<T> out(batch, 2, n, 4);
    es::masked_linear_attention<T>(q.view, k.view, k.view, masks, out.view, {}, {}, {.threads = 1, .scratch_bytes = scratch});
    return mask->asked.load();
  };
  const std::size_t room = std::size_t{1} << 20;
  CHECK(entries_asked(100, 3, room) == 100 * 100);
  CHECK(entries_asked(100, 1, room) == 2 * 100 * 100);       // two heads: no gain
  CHECK(entries_asked(100, 3, 100 * 100) == 6 * 100 * 100);  // no room
  CHECK(entries_asked(400, 3, room << 4) == 6 * 400 * 400);  // more than a core's cache
}

TEST_CASE_TEMPLATE("several masks, of which some are written out, and more heads than a cache holds", T, float, double) {
  const std::vector<es::MaskPointer<T>> masks{grid<T>({197}, 1), dense<T>(197, 197, 2), grid<T>({197}, 3, true),
                                              std::make_shared<Doubled<T>>(197, 197)};
  for (const int threads : {1, 2, 3}) {
    const es::LinearOptions relu{.denominator_floor = 1e-6, .features = es::FeatureKind::relu};
    check_shared("mixed", masks, 4, 4, 197, 197, 64, 64, relu, {.threads = threads});
    es::LinearOptions causal = relu;
    causal.causal = es::Causal::top_left;
    check_shared("causal order", masks, 3, 4, 197, 197, 8, 64, causal, {.threads = threads});
  }
}

TEST_CASE_TEMPLATE("shared masks equal the definition, with grouped heads and padding", T, float, double) {
  const Index batch = 4, heads = 2, n = 50, m = 6, c = 64;
  const std::vector<double> table = random_values(13 * 13, 4);
  const std::vector<es::MaskPointer<T>> masks{std::make_shared<es::BorderedMask<T>>(
      std::make_shared<es::GridMask<T>>(std::vector<Index>{7, 7}, table), 1, es::BorderWeights{0.5, 0.25, 2})};
  const auto entry = [&](Index, Index, Index i, Index j) {
    if (i == 0 || j == 0) return i > 0 ? 0.25 : j > 0 ? 0.5 : 2.0;
    --i, --j;
    return table[static_cast<std::size_t>((i / 7 - j / 7 + 6) * 13 + i % 7 - j % 7 + 6)];
  };
  const std::vector<std::int64_t> counts{n, 3, 49, n};
  for (const Index key_heads : {Index{1}, heads}) {
    for (const bool padded : {false, true}) {
      const Tensor q = random_tensor(batch, heads, n, m, 1, true), k = random_tensor(batch, key_heads, n, m, 2, true);
      const Tensor v = random_tensor(batch, key_heads, n, c, 3);
      const PairFunction pair = [&](Index b, Index i, Index j) {
        return !padded || std::max(i, j) < counts[static_cast<std::size_t>(b)];
      };
      const auto want = linear_attention(q, k, v, entry, pair);
      Stored<T> sq(q, 3), sk(k, 2), sv(v, 1), out(batch, heads, n, c), normaliser(batch, heads, n, 1);
      es::LinearOptions options;
      if (padded) options.key_counts = {counts.data(), batch};
      for (Index i = 3; padded && i < n; ++i) {
        sq.view.matrix(1, 0)(i, 0) = sk.view.matrix(1, 0)(i, 1) = sv.view.matrix(1, 0)(i, 2) =
            std::numeric_limits<T>::quiet_NaN();
      }
      es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, normaliser.view, options);
      CHECK(relative_to_max(out.flat(), want.out.values) < (sizeof(T) == 4 ? 2e-6 : 1e-12));
      CHECK(relative_to_max(normaliser.flat(), want.denominator.values) < (sizeof(T) == 4 ? 2e-6 : 1e-12));
    }
  }
}
