// Learns a grid mask's table back from attention outputs by gradient steps; prints the loss, writes both tables as one picture.
// usage: learn_a_mask [PICTURE.png]     SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/random.hpp>
#include <espalier/io/image.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

namespace es = espalier;
using es::Index;

int main(int argc, char** argv) {
  const Index side = 8, length = side * side, width = 16, table_side = 2 * side - 1;
  const auto count = static_cast<std::size_t>(table_side * table_side);
  std::vector<double> truth(count), learned(count, 0.5), slow(count), fast(count);
  for (std::size_t p = 0; p < count; ++p) {
    const double x = static_cast<double>(p % 15) - 7, y = static_cast<double>(p / 15) - 7;
    truth[p] = 0.05 + std::exp(-(x * x + y * y) / 20) + 0.5 * std::exp(-((x - 4) * (x - 4) + (y + 3) * (y + 3)) / 4);
  }
  const es::GridMask<float> target({side, side}, truth);
  es::MaskPointer<float> mask = std::make_shared<es::GridMask<float>>(std::vector<Index>{side, side}, learned);
  const auto cells = static_cast<std::size_t>(length * width);
  std::vector<float> q(cells), k(cells), v(cells), want(cells), out(cells), out_bar(cells), sums(64), bar(count);
  const auto tensor = [&](std::vector<float>& m) {
    return es::TensorView<float>(m.data(), 1, 1, length, static_cast<Index>(m.size()) / length);
  };
  double loss = 0;
  for (int step = 0; step < 800; ++step) {
    const es::Random random(1, static_cast<std::uint64_t>(step));
    for (std::size_t p = 0; p < cells; ++p) {
      q[p] = static_cast<float>(random.uniform(3 * p));
      k[p] = static_cast<float>(random.uniform(3 * p + 1));
      v[p] = static_cast<float>(random.normal(2 * (3 * p + 2)));
    }
    es::masked_linear_attention(tensor(q), tensor(k), tensor(v), target, tensor(want));
    es::masked_linear_attention(tensor(q), tensor(k), tensor(v), *mask, tensor(out), tensor(sums));
    loss = 0;
    for (std::size_t p = 0; p < cells; ++p) {
      out_bar[p] = out[p] - want[p];
      loss += 0.5 * out_bar[p] * out_bar[p];
    }
    es::masked_linear_attention_vjp(tensor(q), tensor(k), tensor(v), *mask, tensor(out), tensor(sums), tensor(out_bar),
                                    {.parameters = {bar.data(), 1, static_cast<Index>(count)}});
    for (std::size_t p = 0; p < count; ++p) {  // a step of Adam
      slow[p] = 0.9 * slow[p] + 0.1 * bar[p];
      fast[p] = 0.99 * fast[p] + 0.01 * bar[p] * bar[p];
      const double g = slow[p] / (1 - std::pow(0.9, step + 1)), s = std::sqrt(fast[p] / (1 - std::pow(0.99, step + 1)));
      learned[p] = std::max(1e-3, learned[p] - (step < 500 ? 0.02 : 0.003) * g / (s + 1e-12));
    }
    mask = mask->with_parameters(learned);
    if (step % 100 == 0) std::printf("step %3d  loss %.3e\n", step, loss);
  }
  // The ratio in attention does not see a common factor: compare at equal mean.
  double sum_truth = 0, sum_learned = 0, error = 0;
  for (std::size_t p = 0; p < count; ++p) sum_truth += truth[p], sum_learned += learned[p];
  es::Image picture(2 * table_side * 16 + 16, table_side * 16);
  for (std::size_t p = 0; p < count; ++p) {
    const double value = learned[p] * sum_truth / sum_learned;
    error = std::max(error, std::abs(value - truth[p]));
    const Index x = static_cast<Index>(p) % table_side * 16, y = static_cast<Index>(p) / table_side * 16;
    es::fill_rectangle(picture, x, y, 16, 16, es::colour_map(truth[p]));
    es::fill_rectangle(picture, x + table_side * 16 + 16, y, 16, 16, es::colour_map(value));
  }
  std::printf("final loss %.3e, largest error of the table %.3f (its largest entry 1.05)\n", loss, error);
  if (argc > 1) es::write_png(argv[1], picture);
  return error < 0.1 ? 0 : 1;
}
