// Functions of a distance written as expressions in d.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/distance_function.hpp>

#include <string>

namespace espalier::tools {

// muParser's language with floor, erf and the natural log; the one variable is d. Errors: FlagError for --flag.
DistanceFunction distance_expression(const std::string& text, const std::string& flag);

}  // namespace espalier::tools
