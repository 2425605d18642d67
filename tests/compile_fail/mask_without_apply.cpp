// A mask of one's own must say its product.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/mask.hpp>

using namespace espalier;

class Own final : public Mask<float> {
 public:
  Own() : Mask<float>(1, 1) {}

 protected:
#ifdef LEGAL
  void apply(MatrixView<const float>, MatrixView<float>, bool, const Context<Cpu>&) const override {}
#endif
};

void f() {
  const Own own;
  (void)own;
}
