// What this build is, and what the kernels run on here.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/build_info.hpp>

#include "backend/cpu/dispatch.hpp"

namespace espalier {

BuildInfo build_info() {
  BuildInfo info;
  info.version = ESPALIER_VERSION;
  info.instruction_set = backend::used_instruction_set();
#if defined(ESPALIER_HAS_FFTW)
  const bool fftw = true;
#else
  const bool fftw = false;
#endif
  info.licence = fftw ? "GPL-2.0-or-later (links FFTW; the sources are Apache-2.0)" : "Apache-2.0";
  info.parts = {{"FFTW", fftw, "fft"}, {"CUDA", false, ""}};
  return info;
}

}  // namespace espalier
