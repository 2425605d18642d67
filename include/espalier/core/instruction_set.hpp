// Which vector instructions the library's kernels use on this machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>

#include <string>
#include <vector>

namespace espalier {

// The instruction sets that kernels are compiled for and this machine has, best first. On x86: "avx512", "avx2", "baseline".
ESPALIER_EXPORT std::vector<std::string> instruction_sets();

// The one in use: the first of the list above, or the one named by the environment variable ESPALIER_INSTRUCTION_SET, which
// is read once, at the first computing call of the process, and kept with what is known of the processor. Results of
// different instruction sets differ by rounding. Errors: ValueError for a name that is not in the list.
ESPALIER_EXPORT std::string instruction_set();

}  // namespace espalier
