// One task of the softmax gradients: a stripe of keys with all query heads that share it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/entries.hpp>
#include <espalier/core/views.hpp>

#include "backend/cpu/softmax_head.hpp"

namespace espalier::backend {

// One query head of a stripe. Outputs not wanted are empty.
template <class T>
struct SoftmaxStripeHead {
  SoftmaxHead<T> head;
  MatrixView<const T, Cpu> out, out_bar, log_sum_exp;
  MatrixView<T, Cpu> q_bar;
  bool add_q = false;  // to what q_bar holds
  EntriesGradient<T, Cpu> bias_sink, mask_sink;
};

// Keys begin .. end - 1 of one key head, seen by `heads` query heads.
template <class T>
struct SoftmaxStripe {
  const SoftmaxStripeHead<T>* heads = nullptr;
  Index head_count = 0, begin = 0, end = 0;
  MatrixView<T, Cpu> k_bar, v_bar;
  bool accumulate = false;
};

// The kernel, for the instruction set in use (softmax_tiles_vjp.cpp).
void softmax_stripe(const SoftmaxStripe<float>& stripe);
void softmax_stripe(const SoftmaxStripe<double>& stripe);

}  // namespace espalier::backend
