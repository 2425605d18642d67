// A mask of your own (circulant_mask.hpp) in everything that takes a mask: linear attention with gradients, a softmax bias,
// inside a bordered mask and a sum.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/attention/softmax.hpp>
#include <espalier/core/random.hpp>
#include <espalier/masks/combinators.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "circulant_mask.hpp"

namespace es = espalier;
using es::Index;

namespace {

// Positive numbers in (0, 1): queries and keys as they come out of a feature map, and values.
std::vector<double> numbers(Index count, std::uint64_t seed) {
  const es::Random random(seed);
  std::vector<double> r(static_cast<std::size_t>(count));
  for (std::size_t p = 0; p < r.size(); ++p) r[p] = random.uniform(p);
  return r;
}
es::TensorView<double> view(std::vector<double>& v, Index length, Index width) {
  return {v.data(), 1, 1, length, width};
}

bool report(const char* what, double error, double bound) {
  std::printf("%-48s error %.1e (bound %.0e)\n", what, error, bound);
  return error <= bound;
}

}  // namespace

int main() {
  constexpr Index length = 256, rank = 16, width = 8;
  std::vector<double> column(length);
  for (Index d = 0; d < length; ++d)
    column[static_cast<std::size_t>(d)] = std::exp(-0.05 * static_cast<double>(std::min(d, length - d)));
  const auto mask = std::make_shared<CirculantMask<double>>(column);
  const auto entry = [&](Index i, Index j) { return column[static_cast<std::size_t>((i - j + length) % length)]; };
  auto q = numbers(length * rank, 1), k = numbers(length * rank, 2), v = numbers(length * width, 3),
       g = numbers(length * width, 4);
  std::vector<double> out(v.size()), normaliser(length);
  const auto Q = view(q, length, rank), K = view(k, length, rank), V = view(v, length, width), G = view(g, length, width);
  bool good = true;

  // Linear attention: out_i = sum_j M_ij (q_i . k_j) v_j / sum_j M_ij (q_i . k_j), against the double loop for row 5.
  es::masked_linear_attention(Q, K, V, *mask, view(out, length, width), view(normaliser, length, 1));
  double top = 0, below = 0;
  for (Index j = 0; j < length; ++j) {
    double s = 0;
    for (Index r = 0; r < rank; ++r) s += q[static_cast<std::size_t>(5 * rank + r)] * k[static_cast<std::size_t>(j * rank + r)];
    top += entry(5, j) * s * v[static_cast<std::size_t>(j * width)];
    below += entry(5, j) * s;
  }
  good &= report("linear attention", std::abs(out[5 * width] / (top / below) - 1), 1e-12);

  // Its gradient in the column, against a change of one parameter of a new mask.
  std::vector<double> column_bar(length);
  es::masked_linear_attention_vjp(Q, K, V, *mask, view(out, length, width), view(normaliser, length, 1), G,
                                  {.parameters = {column_bar.data(), 1, length}});
  const auto objective = [&](double change) {
    std::vector<double> p = column, result(out.size());
    p[3] += change;
    const auto changed = mask->with_parameters(p);
    es::masked_linear_attention(Q, K, V, *changed, view(result, length, width));
    double sum = 0;
    for (std::size_t e = 0; e < result.size(); ++e) sum += result[e] * g[e];
    return sum;
  };
  const double difference = (objective(1e-5) - objective(-1e-5)) / 2e-5;
  const double largest = std::abs(
      *std::max_element(column_bar.begin(), column_bar.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }));
  good &= report("gradient of the column", std::abs(column_bar[3] - difference) / largest, 1e-6);

  // As a softmax bias: s_ij = q_i . k_j / sqrt(d) + M_ij.
  std::vector<double> log_sum_exp(length);
  es::softmax_attention(Q, K, V, view(out, length, width), view(log_sum_exp, length, 1), *mask);
  double total = 0;
  for (Index j = 0; j < length; ++j) {
    double s = 0;
    for (Index r = 0; r < rank; ++r) s += q[static_cast<std::size_t>(5 * rank + r)] * k[static_cast<std::size_t>(j * rank + r)];
    total += std::exp(s / std::sqrt(static_cast<double>(rank)) + entry(5, j));
  }
  good &= report("softmax with the mask as bias", std::abs(log_sum_exp[5] - std::log(total)), 1e-12);

  // One extra token before it, and the sum of two: row 6 is row 5 of 1.5 M beside the extra token's weight.
  const auto half = std::make_shared<es::ScaledMask<double>>(mask, 0.5);
  const auto sum = std::make_shared<es::SumMask<double>>(std::vector<es::MaskPointer<double>>{mask, half});
  const es::BorderedMask<double> bordered(sum, 1, {.row = 1, .column = 2, .corner = 1});
  auto x = numbers(length + 1, 5);
  std::vector<double> y(x.size());
  bordered.multiply({x.data(), length + 1, 1}, {y.data(), length + 1, 1});
  double expected = 2 * x[0];
  for (Index j = 0; j < length; ++j) expected += 1.5 * entry(5, j) * x[static_cast<std::size_t>(j + 1)];
  good &= report("bordered sum of two", std::abs(y[6] / expected - 1), 1e-12);
  std::printf("engine for 16 features and 8 columns: %s\n", bordered.report({.columns = width, .rank = rank}).engine.c_str());
  return good ? 0 : 1;
}
