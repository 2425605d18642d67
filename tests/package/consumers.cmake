# Installs a build of the library, moves the prefix, and builds and runs projects outside against it. SHARED=ON: first builds
# the shared library itself, inside a project that takes espalier's sources by add_subdirectory.
# usage: cmake -DBUILD=<build folder> -DSOURCE=<tree> -DSCRATCH=<folder> -DCOMPILER=<c++>
#   -DSHARED=ON|OFF -DLAUNCHER=<ccache or nothing> -DCOMMAND=ON|OFF -DFFTW=ON|OFF [-DCUDA=ON] -P consumers.cmake     SPDX-License-Identifier: Apache-2.0
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")
file(REMOVE_RECURSE "${SCRATCH}")
set(prefix "${SCRATCH}/moved to here")  # a blank in the name, too

if(SHARED)
  copy_tree("${SOURCE}" "${SCRATCH}/tree")
  set(BUILD "${SCRATCH}/within")
  step("configure the add_subdirectory project" "${CMAKE_COMMAND}" -S "${SOURCE}/tests/package/add_subdirectory" -B "${BUILD}"
    "-DESPALIER_SOURCE=${SCRATCH}/tree" -DBUILD_SHARED_LIBS=ON "-DESPALIER_BUILD_COMMAND=${COMMAND}" -DESPALIER_INSTALL=ON
    "-DESPALIER_WITH_FFTW=${FFTW}" "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS=${QUICK}")
  step("build the add_subdirectory project" "${CMAKE_COMMAND}" --build "${BUILD}" --parallel 2)
  step("run the add_subdirectory project" "${BUILD}/within")
endif()

step("install" "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${SCRATCH}/first")
file(RENAME "${SCRATCH}/first" "${prefix}")

# 1. find_package, with an own mask.
step("configure the find_package project" "${CMAKE_COMMAND}" -S "${SOURCE}/tests/package/find_package" -B "${SCRATCH}/found"
  "-DCMAKE_PREFIX_PATH=${prefix}" "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_BUILD_TYPE=Release)
step("build the find_package project" "${CMAKE_COMMAND}" --build "${SCRATCH}/found")
step("run the find_package project" "${SCRATCH}/found/own_mask")

if(CUDA)
  step("configure the CUDA project" "${CMAKE_COMMAND}" -S "${SOURCE}/tests/package/find_cuda" -B "${SCRATCH}/found_cuda"
    "-DCMAKE_PREFIX_PATH=${prefix}" "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_BUILD_TYPE=Release)
  step("build the CUDA project" "${CMAKE_COMMAND}" --build "${SCRATCH}/found_cuda")
  step("run the CUDA project" "${SCRATCH}/found_cuda/on_a_gpu")
endif()

# 2. pkg-config; a shared library is found by its run path.
find_program(pkg_config pkg-config)
if(pkg_config)
  file(GLOB_RECURSE pc "${prefix}/*/espalier.pc")
  get_filename_component(pc_folder "${pc}" DIRECTORY)
  get_filename_component(library_folder "${pc_folder}" DIRECTORY)
  foreach(shape "" --static)
    set(ENV{PKG_CONFIG_PATH} "${pc_folder}")
    execute_process(COMMAND "${pkg_config}" ${shape} --cflags --libs espalier
      OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY OUTPUT_STRIP_TRAILING_WHITESPACE)
    separate_arguments(flags UNIX_COMMAND "${flags}")
    step("build with pkg-config ${shape}" "${COMPILER}" "${SOURCE}/tests/package/pkg_config/main.cpp" -o "${SCRATCH}/by_pkg_config"
      ${flags} "-Wl,-rpath,${library_folder}")
    step("run the pkg-config program ${shape}" "${SCRATCH}/by_pkg_config")
  endforeach()
else()
  message(STATUS "no pkg-config on this machine: its part is left out")
endif()

# 3. The shared library exports the documented classes and functions of espalier only, and no template of another library.
file(GLOB shared_library "${prefix}/*/libespalier.so" "${prefix}/*/*/libespalier.so")
find_program(nm nm)
if(shared_library AND nm)
  execute_process(COMMAND "${nm}" -DC --defined-only "${shared_library}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(symbols MATCHES "[0-9a-f]+ T [^\n]*espalier::backend::[^\n]*")
    message(FATAL_ERROR "the shared library exports what is internal: ${CMAKE_MATCH_0}")
  endif()
endif()

# 4. The installed command runs from the moved prefix, if it was built.
if(EXISTS "${prefix}/bin/espalier")
  if(SHARED)
    file(RENAME "${BUILD}" "${BUILD}-away")  # the library beside the command must do
  endif()
  step("run the moved command" "${prefix}/bin/espalier" --help)
endif()

# 5. Nothing installed names the build, the source or the first prefix.
file(GLOB_RECURSE texts "${prefix}/*.cmake" "${prefix}/*.pc" "${prefix}/*.hpp")
foreach(text IN LISTS texts)
  file(READ "${text}" content)
  foreach(place "${BUILD}" "${SOURCE}/" "${SCRATCH}/tree" "${SCRATCH}/first")
    string(FIND "${content}" "${place}" at)
    if(NOT at EQUAL -1)
      message(FATAL_ERROR "${text} names ${place}")
    endif()
  endforeach()
endforeach()
file(REMOVE_RECURSE "${SCRATCH}/tree")
