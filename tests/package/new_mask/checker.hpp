// CheckerMask: the mask that the test "adding a mask" drops into a copy of the tree.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

namespace espalier {

// M_ij = 1 where i + j is even, else 0; length x length. Cost: O(length) a column.
template <class T, class B = Cpu>
class ESPALIER_EXPORT CheckerMask final : public Mask<T, B> {
 public:
  explicit CheckerMask(Index length, MaskOptions options = {});

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
};

}  // namespace espalier
