# The layer check must be able to fail: plants one bad #include at a time in a small tree, each beside its legal twin.
# usage: cmake -DSCRATCH=<folder> -P cmake/LayerCheckTest.cmake     SPDX-License-Identifier: Apache-2.0
cmake_minimum_required(VERSION 3.25)

# file | legal line | line that must be found | words of the finding
set(cases
  "include/espalier/core/a.hpp|#include <vector>|#include <espalier/masks/grid.hpp>|core may include only"
  "include/espalier/core/a.hpp|#include <memory>|#include <Eigen/Dense>|standard library"
  "include/espalier/core/a.hpp|#include <espalier/core/mask.hpp>|#include \"core/mask.hpp\"|public headers include"
  "include/espalier/masks/a.hpp|#include <espalier/graphs/tree.hpp>|#include <espalier/attention/softmax.hpp>|masks may include only"
  "include/espalier/attention/a.hpp|#include <espalier/core/mask.hpp>|#include <espalier/masks/grid.hpp>|attention may include only"
  "include/espalier/attention/a.hpp|#include <espalier/core/mask.hpp>|  #  include <espalier/graphs/tree.hpp>|attention may include only"
  "include/espalier/io/a.hpp|#include <espalier/graphs/tree.hpp>|#include <espalier/masks/grid.hpp>|io may include only"
  "include/espalier/io/a.hpp|#include <vector>|#include <dlfcn.h>|standard library"
  "include/espalier/io/a.hpp|#include <vector>|#include <espalier/notebook.hpp>|io may include only"
  "include/espalier/notebook.hpp|#include <xcpp/xdisplay.hpp>|#include <nlohmann/json.hpp>|standard library"
  "include/espalier/misc/a.hpp|none|#include <vector>|unknown room"
  "src/masks/a.cpp|#include \"backend/tiles.hpp\"|#include \"attention/heads.hpp\"|masks may include only"
  "src/masks/a.cpp|#include <espalier/functions/distance_function.hpp>|#include \"tiles.hpp\"|write paths from src"
  "src/masks/a.cpp|#include <fftw3.h>|#include <omp.h>|OpenMP lives in"
  "src/masks/a.cpp|#pragma once|#pragma omp parallel for|OpenMP lives in"
  "src/backend/cpu/a.cpp|#include <espalier/core/views.hpp>|#include <espalier/core/mask.hpp>|src/backend may include only"
  "src/backend/cpu/a.cpp|#include \"backend/tiles.hpp\"|#include \"core/checks.hpp\"|sees no other room"
  "src/backend/cuda/a.cu|#include <espalier/cuda.hpp>|#include <espalier/masks/grid.hpp>|src/backend may include only"
  "src/backend/cpu/a.cpp|#include <fftw3.h>|#include <cuda_runtime.h>|CUDA lives in"
  "src/masks/a.cpp|#include \"backend/tiles.hpp\"|#include <cufft.h>|CUDA lives in"
  "src/attention/a.cpp|#include \"core/checks.hpp\"|#include <espalier/nowhere/a.hpp>|no such public header"
  "tests/support/a.cpp|#include <espalier/masks/grid.hpp>|#include \"backend/tiles.hpp\"|public headers only"
  "tests/cuda/a.cu|#include \"backend/tiles.hpp\"|#include \"core/checks.hpp\"|public headers only"
  "tools/a.cpp|#include <espalier/attention/softmax.hpp>|#include \"core/checks.hpp\"|public headers only")

function(run_check line file result output)
  file(REMOVE_RECURSE "${SCRATCH}")
  foreach(other include/espalier/core/mask.hpp include/espalier/core/views.hpp include/espalier/masks/grid.hpp
      include/espalier/graphs/tree.hpp include/espalier/attention/softmax.hpp include/espalier/functions/distance_function.hpp
      src/backend/tiles.hpp src/attention/heads.hpp src/core/checks.hpp include/espalier/cuda.hpp include/espalier/notebook.hpp)
    file(WRITE "${SCRATCH}/${other}" "#pragma once\n")
  endforeach()
  if(NOT line STREQUAL "none")
    file(WRITE "${SCRATCH}/${file}" "${line}\n")
  endif()
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DTREE=${SCRATCH}" -P "${CMAKE_CURRENT_LIST_DIR}/LayerCheck.cmake"
    RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text)
  string(REGEX REPLACE "[ \n]+" " " text "${text}")
  set(${result} "${code}" PARENT_SCOPE)
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

set(wrong "")
foreach(case IN LISTS cases)
  string(REPLACE "|" ";" parts "${case}")
  list(GET parts 0 file)
  list(GET parts 1 legal)
  list(GET parts 2 illegal)
  list(GET parts 3 words)
  run_check("${legal}" "${file}" code text)
  if(NOT code EQUAL 0)
    string(APPEND wrong "legal line refused: ${file}: ${legal}\n${text}\n")
  endif()
  run_check("${illegal}" "${file}" code text)
  string(FIND "${text}" "${words}" at)
  if(code EQUAL 0 OR at EQUAL -1)
    string(APPEND wrong "not found: ${file}: ${illegal}\n${text}\n")
  endif()
endforeach()
file(REMOVE_RECURSE "${SCRATCH}")
if(wrong)
  message(FATAL_ERROR "${wrong}")
endif()
