// The smooth functions of the distance that measurements of sequences go over, by the names that tables print.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/functions/distance_function.hpp>

#include <string>
#include <vector>

namespace espalier::benchmark {

struct NamedFunction {
  std::string name;
  DistanceFunction f;
};

inline std::vector<NamedFunction> smooth_functions() {
  return {{"exp(-x/200)", Exponential{1 / 200.0}},
          {"1/(1+x/16)", Rational{16}},
          {"exp(-(x/300)^2)", Gaussian{300}},
          {"exp(-sqrt(x)/6)", StretchedExponential{36, 0.5}},
          {"cos(x/50)exp(-x/400)", DampedCosine{1 / 50.0, 1 / 400.0}}};
}

}  // namespace espalier::benchmark
