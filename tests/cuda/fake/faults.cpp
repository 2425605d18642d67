// Says what a fault was about: which device buffer lies there, who touched it. Then the fault takes its course.
// SPDX-License-Identifier: Apache-2.0
#include "emulation/block.hpp"
#include "fake/device.hpp"

#include <unistd.h>

#include <csignal>
#include <cstdio>

namespace espalier::fake {

namespace {

struct sigaction before;

// The fault happens in code of a test or a kernel, never inside the fake, so its tables may be read here.
void explain(int signal, siginfo_t* info, void*) {
  const auto* const address = static_cast<const char*>(info->si_addr);
  const Device& d = device();
  const auto range = d.nearest(address);
  if (range.known) {
    char text[400];
    const emulation::View& view = emulation::view;
    int n = d.open_depth > 0
                ? std::snprintf(text, sizeof text, "fake CUDA: block %u,%u,%u thread %u,%u,%u touched ", view.block.x,
                                view.block.y, view.block.z, view.thread.x, view.thread.y, view.thread.z)
                : std::snprintf(text, sizeof text, "fake CUDA: host code touched ");
    n += std::snprintf(text + n, sizeof text - static_cast<std::size_t>(n), "%s\n", range.words.c_str());
    [[maybe_unused]] const ssize_t written = write(2, text, static_cast<std::size_t>(n));
  }
  sigaction(signal, &before, nullptr);  // back in the code the same fault meets whoever was there first
}

}  // namespace

void watch_faults() {
  struct sigaction action {};
  // The test framework installs a handler of its own for every test case: ours goes in front of it.
  sigaction(SIGSEGV, nullptr, &action);
  if ((action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == &explain) return;
  action = {};
  action.sa_sigaction = &explain;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &before);
}

}  // namespace espalier::fake
