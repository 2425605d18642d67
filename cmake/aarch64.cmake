# Cross build for 64-bit ARM with g++-aarch64-linux-gnu; tests run under qemu-user.
# SPDX-License-Identifier: Apache-2.0
# ESPALIER_SYSROOT: folder with the ARM packages that the library needs (scripts/aarch64_packages fills it). Only they are
# looked up there; compiler and C library are the cross compiler's own.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ESPALIER_SYSROOT)
if(ESPALIER_SYSROOT)
  set(CMAKE_FIND_ROOT_PATH "${ESPALIER_SYSROOT}")
  # libpng's own libraries (libz) are found while linking.
  set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,${ESPALIER_SYSROOT}/usr/lib/aarch64-linux-gnu,-rpath-link,${ESPALIER_SYSROOT}/lib/aarch64-linux-gnu")
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
# Headers of architecture-independent packages (Eigen, doctest) are the host's.
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
find_program(ESPALIER_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(ESPALIER_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${ESPALIER_QEMU};-L;/usr/aarch64-linux-gnu")
endif()
