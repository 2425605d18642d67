// Tiles of softmax scores: scale q k^T + bias in units of log 2, with -inf for pairs that take no part.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once).
#if defined(ESPALIER_SOFTMAX_SCORES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_SOFTMAX_SCORES_INL
#undef ESPALIER_SOFTMAX_SCORES_INL
#else
#define ESPALIER_SOFTMAX_SCORES_INL
#endif

#include <hwy/highway.h>

#include <limits>

#include "backend/cpu/entry_tiles-inl.hpp"
#include "backend/cpu/exp2-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"
#include "backend/cpu/softmax_head.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Keys in a block: a multiple of the register tile's rows, so that only the last block has a shorter tile.
template <class T>
Index key_block(Index keys) {
  return std::min(even_block(keys, kTileSources, kRows), kTileSources);
}

// How the scores of one panel of rows are changed before the exponential.
template <class T>
struct PanelRules {
  const T* bias = nullptr;  // [j][lane], null: none
  Index bias_step = 0;
  const T* mask = nullptr;
  Index mask_step = 0;
  bool hide_zeros = true;  // entries of the mask that are 0 leave the pair out of the scores too
  bool causal = false;
  Index first_lane = 0;  // where causal: row j sees lanes >= first_lane + j

  bool hides() const { return mask != nullptr && hide_zeros; }
  bool general() const { return hides() || causal; }
};

// x with the rules applied for key j of the block, lanes first .. first + lanes - 1.
template <bool kBias, bool kGeneral, class T>
HWY_INLINE hn::Vec<Wide<T>> apply_rules(const PanelRules<T>& rules, Index j, Index first, hn::Vec<Wide<T>> x) {
  const Wide<T> d;
  if constexpr (kBias) {
    x = hn::MulAdd(hn::LoadU(d, rules.bias + j * rules.bias_step + first), hn::Set(d, static_cast<T>(kLog2E)), x);
  }
  if constexpr (kGeneral) {
    const auto none = hn::Set(d, -std::numeric_limits<T>::infinity());
    if (rules.hides()) {
      x = hn::IfThenElse(hn::Ne(hn::LoadU(d, rules.mask + j * rules.mask_step + first), hn::Zero(d)), x, none);
    }
    if (rules.causal) {
      const Index lane = std::clamp<Index>(rules.first_lane + j - first, 0, kLanes<T>);
      x = hn::IfThenElse(hn::Ge(hn::Iota(d, T(0)), hn::Set(d, static_cast<T>(lane))), x, none);
    }
  }
  return x;
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // softmax scores
