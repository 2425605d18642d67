// What a sweep kernel is given: one panel of columns of one operand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

namespace espalier::backend {

inline constexpr Index sweep_levels = 33;    // slots of unfinished nodes: levels 0 .. 31, and one to spare
inline constexpr Index sweep_panel = 32;     // columns of a product's panel: 128 bytes of float, two cache lines a row
inline constexpr Index gradient_panel = 16;  // the gradient keeps four rows a node and panel
inline constexpr Index sweep_prefetch = 12;  // rows ahead that are fetched; chosen, not tuned

// One panel of one operand: rows by node, except `suffix` (by light child, position order).
template <class T>
struct SweepPanel {
  const T* x = nullptr;
  Index x_stride = 0;
  T* u = nullptr;  // up: subtree sums; after a product's down sweep: the result
  Index u_stride = 0;
  T* suffix = nullptr;        // [light, width]
  double* outside = nullptr;  // [trees, width]: up: sums of x over a tree; down: over all other trees; null: not wanted
  Index width = 0;
};

}  // namespace espalier::backend
