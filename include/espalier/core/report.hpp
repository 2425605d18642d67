// What an engine says of itself before it runs: name, reason, certificate, predicted cost.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <cstddef>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace espalier {

// The size of one product: columns of X (c), width of A and B (m; 0 means the plain product Y = M X), heads at once.
struct Shape {
  Index columns = 1;
  Index rank = 0;
  Index heads = 1;
};

// Bounds on the applied mask M~ against the exact M, in exact arithmetic; rounding comes on top.
//   row        max_i sum_j |M~_ij - M_ij| / sum_j |M_ij|
//   entry      max |M~ - M| / max |M|
//   pointwise  max |M~ - M| / |M| over |M| >= 1e-7 max |M|
//   norm       ||M~ - M||_2 / ||M||_2 (diffusion kernels)
struct Certificate {
  std::optional<double> row{}, entry{}, pointwise{}, norm{};
  bool estimated = false;  // true where a bound could not be proved; such a report is never called certified
};

// One engine for one shape.
struct Report {
  std::string engine{};                      // "direct", "fft", "sweep", "chebyshev", ...
  std::string reason{};                      // one sentence, with the numbers that decided
  std::optional<Certificate> certificate{};  // empty for exact engines (rounding only)
  Index terms = 0;                           // polynomial degree + 1, exponentials, ...; 0 where it has no meaning
  Index fitted_negative = 0;                 // distances where the mask is >= 0 and the mask as applied is negative
  double rounding_estimate = 0;              // of a product, relative, in the house's norm; kind pointwise: of one entry
  double predicted_seconds = 0;              // by the cost model, one thread
  double flops = 0, bytes = 0;               // useful arithmetic, and memory traffic past the caches
  // Bound on what a product (plain or masked, M or Mᵀ) takes beyond inputs and outputs, with what the mask then keeps (spectra,
  // formed entries): for the default Context::scratch_bytes and up to 64 threads. A vjp takes at most extra_bytes +
  // 4 scratch_bytes + 12 times the bytes of its arguments, gradients and parameters. Never proportional to L^2 (engines that
  // form entries excepted) or to L m c.
  std::size_t extra_bytes = 0;
  bool row_wise = false;  // error bounded row by row (not only normwise)
  std::vector<std::string> warnings{};
};

// Prints one report as aligned "key: value" lines.
ESPALIER_EXPORT std::ostream& operator<<(std::ostream& out, const Report& report);

}  // namespace espalier
