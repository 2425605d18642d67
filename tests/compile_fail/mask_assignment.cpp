// Masks are immutable: no assignment.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/grid.hpp>

void f(espalier::GridMask<float>& a, const espalier::GridMask<float>& b) {
#ifdef LEGAL
  const espalier::GridMask<float> copy = b;
  (void)a;
  (void)copy;
#else
  a = b;
#endif
}
