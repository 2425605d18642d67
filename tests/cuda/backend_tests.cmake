# Tests of the CUDA backend beside its emulated ones: defects planted in its own kernels, registers and spills, a real GPU.
# SPDX-License-Identifier: Apache-2.0

# One source is compiled with the defect and linked before the library that holds the sound one; the laws must find it, in each
# order of the threads alone.
function(espalier_planted_defect name source cases)
  set(program cuda_planted_${name})
  string(TOUPPER "${name}" macro)
  set(defective "${PROJECT_SOURCE_DIR}/src/backend/cuda/${source}")
  espalier_cuda_sources_as_cxx("${defective}")
  add_executable(${program} grid_mask_test.cpp "${defective}")
  espalier_cuda_options(${program} plain)
  target_compile_definitions(${program} PRIVATE ESPALIER_DEFECT_${macro})
  target_link_libraries(${program} PRIVATE espalier_test_support espalier_cuda_emulated espalier_cuda_emulation)
  foreach(order forward reverse random)
    add_test(NAME ${program}_${order} COMMAND ${program} "-tc=${cases}")
    set_tests_properties(${program}_${order} PROPERTIES LABELS cuda-emu
      ENVIRONMENT "OMP_WAIT_POLICY=passive;ESPALIER_CUDA_ORDER=${order}"
      PASS_REGULAR_EXPRESSION "Status: FAILURE" FAIL_REGULAR_EXPRESSION "Status: SUCCESS")
  endforeach()
endfunction()
espalier_planted_defect(missing_barrier tiles.cu "laws: longer than a tile<float>")
espalier_planted_defect(padding fft.cu "laws: one axis<double>")
espalier_planted_defect(sums_too_early tiles_vjp.cu "laws: one axis<double>")

# What ptxas said while the library was built. Each gate is shown something that it must refuse.
if(ESPALIER_HAS_CUDA)
  set(gate "${CMAKE_COMMAND}" "-DLOGS=${PROJECT_BINARY_DIR}/cuda_objects" "-DTABLE=${PROJECT_SOURCE_DIR}/src/backend/cuda/registers.txt"
    "-DCHIPS=${ESPALIER_CUDA_ARCHITECTURES}")
  add_test(NAME cuda_registers COMMAND ${gate} -P "${PROJECT_SOURCE_DIR}/cmake/CudaGates.cmake")
  add_test(NAME cuda_registers_finds_growth COMMAND ${gate} -DGROWTH=1 -P "${PROJECT_SOURCE_DIR}/cmake/CudaGates.cmake")
  set_tests_properties(cuda_registers_finds_growth PROPERTIES PASS_REGULAR_EXPRESSION "above its budget")
  espalier_nvcc(nvcc "${CMAKE_CURRENT_BINARY_DIR}/planted_spill.log")
  add_test(NAME cuda_finds_planted_spill
    COMMAND ${nvcc} -c "${CMAKE_CURRENT_SOURCE_DIR}/planted_spill.cu" -o "${CMAKE_CURRENT_BINARY_DIR}/planted_spill.o")
  set_tests_properties(cuda_finds_planted_spill PROPERTIES PASS_REGULAR_EXPRESSION "[Rr]egisters are spilled|bytes spill|[Ss]pill")
  set_tests_properties(cuda_registers cuda_registers_finds_growth cuda_finds_planted_spill PROPERTIES LABELS cuda)
endif()

# The same tests on a real GPU (label gpu): compiled against the library that nvcc made. Skipped where there is none.
if(ESPALIER_HAS_CUDA)
  add_library(espalier_gpu_main STATIC gpu_main.cpp)
  target_link_libraries(espalier_gpu_main PUBLIC espalier_test_support espalier::cuda)
  add_custom_target(gpu_tests)
  foreach(name grid_mask_test attention_test conduct_test seen_test)
    add_executable(gpu_${name} ${name}.cpp)
    add_dependencies(gpu_tests gpu_${name})
    target_include_directories(gpu_${name} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
    target_link_libraries(gpu_${name} PRIVATE espalier_gpu_main espalier_test_support espalier::cuda)
    add_test(NAME gpu_${name} COMMAND gpu_${name})
    set_tests_properties(gpu_${name} PROPERTIES LABELS gpu SKIP_RETURN_CODE 77 RUN_SERIAL ON ENVIRONMENT OMP_WAIT_POLICY=passive)
  endforeach()
endif()
