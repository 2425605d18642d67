// Backend primitive: products with a Toeplitz matrix that is constant over stretches of diagonals.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>
#include <vector>

#include "backend/chunked.hpp"

namespace espalier::backend {

// L x L: M_ij = the weight of the window of `lower` that i - j is in (from 0 on), of `upper` that j - i is in (from 1 on),
// otherwise 0. Windows of single tokens, disjoint and rising.
template <class T>
struct SlidingToeplitz {
  Index length = 0;
  std::vector<ChunkWindow<T>> lower, upper;
};

// y = M x by sums over sliding windows, about four additions an element and window whatever their length, and none of them a
// difference: a row is as accurate as its own entries. Memory: two numbers a column for every token back to the end of the
// furthest window that has one, up to 64 columns (double: 32) a thread at once, as the context's scratch memory allows. Threads
// share columns, and stretches of tokens where these are long beside the windows that have an end.
template <class T, class B>
void sliding_multiply(const SlidingToeplitz<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context);
// Bound on the memory that it takes, with the default Context::scratch_bytes.
template <class T>
std::size_t sliding_bytes(const SlidingToeplitz<T>& m, Index columns);

}  // namespace espalier::backend
