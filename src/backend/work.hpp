// How much work the host's kernels do for the useful part of it, for predictions: padding, copies, calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace espalier::backend {

// Work is counted in multiply-adds of whole vectors, of which a core does some eight a nanosecond whatever the vectors' width;
// what is no arithmetic is counted in the number of them that take as long. The numbers were measured once on an AVX-512
// machine (Zen 5) and hold within a third with AVX2 there.
struct KernelWork {
  double lanes = 1;  // elements of a vector
  double rows = 1;   // columns of x that the register tile takes at once, at least

  double whole_lanes(double n) const { return std::ceil(n / lanes) * lanes; }
  double whole_rows(double n) const { return std::ceil(n / rows) * rows; }
  // Of 2 n flops in the register tile.
  double multiply_adds(double n) const { return n / lanes; }
  // Of rows of a block product: a row that is left over takes nearly as long as a whole tile, for its few sums keep the
  // multiply-adds waiting.
  double block_rows(double n) const { return n + 0.8 * (rows - 1) * std::fmod(std::floor(n), rows); }

  // One entry of the mask in a tile, for m features (0: the plain product) and c columns: scores, the mask, columns. Few sums
  // keep the multiply-adds waiting: fewer than four features or three columns save nothing.
  double entry(double m, double c) const {
    const double columns = std::max(3.0, whole_rows(c));
    return multiply_adds(m > 0 ? std::max(4.0, m) + columns + 3 : columns + 1.75);
  }

  // Copying a row of a few elements, packing and unpacking included: 4 ns.
  static constexpr double kRowCopy = 32;
  // An element read or written once, from the caches past the first: 45 GB/s of floats.
  static constexpr double kPass = 0.7;
  // A pass over memory of its own, past all caches, is counted as bytes: those of an array beyond this size.
  static constexpr double kCacheBytes = 8.0 * (1 << 20);
  static double memory_bytes(double bytes, double array) { return bytes * std::max(0.0, 1 - kCacheBytes / array); }
  // One product by tiles, of any size, and one block product.
  static constexpr double kTileCall = 5600, kBlockCall = 320;
};

// For elements of 4 or 8 bytes and the instruction set in use.
KernelWork kernel_work(std::size_t element);

}  // namespace espalier::backend
