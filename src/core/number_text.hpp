// Numbers in texts for people: six digits, no row of zeros.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>

namespace espalier {

// "0.5", "-1", "1e+300": as %g prints it. std::to_string would print 300 digits of the last.
inline std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

}  // namespace espalier
