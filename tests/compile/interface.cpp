// The snippet of docs/interface.md, whole, and the ways of calling it that argument deduction must allow. Compiled only.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/masks/grid.hpp>

#include <iostream>
#include <span>

namespace es = espalier;

void snippet(es::MatrixView<float> x, es::MatrixView<float> y, es::TensorView<float> q, es::TensorView<float> k,
             es::TensorView<float> v, es::TensorView<float> out, es::TensorView<float> normaliser,
             es::TensorView<float> out_bar, es::TensorView<float> q_bar, es::TensorView<float> k_bar,
             es::TensorView<float> v_bar, es::MatrixView<float> p_bar, std::span<const double> p);
void deduction(es::TensorView<const float> q, es::TensorView<float> k, es::TensorView<const float> v, es::TensorView<float> out,
               es::TensorView<const float> normaliser, const es::GridMask<float>& mask);

void snippet(es::MatrixView<float> x, es::MatrixView<float> y, es::TensorView<float> q, es::TensorView<float> k,
             es::TensorView<float> v, es::TensorView<float> out, es::TensorView<float> normaliser,
             es::TensorView<float> out_bar, es::TensorView<float> q_bar, es::TensorView<float> k_bar,
             es::TensorView<float> v_bar, es::MatrixView<float> p_bar, std::span<const double> p) {
  es::GridMask<float> mask({64, 64}, es::Exponential{.rate = 0.1}, es::Distance::l1);
  mask.multiply(x, y);                                          // y = M x; views over the caller's own memory
  es::masked_linear_attention(q, k, v, mask, out, normaliser);  // [B, H, L, D] views; q, k already through a feature map
  es::masked_linear_attention_vjp(q, k, v, mask, out, normaliser, out_bar,
                                  {.q = q_bar, .k = k_bar, .v = v_bar, .parameters = p_bar});
  auto next = mask.with_parameters(p);  // a training step: new values, shared set-up, old mask untouched
  std::cout << mask.report({.columns = 64, .rank = 64}) << '\n';  // engine, reason, certificate, predicted cost
}

// Const first view, no mask, options and context by designated initialisers.
void deduction(es::TensorView<const float> q, es::TensorView<float> k, es::TensorView<const float> v, es::TensorView<float> out,
               es::TensorView<const float> normaliser, const es::GridMask<float>& mask) {
  es::masked_linear_attention(q, k, v, mask, out);
  es::masked_linear_attention(q, k, v, {}, out);
  es::masked_linear_attention(q, k, v, mask, out, {}, {.denominator_floor = 1e-9}, {.threads = 1});
  es::masked_linear_attention_vjp(q, k, v, mask, out, normaliser, out, {.q = out}, {}, {.threads = 1});
}
