// Backend primitive: exponentials of rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

namespace espalier::backend {

// y(i, k) = exp(y(i, k) - shift[i]) * factor, in place. Relative error 2 ulp; below the smallest normal number: 0.
template <class T, class B>
void exponentials(MatrixView<T, B> y, VectorView<const T, B> shift, T factor, const Context<B>& context);

}  // namespace espalier::backend
