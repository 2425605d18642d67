// How tests steer and question the fake of the CUDA runtime and of cuFFT.
// SPDX-License-Identifier: Apache-2.0
//
// Stricter than a GPU where that finds mistakes:
//   work does nothing until somebody synchronises, on the default stream too;
//   device memory cannot be touched by host code (the program ends with a fault), starts as NaN (0xff bytes), lies between
//   pages nobody may touch, and a freed address never comes back;
//   copies are checked for direction, pitch and range when they are enqueued and again when they run;
//   a kernel that breaks a rule, and a copy from memory freed meanwhile, leave an error that stays, as on a GPU: every later
//   call returns cudaErrorLaunchFailure, and cudaGetErrorString tells the whole story;
//   whatever is left at the end of the program (buffers, plans, streams, events) is listed and makes its status 99.
// FAKE_CUDA_FAIL=n in the environment lets the program's n-th call fail.
#pragma once

#include <cstddef>
#include <string>

namespace espalier::fake {

// Device memory in bytes asked for; cuFFT's work areas count. peak: the most in use at once since reset_peak.
struct Memory {
  std::size_t in_use = 0, peak = 0, buffers = 0;
};
Memory memory();
void reset_peak();
// Allocations that would lead beyond `bytes` fail with cudaErrorMemoryAllocation. 0: no limit.
void set_memory_limit(std::size_t bytes);

// Calls that can fail, so far: everything but the questions about errors.
long long calls();
// The n-th such call from now (1: the next) fails, once, as that call would on a GPU; 0: none will. Calls that release
// something release it all the same.
void fail_call(long long n);
// The name of the call that was made to fail; empty before.
std::string failed_call();

// With 0 devices every call fails with cudaErrorNoDevice.
void set_device_count(int count);

// What is left, one line each; empty: nothing.
std::string leaks();
// The error that stays; empty: none.
std::string device_error();
// Forgets errors, work that has not run, planned failures, limits and the peak; buffers, plans and streams stay. A test that
// made an error on purpose ends with it; an error that nobody forgot ends the program with status 99.
void reset();

}  // namespace espalier::fake
