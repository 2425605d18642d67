// A fiber: a stack of its own that runs until it hands control back. Every emulated CUDA thread is one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#define ESPALIER_FIBERS_BY_UCONTEXT 1
#endif
#if defined(ESPALIER_FIBERS_BY_UCONTEXT)
#include <ucontext.h>
#endif

namespace espalier::emulation {

// Fibers are entered from one place, the scheduler, and leave to it. Not for several host threads at once.
class Fiber {
 public:
  explicit Fiber(std::size_t stack_bytes);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next enter() calls entry() on an empty stack; whatever ran there before is forgotten, not unwound. entry must not
  // return: it ends with leave(true).
  void prepare(void (*entry)());
  void enter();
  // On the fiber: back to the scheduler. ending: this stack will not be continued.
  void leave(bool ending);
  // First call on a fresh stack (tells the address sanitizer where the scheduler's stack is).
  static void arrived();
  // After an abandoned run: the address sanitizer forgets the frames that lie on the stack.
  void forget_frames();

 private:
#if defined(ESPALIER_FIBERS_BY_UCONTEXT)
  ucontext_t state_{};
#else
  void* state_ = nullptr;
#endif
  char* stack_ = nullptr;
  std::size_t bytes_;
  void* fake_stack_ = nullptr;  // the address sanitizer's
};

}  // namespace espalier::emulation
