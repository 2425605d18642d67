// A product with a device mask, where there is a device.
#include <espalier/cuda.hpp>
#include <espalier/masks/grid.hpp>

#include <iostream>
#include <vector>

int main() {
  if (espalier::cuda_device_count() == 0) {
    std::cout << "no CUDA device\n";
    return 0;
  }
  const espalier::GridMask<float, espalier::Cuda> mask({4, 4}, espalier::Exponential{.rate = 0.1});
  const std::vector<float> ones(16, 1.0f);
  const espalier::DeviceBuffer<float> x{std::span<const float>(ones)}, y(16);
  mask.multiply(x.matrix(16, 1), y.matrix(16, 1));
  std::cout << y.to_host()[0] << '\n';
}
