// A thread of its own waits for the signals, so that nothing runs in a signal handler.
// SPDX-License-Identifier: Apache-2.0
#include "interrupts.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace espalier::tools {

Interrupts::Interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  // A shell's background jobs begin with SIGINT ignored, and ignored signals never arrive, blocked or not.
  signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);  // inherited by every thread made later
  signal(SIGPIPE, SIG_IGN);                   // a closed standard output is an error with a text, as a full one
  std::thread([this] { watch(); }).detach();
}

void Interrupts::add_temporary(const std::string& path) {
  const std::lock_guard lock(mutex_);
  temporaries_.insert(path);
}

void Interrupts::watch() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  int number = 0;
  while (sigwait(&set, &number) != 0) {
  }
  source_.request_stop();
  // Kernels look at the token between blocks of work; reading files and making tables does not.
  std::this_thread::sleep_for(std::chrono::seconds(2));
  const std::lock_guard lock(mutex_);
  for (const auto& path : temporaries_) unlink(path.c_str());
  const char text[] = "espalier: cancelled\n";
  (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
  _exit(130);
}

}  // namespace espalier::tools
