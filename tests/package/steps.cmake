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

# copy_tree(from to): the tree without its builds, in place of what is there. Two builds of copies, at ${SCRATCH}/tree and
# ${SCRATCH}/within/espalier, are the same to a compiler cache, where there is one: the second takes seconds, not minutes.
function(copy_tree from to)
  file(REMOVE_RECURSE "${to}")
  file(GLOB entries "${from}/*")
  list(FILTER entries EXCLUDE REGEX "/(build[^/]*|shared)$")
  file(COPY ${entries} DESTINATION "${to}")
  set(ENV{CCACHE_BASEDIR} "${SCRATCH}")
endfunction()
