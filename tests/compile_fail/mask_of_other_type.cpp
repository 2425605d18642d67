// A mask of doubles with attention of floats.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/masks/grid.hpp>

#ifdef LEGAL
using Mask = espalier::GridMask<float>;
#else
using Mask = espalier::GridMask<double>;
#endif

void f(espalier::TensorView<float> q, const Mask& mask, espalier::TensorView<float> out) {
  espalier::masked_linear_attention(q, q, q, mask, out);
}
