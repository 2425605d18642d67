// Built by one compiler call with the flags of `pkg-config espalier`.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/grid.hpp>

#include <cstdio>
#include <vector>

int main() {
  // A 4 x 5 grid, f = 1: every row sums to 20.
  const espalier::GridMask<float> mask({4, 5}, espalier::Exponential{.rate = 0});
  const std::vector<float> x(20, 1.0f);
  std::vector<float> y(20);
  mask.multiply(espalier::MatrixView<const float>(x.data(), 20, 1), espalier::MatrixView<float>(y.data(), 20, 1));
  std::printf("row sum %g\n", static_cast<double>(y[7]));
  return y[7] > 19.99f && y[7] < 20.01f ? 0 : 1;
}
