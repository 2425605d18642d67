# Takes CMakeLists.txt and main.cpp out of README.md, builds them against the installed library and runs the program.
# usage: cmake -DBUILD=<build folder> -DSOURCE=<tree> -DSCRATCH=<folder> -DCOMPILER=<c++> -P readme.cmake
# SPDX-License-Identifier: Apache-2.0
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")
file(REMOVE_RECURSE "${SCRATCH}")
file(READ "${SOURCE}/README.md" readme)

# The first block with this language after the fence, to the next fence.
function(extract language file)
  string(FIND "${readme}" "```${language}\n" start)
  if(start EQUAL -1)
    message(FATAL_ERROR "README.md has no block of ${language}")
  endif()
  string(LENGTH "```${language}\n" skip)
  math(EXPR start "${start} + ${skip}")
  string(SUBSTRING "${readme}" ${start} -1 rest)
  string(FIND "${rest}" "```" end)
  string(SUBSTRING "${rest}" 0 ${end} block)
  file(WRITE "${SCRATCH}/project/${file}" "${block}")
endfunction()
extract(cmake CMakeLists.txt)
extract(cpp main.cpp)
step("install" "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${SCRATCH}/prefix")
step("configure" "${CMAKE_COMMAND}" -S "${SCRATCH}/project" -B "${SCRATCH}/build" "-DCMAKE_PREFIX_PATH=${SCRATCH}/prefix"
  "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Wno-sign-conversion -Werror")
step("build" "${CMAKE_COMMAND}" --build "${SCRATCH}/build")
step("run" "${SCRATCH}/build/main")
message(STATUS "${step_output}")
