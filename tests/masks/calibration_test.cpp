// Calibrated cost models: every speed is a number that a mask can choose by, and a cancelled calibration stops.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/masks/calibration.hpp>
#include <espalier/masks/grid.hpp>

#include <cmath>

using namespace espalier;

TEST_CASE("a calibrated cost model has positive speeds, and masks choose by it") {
  const CostModel cost = calibrated_cost_model();
  for (const double speed : {cost.tile_flops, cost.chunk_flops, cost.chunk_plain_flops, cost.fft_flops, cost.bandwidth,
                             cost.sparse_flops, cost.call_seconds}) {
    CHECK(std::isfinite(speed));
    CHECK(speed > 0);
  }
  GridOptions options;
  options.cost = cost;
  const GridMask<float> mask({64}, Exponential{0.1}, Distance::l1, options);
  CHECK(mask.report({.columns = 8, .rank = 8}).predicted_seconds > 0);
}

TEST_CASE("a calibration whose stop was asked for throws Cancelled") {
  std::stop_source source;
  source.request_stop();
  Progress progress;
  progress.stop = source.get_token();
  Context<Cpu> context;
  context.progress = &progress;
  CHECK_THROWS_AS((void)calibrated_cost_model(context), Cancelled);
}
