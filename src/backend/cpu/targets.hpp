// The instruction sets that kernels are compiled for, the same in every kernel file: baseline, AVX2 + FMA, AVX-512.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hwy/detect_targets.h>

// Left out: SSSE3 and SSE4 (no FMA: nothing gained over the baseline that justifies their compile time), AVX3_DL and Zen 4
// variants (no float instruction more than AVX3).
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#endif
