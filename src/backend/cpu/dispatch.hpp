// Calls the version of a kernel that was compiled for this machine's best instruction set, or for the one asked for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cpu/targets.hpp"

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <string>
#include <vector>

namespace espalier::backend {

// Names of the instruction sets that both this library and this machine have, best first: "avx512", "avx2", "baseline"; on
// other processors Highway's names in small letters.
std::vector<std::string> machine_instruction_sets();
// The one in use: the best, or the one that the environment variable ESPALIER_INSTRUCTION_SET named when it was first asked
// for (part of the processor's feature cache: read once, never changed). Errors: ValueError for a name not in the list above.
std::string used_instruction_set();
const hwy::ChosenTarget& used_target();

// ESPALIER_DISPATCH(kernel)(arguments): after HWY_EXPORT(kernel). Highway's own HWY_DYNAMIC_DISPATCH shares its choice with
// every other user of Highway in the process; this one does not.
#if HWY_IDE || ((HWY_TARGETS & (HWY_TARGETS - 1)) == 0)
#define ESPALIER_DISPATCH(kernel) HWY_STATIC_DISPATCH(kernel)
#else
#define ESPALIER_DISPATCH(kernel) (*(HWY_DISPATCH_TABLE(kernel)[::espalier::backend::used_target().GetIndex()]))
#endif

}  // namespace espalier::backend
