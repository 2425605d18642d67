# The library espalier_cuda: masks and attention for device memory. Kernels are compiled by nvcc through commands of our own, so that
# consumers need no CUDA language and the C++ standard is passed by hand (CMake 3.25 drops it for nvcc 13 without a word).
# SPDX-License-Identifier: Apache-2.0
if(PROJECT_IS_TOP_LEVEL)
  set(espalier_cuda_default AUTO)
else()
  set(espalier_cuda_default OFF)
endif()
set(ESPALIER_WITH_CUDA ${espalier_cuda_default} CACHE STRING "Build espalier::cuda: AUTO (where nvcc and cuFFT are), ON or OFF")
set_property(CACHE ESPALIER_WITH_CUDA PROPERTY STRINGS AUTO ON OFF)
set(ESPALIER_CUDA_ARCHITECTURES "80;90" CACHE STRING "Chips to compile for; the last one also as PTX for newer chips")

# Sources of templates that are compiled a second time, for Cuda. What in them is no template lives in NAME_setup.cpp.
set(espalier_device_sources core/mask.cpp masks/grid.cpp masks/ones.cpp attention/masked_linear.cpp)
list(TRANSFORM espalier_device_sources PREPEND "${PROJECT_SOURCE_DIR}/src/")
file(GLOB espalier_cuda_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/backend/cuda/*.cu")

set(espalier_cuda_off "")
if(ESPALIER_WITH_CUDA STREQUAL "OFF")
  set(espalier_cuda_off "-DESPALIER_WITH_CUDA=AUTO")
elseif(CMAKE_CROSSCOMPILING OR CMAKE_CXX_FLAGS MATCHES "-fsanitize")
  set(espalier_cuda_off "not with sanitizers or across machines")
else()
  find_package(CUDAToolkit QUIET)
  if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE OR NOT TARGET CUDA::cufft)
    set(espalier_cuda_off "nvcc or cuFFT not found")
  elseif(CUDAToolkit_VERSION VERSION_LESS 12)
    set(espalier_cuda_off "CUDA ${CUDAToolkit_VERSION} found, 12 or newer is needed")
  endif()
  if(espalier_cuda_off AND NOT ESPALIER_WITH_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "ESPALIER_WITH_CUDA=${ESPALIER_WITH_CUDA}: ${espalier_cuda_off}")
  endif()
endif()
if(espalier_cuda_off)
  set(ESPALIER_HAS_CUDA OFF)
  message(STATUS "espalier: CUDA off (${espalier_cuda_off})")
  return()
endif()
set(ESPALIER_HAS_CUDA ON)
message(STATUS "espalier: CUDA ${CUDAToolkit_VERSION} on, for sm_${ESPALIER_CUDA_ARCHITECTURES}")

# espalier_nvcc(OUTPUT_VARIABLE LOG): the start of a command line of nvcc; its remarks go to the file LOG. A spill is an error.
function(espalier_nvcc output log)
  set(chips "")
  list(GET ESPALIER_CUDA_ARCHITECTURES -1 newest)
  foreach(chip IN LISTS ESPALIER_CUDA_ARCHITECTURES)
    list(APPEND chips -gencode "arch=compute_${chip},code=sm_${chip}")
  endforeach()
  list(APPEND chips -gencode "arch=compute_${newest},code=compute_${newest}")
  set(flags -std=c++20 -O3 -Werror all-warnings -Xcompiler=-Wall,-Wextra,-fPIC,-fvisibility=hidden
    -Xptxas=-v,-warn-spills,-warn-lmem-usage,-Werror)
  if(NOT BUILD_SHARED_LIBS)
    list(APPEND flags -DESPALIER_STATIC_DEFINE)
  endif()
  set(${output} "${CMAKE_COMMAND}" "-DLOG=${log}" -P "${PROJECT_SOURCE_DIR}/cmake/Nvcc.cmake" -- ${CMAKE_CXX_COMPILER_LAUNCHER}
    "${CUDAToolkit_NVCC_EXECUTABLE}" -ccbin "${CMAKE_CXX_COMPILER}" ${flags} ${chips} "-I${PROJECT_SOURCE_DIR}/include"
    "-I${PROJECT_SOURCE_DIR}/src" PARENT_SCOPE)
endfunction()

# espalier_cuda_object(OUTPUT_VARIABLE SOURCE): a command that compiles one .cu file for every chip.
function(espalier_cuda_object output source)
  cmake_path(GET source STEM name)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/cuda_objects")
  set(object "${folder}/${name}.o")
  file(MAKE_DIRECTORY "${folder}")
  espalier_nvcc(nvcc "${folder}/${name}.log")
  add_custom_command(OUTPUT "${object}"
    COMMAND ${nvcc} -MD -MF "${object}.d" -MT "${object}" -c "${source}" -o "${object}"
    DEPENDS "${source}" "${PROJECT_SOURCE_DIR}/cmake/Nvcc.cmake" DEPFILE "${object}.d" COMMENT "nvcc ${name}.cu" VERBATIM)
  set(${output} "${object}" PARENT_SCOPE)
endfunction()

set(espalier_cuda_objects "")
foreach(source IN LISTS espalier_cuda_sources)
  espalier_cuda_object(object "${source}")
  list(APPEND espalier_cuda_objects "${object}")
endforeach()
set_source_files_properties(${espalier_cuda_objects} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)

add_library(espalier_cuda ${espalier_device_sources} ${espalier_cuda_objects})
add_library(espalier::cuda ALIAS espalier_cuda)
set_target_properties(espalier_cuda PROPERTIES EXPORT_NAME cuda
  CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON
  VERSION "${PROJECT_VERSION}" SOVERSION "${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}")
target_compile_definitions(espalier_cuda PRIVATE ESPALIER_COMPILE_FOR_CUDA)
target_compile_options(espalier_cuda PRIVATE ${espalier_warnings})
target_include_directories(espalier_cuda PRIVATE "${PROJECT_SOURCE_DIR}/src")
target_link_libraries(espalier_cuda PUBLIC espalier PRIVATE CUDA::cudart CUDA::cufft)
