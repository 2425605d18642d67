// Float queries with double keys: T is one type throughout a call.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>

void f(espalier::TensorView<float> q, espalier::TensorView<float> k, espalier::TensorView<double> k_double,
       espalier::TensorView<float> out) {
#ifdef LEGAL
  (void)k_double;
  espalier::masked_linear_attention(q, k, k, {}, out);
#else
  espalier::masked_linear_attention(q, k_double, k, {}, out);
#endif
}
