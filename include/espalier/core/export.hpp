// Marks what crosses the border of the compiled library.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(ESPALIER_STATIC_DEFINE)
#define ESPALIER_EXPORT
#else
#define ESPALIER_EXPORT __attribute__((visibility("default")))
#endif
