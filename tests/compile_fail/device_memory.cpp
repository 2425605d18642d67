// Host memory is not device memory: the backend is part of a view's type.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/grid.hpp>

void f(const espalier::GridMask<float>& mask, espalier::MatrixView<const float, espalier::Cuda> device,
       espalier::MatrixView<const float> host, espalier::MatrixView<float> y) {
#ifdef LEGAL
  (void)device;
  mask.multiply(host, y);
#else
  (void)host;
  mask.multiply(device, y);
#endif
}
