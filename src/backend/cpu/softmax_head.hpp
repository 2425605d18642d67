// What the softmax kernels work on: one head's matrices, cut to the rows and keys that take part.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

#include <algorithm>
#include <vector>

#include "backend/cpu/entry_plan.hpp"
#include "backend/softmax_tiles.hpp"

namespace espalier::backend {

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// Scores are kept in units of log 2, so that the exponential is 2^x: scale and bias are multiplied by log2(e).
template <class T>
struct SoftmaxHead {
  MatrixView<const T, Cpu> q, k, v;
  T scale = T(1);  // without log2(e)
  const EntryPlan<T>* bias = nullptr;
  const EntryPlan<T>* mask = nullptr;
  bool causal = false;
  Index causal_shift = 0;

  // How many of the keys j0 .. j0 + nj - 1 some row up to i_last sees.
  Index visible(Index i_last, Index j0, Index nj) const {
    return causal ? std::clamp<Index>(i_last + causal_shift + 1 - j0, 0, nj) : nj;
  }
};

// The heads of one call.
template <class T>
class SoftmaxHeads {
 public:
  explicit SoftmaxHeads(const SoftmaxInputs<T, Cpu>& in) : in_(in), bias_(plans(in.bias)), mask_(plans(in.mask)) {}

  Index keys(Index b) const { return in_.key_counts ? static_cast<Index>(in_.key_counts[b]) : in_.k.length(); }
  Index queries(Index b) const {
    return in_.key_counts && in_.q.length() == in_.k.length() ? static_cast<Index>(in_.key_counts[b]) : in_.q.length();
  }
  Index group() const { return in_.q.heads() / in_.k.heads(); }
  Index position(std::size_t count, Index b, Index h) const {
    const auto n = static_cast<Index>(count);
    return n == 1 ? 0 : n == in_.q.heads() ? h : b * in_.q.heads() + h;
  }
  SoftmaxHead<T> head(Index b, Index h) const {
    SoftmaxHead<T> r;
    r.q = in_.q.matrix(b, h).row_range(0, queries(b));
    r.k = in_.k.matrix(b, h / group()).row_range(0, keys(b));
    r.v = in_.v.matrix(b, h / group()).row_range(0, keys(b));
    r.scale = in_.scale;
    if (!bias_.empty()) r.bias = &bias_[static_cast<std::size_t>(position(bias_.size(), b, h))];
    if (!mask_.empty()) r.mask = &mask_[static_cast<std::size_t>(position(mask_.size(), b, h))];
    r.causal = in_.causal;
    r.causal_shift = in_.causal_shift;
    return r;
  }

 private:
  static std::vector<EntryPlan<T>> plans(std::span<const Entries<T, Cpu>> entries) {
    std::vector<EntryPlan<T>> r;
    r.reserve(entries.size());
    for (const auto& e : entries) r.emplace_back(e, false, false);
    return r;
  }
  const SoftmaxInputs<T, Cpu>& in_;
  std::vector<EntryPlan<T>> bias_, mask_;
};

// Rows `first` .. `first + count - 1` of one head, forward. log_sum_exp may be empty.
template <class T>
struct SoftmaxRows {
  SoftmaxHead<T> head;
  Index first = 0, count = 0;
  MatrixView<T, Cpu> out, log_sum_exp;
};

}  // namespace espalier::backend
