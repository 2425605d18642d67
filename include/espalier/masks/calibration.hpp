// Speeds of this machine, measured, for those who would rather not choose engines by the shipped ones.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/export.hpp>
#include <espalier/core/options.hpp>

namespace espalier {

// Times products of small masks with each engine, one thread, the least of several runs, and solves for the speeds with which
// their predictions meet these times; a prediction is then a time on this machine. Cost: about two seconds, 100 MB. Nothing is
// stored: pass the value on in MaskOptions::cost. Only ratios matter for the choice of engines; a busy machine slows all alike.
// Speeds that cannot be measured in this build (no FFT) keep their shipped values. Errors: Cancelled.
ESPALIER_EXPORT CostModel calibrated_cost_model(const Context<Cpu>& context = {});

}  // namespace espalier
