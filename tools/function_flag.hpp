// Functions of a distance from the command line: expressions and tables.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "run.hpp"

#include <espalier/functions/distance_function.hpp>

#include <string>
#include <vector>

namespace espalier::tools {

struct FunctionFlag {
  DistanceFunction f;
  std::vector<Index> table_shape;  // of a table file; empty: an expression
};

// The value of --flag: "table:FILE.npy" (values at 0, 1, 2, ...) or an expression in d. Errors: FlagError, FormatError.
FunctionFlag read_function(Run& run, const std::string& value, const std::string& flag);

// Errors: FormatError naming the file and the element.
void require_finite(const std::vector<double>& values, const std::string& path);

}  // namespace espalier::tools
