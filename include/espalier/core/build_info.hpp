// What this build of the library is: version, instruction set in use, optional parts, licence of the binary.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>

#include <string>
#include <vector>

namespace espalier {

struct BuildInfo {
  struct Part {
    std::string name;  // "FFTW"
    bool found = false;
    std::string engines;  // engines that need it: "fft"
  };
  std::string version;          // "0.1.0"
  std::string instruction_set;  // of this machine as the kernels use it: "avx512", "avx2", "sse2", "baseline", ...
  std::string licence;          // of the binary: FFTW makes it GPL
  std::vector<Part> parts;
};

// Asks the processor; the same on every call.
ESPALIER_EXPORT BuildInfo build_info();

}  // namespace espalier
