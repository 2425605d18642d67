// The backend that a source of templates is compiled for: such a source is built once into the library and once for each
// device. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

namespace espalier {

#ifdef ESPALIER_COMPILE_FOR_CUDA
using CompiledBackend = Cuda;
#else
using CompiledBackend = Cpu;
#endif

}  // namespace espalier
