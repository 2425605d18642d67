// The instruction set in use, as the public interface names it.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/instruction_set.hpp>

#include "backend/cpu/dispatch.hpp"

namespace espalier {

std::vector<std::string> instruction_sets() {
  return backend::machine_instruction_sets();
}

std::string instruction_set() {
  return backend::used_instruction_set();
}

}  // namespace espalier
