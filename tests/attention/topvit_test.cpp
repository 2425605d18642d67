// TopViT's explicit ReLU attention with its table, CLS border and both epsilons equals the implicit one, by tiles and by FFT.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/build_info.hpp>
#include <espalier/masks/bordered.hpp>
#include <espalier/masks/grid.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "support/attention_reference.hpp"

namespace es = espalier;
using es::Index;
using namespace es::test;

namespace {

constexpr Index kX = 5, kY = 4, kLength = kX * kY + 1, kHeads = 3, kWidth = 6;
constexpr double kEpsilon = 1e-8;

// The published code, step by step: q / sqrt(depth), relu + 1e-8, weights q kᵀ times |table[(dx + nx) 2 ny + dy + ny]| with a
// first row and column of ones, + 1e-8, divided by the row sum.
Tensor explicit_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<double>& table) {
  Tensor out(q.b, q.h, q.l, v.d);
  const auto feature = [](double x) { return std::max(x, 0.0) + kEpsilon; };
  for (Index b = 0; b < q.b; ++b) {
    for (Index h = 0; h < q.h; ++h) {
      for (Index i = 0; i < q.l; ++i) {
        double total = 0;
        for (Index j = 0; j < q.l; ++j) {
          double w = 0;
          for (Index c = 0; c < q.d; ++c) {
            w += feature(q(b, h, i, c) / std::sqrt(static_cast<double>(q.d))) * feature(k(b, h, j, c));
          }
          double mask = 1;
          if (i > 0 && j > 0) {
            const Index dx = (i - 1) / kY - (j - 1) / kY, dy = (i - 1) % kY - (j - 1) % kY;
            mask = std::abs(table[static_cast<std::size_t>(h * 4 * kX * kY + (dx + kX) * 2 * kY + dy + kY)]);
          }
          w = w * mask + kEpsilon;
          total += w;
          for (Index c = 0; c < v.d; ++c) out(b, h, i, c) += w * v(b, h, j, c);
        }
        for (Index c = 0; c < v.d; ++c) out(b, h, i, c) /= total;
      }
    }
  }
  return out;
}

template <class T>
std::vector<T> implicit_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<double>& table,
                                  const std::string& engine) {
  std::vector<es::MaskPointer<T>> masks;
  for (Index h = 0; h < kHeads; ++h) {
    std::vector<double> used;
    for (Index dx = 1 - kX; dx < kX; ++dx) {
      for (Index dy = 1 - kY; dy < kY; ++dy) {
        used.push_back(std::abs(table[static_cast<std::size_t>(h * 4 * kX * kY + (dx + kX) * 2 * kY + dy + kY)]));
      }
    }
    es::GridOptions options;
    options.engine = engine;
    masks.push_back(
        std::make_shared<es::BorderedMask<T>>(std::make_shared<es::GridMask<T>>(std::vector<Index>{kX, kY}, used, options), 1));
  }
  Tensor scaled = q;
  for (double& x : scaled.values) x /= std::sqrt(static_cast<double>(kWidth));
  const es::FeatureMap<T> relu(kWidth, {.kind = es::FeatureKind::relu, .epsilon = kEpsilon});
  Stored<T> sq(scaled), sk(k), sv(v), fq(2, kHeads, kLength, kWidth), fk(2, kHeads, kLength, kWidth),
      out(2, kHeads, kLength, 3);
  relu.apply(sq.view, fq.view);
  relu.apply(sk.view, fk.view);
  es::masked_linear_attention(fq.view, fk.view, sv.view, masks, out.view, {}, {.weight_epsilon = kEpsilon});
  return out.flat();
}

}  // namespace

TEST_CASE_TEMPLATE("explicit and implicit TopViT attention agree", T, float, double) {
  const Tensor q = random_tensor(2, kHeads, kLength, kWidth, 1), k = random_tensor(2, kHeads, kLength, kWidth, 2);
  const Tensor v = random_tensor(2, kHeads, kLength, 3, 3);
  std::vector<double> table(static_cast<std::size_t>(kHeads * 4 * kX * kY));
  fill_pseudo_random(table, 4);
  const Tensor want = explicit_attention(q, k, v, table);
  const double bound = sizeof(T) == 4 ? 2e-5 : 1e-12;  // float: ReLU leaves rows whose few weights are small
  CHECK(relative_to_max(implicit_attention<T>(q, k, v, table, "direct"), want.values) < bound);
  for (const auto& part : es::build_info().parts) {
    if (part.name == "FFTW" && part.found) {
      CHECK(relative_to_max(implicit_attention<T>(q, k, v, table, "fft"), want.values) < bound);
    }
  }
}

TEST_CASE("a table of ones is attention without a mask") {
  const Tensor q = random_tensor(2, kHeads, kLength, kWidth, 1), k = random_tensor(2, kHeads, kLength, kWidth, 2);
  const Tensor v = random_tensor(2, kHeads, kLength, 3, 3);
  const std::vector<double> ones(static_cast<std::size_t>(kHeads * 4 * kX * kY), 1.0);
  Tensor scaled = q;
  for (double& x : scaled.values) x /= std::sqrt(static_cast<double>(kWidth));
  const es::FeatureMap<double> relu(kWidth, {.kind = es::FeatureKind::relu, .epsilon = kEpsilon});
  Stored<double> sq(scaled), sk(k), sv(v), fq(2, kHeads, kLength, kWidth), fk(2, kHeads, kLength, kWidth),
      out(2, kHeads, kLength, 3);
  relu.apply(sq.view, fq.view);
  relu.apply(sk.view, fk.view);
  es::masked_linear_attention(fq.view, fk.view, sv.view, {}, out.view, {}, {.weight_epsilon = kEpsilon});
  CHECK(relative_to_max(implicit_attention<double>(q, k, v, ones, "direct"), out.flat()) < 1e-13);
}
