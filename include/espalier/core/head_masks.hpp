// The masks of a set of attention heads: none, one for all, one a head, or one for each (batch, head).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

namespace espalier {

// Views masks; owns nothing. count() is 0 (no mask: all ones), 1, H, or B*H (index b * H + h).
template <class T, class B = Cpu>
class HeadMasks {
 public:
  HeadMasks() = default;
  HeadMasks(const Mask<T, B>& one) : masks_{&one} {}
  HeadMasks(std::span<const Mask<T, B>* const> masks) : masks_(masks.begin(), masks.end()) {}
  HeadMasks(const std::vector<std::shared_ptr<const Mask<T, B>>>& masks) {
    for (const auto& m : masks) masks_.push_back(m.get());
  }

  Index count() const { return static_cast<Index>(masks_.size()); }
  bool empty() const { return masks_.empty(); }
  // Position in 0 .. count() - 1 of the mask of batch entry b and head h, of `heads` heads.
  Index index(Index b, Index h, Index heads) const { return count() == 1 ? 0 : count() == heads ? h : b * heads + h; }
  const Mask<T, B>& operator[](Index i) const { return *masks_[static_cast<std::size_t>(i)]; }

 private:
  std::vector<const Mask<T, B>*> masks_;
};

}  // namespace espalier
