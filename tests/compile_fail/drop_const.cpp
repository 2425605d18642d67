// A view of const elements does not become a writable one.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/views.hpp>

#ifdef LEGAL
using From = float;
#else
using From = const float;
#endif

espalier::MatrixView<float> f(espalier::MatrixView<From> m) {
  return m;
}
