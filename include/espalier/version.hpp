// The library's version: the one place that names it. CMake reads these three lines.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#define ESPALIER_VERSION_MAJOR 0
#define ESPALIER_VERSION_MINOR 1
#define ESPALIER_VERSION_PATCH 0
