// Demo, learning: a grid mask's table recovered from attention outputs by gradient steps.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/masks/grid.hpp>

#include "demo.hpp"
#include "pictures.hpp"

#include <algorithm>
#include <cmath>

namespace espalier::tools {

void demo_learning(const DemoSetting& setting, std::vector<DemoPicture>& pictures) {
  setting.say("learning a table from outputs");
  const Index side = 10, length = side * side, width = 16, table_side = 2 * side - 1;
  const auto parameters = static_cast<std::size_t>(table_side * table_side);
  std::vector<double> truth(parameters), learned(parameters, 0.5), slow(parameters), fast(parameters);
  for (Index a = 0; a < table_side; ++a) {
    for (Index b = 0; b < table_side; ++b) {
      const double x = static_cast<double>(b - side + 1), y = static_cast<double>(a - side + 1);
      truth[static_cast<std::size_t>(a * table_side + b)] =
          0.05 + std::exp(-(x * x + y * y) / 30) + 0.5 * std::exp(-((x - 5) * (x - 5) + (y + 4) * (y + 4)) / 6);
    }
  }
  const GridMask<float> target({side, side}, truth);
  MaskPointer<float> mask = std::make_shared<GridMask<float>>(std::vector<Index>{side, side}, learned);
  DemoMatrix<float> want(length, width), out(length, width), out_bar(length, width), normaliser(length, 1),
      bar(1, static_cast<Index>(parameters));
  for (int step = 0; step < 600; ++step) {
    DemoMatrix<float> q = normal_matrix(length, width, 1000 + static_cast<std::uint64_t>(step)),
                      k = normal_matrix(length, width, 3000 + static_cast<std::uint64_t>(step));
    const DemoMatrix<float> v = normal_matrix(length, width, 5000 + static_cast<std::uint64_t>(step));
    for (auto* m : {&q, &k}) {
      for (float& f : m->values) f = std::abs(f);
    }
    const TensorView<const float> qt = q.tensor(), kt = k.tensor(), vt{v.values.data(), 1, 1, length, width};
    masked_linear_attention(qt, kt, vt, target, want.tensor(), {}, {}, setting.context);
    masked_linear_attention(qt, kt, vt, *mask, out.tensor(), normaliser.tensor(), {}, setting.context);
    for (std::size_t p = 0; p < out.values.size(); ++p) out_bar.values[p] = out.values[p] - want.values[p];
    masked_linear_attention_vjp(qt, kt, vt, *mask, out.tensor(), normaliser.tensor(), out_bar.tensor(),
                                {.parameters = bar.view()}, {}, setting.context);
    for (std::size_t p = 0; p < parameters; ++p) {  // Adam
      const double g = bar.values[p];
      slow[p] = 0.9 * slow[p] + 0.1 * g;
      fast[p] = 0.99 * fast[p] + 0.01 * g * g;
      const double rate = 0.02 * (step < 400 ? 1 : 0.2);
      learned[p] = std::max(1e-3, learned[p] - rate * slow[p] / (1 - std::pow(0.9, step + 1)) /
                                                   (std::sqrt(fast[p] / (1 - std::pow(0.99, step + 1))) + 1e-12));
    }
    mask = mask->with_parameters(learned);
  }
  // The ratio does not see a common factor: compare at equal mean.
  double mean_truth = 0, mean_learned = 0;
  for (std::size_t p = 0; p < parameters; ++p) mean_truth += truth[p], mean_learned += learned[p];
  for (double& p : learned) p *= mean_truth / mean_learned;
  Image left = heat_picture(truth, {table_side, table_side}, {}), right = heat_picture(learned, {table_side, table_side}, {});
  Image both(left.width + right.width + 10, std::max(left.height, right.height));
  for (const auto& [image, x0] : {std::pair<const Image&, Index>(left, 0), {right, left.width + 10}}) {
    for (Index y = 0; y < image.height; ++y) {
      std::copy_n(image.pixels.data() + y * image.width * 3, image.width * 3, both.pixels.data() + (y * both.width + x0) * 3);
    }
  }
  pictures.push_back({"learned_table.png", std::move(both)});
}

}  // namespace espalier::tools
