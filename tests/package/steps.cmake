# step(name command...): runs a command and stops with its whole output if it fails.
# SPDX-License-Identifier: Apache-2.0
function(step name)
  message(STATUS "${name}")
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT code EQUAL 0)
    string(JOIN " " line ${ARGN})
    message(FATAL_ERROR "${name}: exit status ${code}\n${line}\n${text}")
  endif()
  set(step_output "${text}" PARENT_SCOPE)
endfunction()

# Flags of builds that only show that everything fits together: no debug information, kernels for one instruction set.
set(QUICK "-O0 -g0 -DHWY_COMPILE_ONLY_STATIC")
