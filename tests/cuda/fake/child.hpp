// Runs a piece of a test in a process of its own, for what must end the program.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace espalier::test {

struct Ending {
  bool fault = false;    // ended by a signal, or by the address sanitizer's report of one
  int status = -1;       // exit status
  std::string messages;  // what it wrote to stderr
};

// f runs in a copy of this process; exit(0) behind it runs what is registered for the end of a program.
template <class F>
Ending in_a_child(const F& f) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 1);
    f();
    std::exit(0);
  }
  close(ends[1]);
  Ending ending;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    ending.messages.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int state = 0;
  waitpid(child, &state, 0);
  ending.fault = WIFSIGNALED(state) || ending.messages.find("AddressSanitizer") != std::string::npos;
  if (WIFEXITED(state)) ending.status = WEXITSTATUS(state);
  return ending;
}

}  // namespace espalier::test
