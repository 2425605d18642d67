// Whether the address sanitizer is on, and its interface: g++ and clang say it differently.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define ESPALIER_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ESPALIER_ADDRESS_SANITIZER 1
#endif
#endif
#if !defined(ESPALIER_ADDRESS_SANITIZER)
#define ESPALIER_ADDRESS_SANITIZER 0
#endif

#if ESPALIER_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
