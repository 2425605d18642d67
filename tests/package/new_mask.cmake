# Adding a mask: drops a header, its sources and a test into a copy of the tree, which was configured before, and changes
# nothing else; then the test must pass and the command must know the mask.
# usage: cmake -DSOURCE=<tree> -DSCRATCH=<folder> -DCOMPILER=<c++> -DLAUNCHER=<ccache or nothing> -DCOMMAND=ON|OFF -DFFTW=ON|OFF -DCTEST=<ctest>
#   -P new_mask.cmake     SPDX-License-Identifier: Apache-2.0
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")
set(tree "${SCRATCH}/tree")
set(build "${SCRATCH}/within/espalier")
copy_tree("${SOURCE}" "${tree}")

# Warnings are no errors to these builds, whose flags are those of a project outside (see copy_tree), but to this test they are.
function(no_warning)
  if(step_output MATCHES "[^\n]*warning:[^\n]*")
    message(FATAL_ERROR "a new mask makes the compiler warn:\n${CMAKE_MATCH_0}")
  endif()
endfunction()

step("configure the tree as it is" "${CMAKE_COMMAND}" -S "${tree}" -B "${build}" -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS=${QUICK}"
  "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" "-DESPALIER_BUILD_COMMAND=${COMMAND}"
  "-DESPALIER_WITH_FFTW=${FFTW}" -DESPALIER_BUILD_BENCHMARKS=OFF -DESPALIER_BUILD_EXAMPLES=OFF -DESPALIER_WARNINGS_AS_ERRORS=OFF)
set(parts "${SOURCE}/tests/package/new_mask")
file(COPY "${parts}/checker.hpp" DESTINATION "${tree}/include/espalier/masks")
file(COPY "${parts}/checker.cpp" "${parts}/checker_setup.cpp" DESTINATION "${tree}/src/masks")
file(COPY "${parts}/checker_test.cpp" DESTINATION "${tree}/tests/masks")
step("the layer check" "${CMAKE_COMMAND}" "-DTREE=${tree}" -P "${tree}/cmake/LayerCheck.cmake")
# Building the library sees the new sources (globs are looked at again); its test is a target from then on.
step("build the library" "${CMAKE_COMMAND}" --build "${build}" --target espalier --parallel 2)
no_warning()
step("build the new test" "${CMAKE_COMMAND}" --build "${build}" --target masks_checker_test --parallel 2)
no_warning()
step("run the new test" "${CTEST}" --test-dir "${build}" -R masks_checker_test --no-tests=error --output-on-failure)
if(COMMAND)
  step("build the command" "${CMAKE_COMMAND}" --build "${build}" --target espalier_command --parallel 2)
  step("ask the command" "${build}/tools/espalier" info --help)
  if(NOT step_output MATCHES "checker")
    message(FATAL_ERROR "espalier info --help does not name the new mask:\n${step_output}")
  endif()
endif()
file(REMOVE_RECURSE "${tree}")
