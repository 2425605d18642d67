// The commands: each declares its flags and runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "run.hpp"

#include <string>
#include <vector>

namespace espalier::tools {

struct Command {
  std::string name, description, examples;
  void (*add_flags)(Flags&);
  void (*run)(Run&);
};

// One function a file, command_NAME.cpp.
Command multiply_command();
Command attend_command();
Command top_k_command();
Command row_command();
Command fit_command();
Command info_command();
Command demo_command();

// Commands of the contract that later issues bring.
struct LaterCommand {
  std::string name, what;
};
std::vector<LaterCommand> later_commands();

}  // namespace espalier::tools
