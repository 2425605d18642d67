// Speeds that engines are chosen by, as a JSON file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>

#include <nlohmann/json.hpp>

#include <string>

namespace espalier::tools {

// Every speed by its name, in flop/s and bytes/s, and call_seconds.
nlohmann::json cost_model_json(const CostModel& cost);
// From the text of the file `path`. Errors: FlagError where it is no such object or holds a speed that is not positive.
CostModel cost_model_from(const std::string& text, const std::string& path);

}  // namespace espalier::tools
