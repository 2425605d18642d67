// Index type and the tags of the two backends.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace espalier {

// Signed, pointer-sized: sizes, strides and positions, all in elements (never bytes).
using Index = std::ptrdiff_t;

// Where data lives and work runs. The tag is part of every view's type, so that host memory given to a device mask does
// not compile.
struct Cpu {};
struct Cuda {};

}  // namespace espalier
