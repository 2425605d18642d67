# Installs library, headers, package config for find_package(espalier) and a pkg-config file. Everything is relocatable.
# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)

install(TARGETS espalier EXPORT espalier-targets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/espalier DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
install(EXPORT espalier-targets NAMESPACE espalier:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/espalier")
if(ESPALIER_HAS_CUDA)
  install(TARGETS espalier_cuda EXPORT espalier-cuda-targets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT espalier-cuda-targets NAMESPACE espalier:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/espalier")
endif()
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")

configure_package_config_file(cmake/espalier-config.cmake.in "${PROJECT_BINARY_DIR}/espalier-config.cmake"
  INSTALL_DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/espalier")
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/espalier-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/espalier-config.cmake" "${PROJECT_BINARY_DIR}/espalier-config-version.cmake"
  cmake/FindHighway.cmake cmake/FindFFTW3.cmake DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/espalier")

# pkg-config: the prefix is taken from the file's own place.
file(RELATIVE_PATH espalier_pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" espalier_pc_prefix "${espalier_pc_prefix}")
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  set(espalier_pc_openmp "-lomp")
else()
  set(espalier_pc_openmp "-lgomp")
endif()
set(espalier_pc_private "-lhwy")
if(ESPALIER_WITH_FFTW)
  string(APPEND espalier_pc_private " -lfftw3 -lfftw3f")
endif()
string(APPEND espalier_pc_private " -lpng -lz ${espalier_pc_openmp} -lstdc++ -lm")
set(espalier_pc_libs "-L\${libdir} -lespalier")
set(espalier_pc_cflags "")
if(NOT BUILD_SHARED_LIBS)
  # A static library has no record of what it needs: plain `pkg-config --libs` gives it too.
  string(APPEND espalier_pc_libs " ${espalier_pc_private}")
  set(espalier_pc_cflags " -DESPALIER_STATIC_DEFINE")
endif()
configure_file(cmake/espalier.pc.in "${PROJECT_BINARY_DIR}/espalier.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/espalier.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
