// Results cannot be written through a view of const elements.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/grid.hpp>

void f(const espalier::GridMask<float>& mask, espalier::MatrixView<const float> x, espalier::MatrixView<float> y,
       espalier::MatrixView<const float> y_const) {
#ifdef LEGAL
  (void)y_const;
  mask.multiply(x, y);
#else
  (void)y;
  mask.multiply(x, y_const);
#endif
}
