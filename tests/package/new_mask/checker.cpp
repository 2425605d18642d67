// CheckerMask: two sums, one for even and one for odd rows.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/checker.hpp>

namespace espalier {

template <class T, class B>
CheckerMask<T, B>::CheckerMask(Index length, MaskOptions options) : Mask<T, B>(length, length, std::move(options)) {}

template <class T, class B>
void CheckerMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool, const Context<B>& context) const {
  if (context.progress != nullptr && context.progress->stop.stop_requested()) throw Cancelled();
  for (Index c = 0; c < x.cols; ++c) {
    double sums[2] = {0, 0};
    for (Index j = 0; j < x.rows; ++j) sums[j % 2] += static_cast<double>(x(j, c));
    for (Index i = 0; i < y.rows; ++i) y(i, c) = static_cast<T>(sums[i % 2]);
  }
}

template class ESPALIER_EXPORT CheckerMask<float, Cpu>;
template class ESPALIER_EXPORT CheckerMask<double, Cpu>;

}  // namespace espalier
