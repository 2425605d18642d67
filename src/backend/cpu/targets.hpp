// The instruction sets that kernels are compiled for, the same in every kernel file: baseline, AVX2 + FMA, AVX-512.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Must come before any Highway header (they define this as 0). Left out: SSSE3 and SSE4 (no FMA, and no machine since 2015
// has them without AVX2), AVX3_DL and its descendants (no float instruction more than AVX3), and vectors whose length the
// compiler does not know (register tiles need it).
#ifdef HWY_DISABLED_TARGETS
#error "include backend/cpu/targets.hpp before Highway's headers"
#endif
#define HWY_DISABLED_TARGETS                                                                                            \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_ZEN4 | HWY_AVX3_SPR | HWY_AVX10_2 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | \
   HWY_SVE2_128 | HWY_RVV | HWY_WASM_EMU256)

#include <hwy/detect_targets.h>

// Sets that an older Highway (1.0.3) does not know.
#ifndef HWY_AVX3_ZEN4
#define HWY_AVX3_ZEN4 0
#endif
#ifndef HWY_AVX3_SPR
#define HWY_AVX3_SPR 0
#endif
#ifndef HWY_AVX10_2
#define HWY_AVX10_2 0
#endif
