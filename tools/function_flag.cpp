// Functions from the command line.
// SPDX-License-Identifier: Apache-2.0
#include "function_flag.hpp"

#include "expression.hpp"

#include <cmath>
#include <utility>

namespace espalier::tools {

void require_finite(const std::vector<double>& values, const std::string& path) {
  for (std::size_t p = 0; p < values.size(); ++p) {
    if (!std::isfinite(values[p])) {
      throw FormatError(path, 0, "element " + std::to_string(p) + " is not finite (expected finite values)");
    }
  }
}

FunctionFlag read_function(Run& run, const std::string& value, const std::string& flag) {
  const std::string start = "table:";
  if (!value.starts_with(start)) {
    FunctionFlag read{distance_expression(value, flag), {}};
    run.note_function(read.f.name(), flag);
    return read;
  }
  const std::string path = value.substr(start.size());
  if (path.empty()) throw FlagError(flag, "a file's name is missing after 'table:'");
  run.note_function(path, flag);
  const NpyArray a = run.inputs.floats(flag, path);
  if (a.shape.size() != 1 || a.shape[0] < 1) {
    throw FormatError(path, 0, "shape " + shape_text(a.shape) + " (expected [n] with n >= 1: values at 0, 1, 2, ...)");
  }
  std::vector<double> values = convert<double>(a);
  require_finite(values, path);
  return {DistanceFunction(FunctionTable{std::move(values), path}), a.shape};
}

}  // namespace espalier::tools
