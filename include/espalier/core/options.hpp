// What every mask can be told when it is made: engine, tolerance, cost model, planning effort.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <string>

namespace espalier {

// What a tolerance bounds (definitions: report.hpp, Certificate).
enum class ToleranceKind { row, entry, pointwise };

// Speeds from which engines predict their time. The defaults are cautious values for one core with AVX2, about half of what a
// machine of 2024 does; left as they are, a mask takes twice the first three where it runs on vectors of 512 bits, and on Cuda
// a GPU's (espalier/cuda.hpp). A caller who measured his machine passes his own (masks/calibration.hpp). Engine choice depends
// on this value, never on a clock.
struct CostModel {
  double tile_flops = 70e9;   // float tile products, flop/s, one thread (double: half); what is no arithmetic goes with it
  double chunk_flops = 62e9;  // float products between chunks of a sequence with features, and of a far field
  double chunk_plain_flops = 48e9;  // between chunks without features: less arithmetic for each number loaded
  double fft_flops = 31e9;          // float FFT products, counted as 5 N log2 N each way for two columns
  double bandwidth = 13e9;          // main memory, bytes/s
  double sparse_flops = 6e9;        // CSR row times a panel of columns
  double call_seconds = 1e-6;       // fixed cost of one product

  bool operator==(const CostModel&) const = default;
};

// Options of a mask, fixed for its life.
struct MaskOptions {
  std::string engine = "auto";  // or an engine's name: the mask uses it for every product it can do, else a ValueError
  double tolerance = -1;        // bound on the error of M~ in [0, 1); negative: 1e-6 for float, 1e-12 for double; 0: exact only
  ToleranceKind tolerance_kind = ToleranceKind::row;
  CostModel cost{};
  bool measure_fft = false;  // FFTW_MEASURE instead of ESTIMATE: 1.2 to 1.6 times faster transforms, planning takes 0.1 to 5 s
};

}  // namespace espalier
