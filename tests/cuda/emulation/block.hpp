// What the emulation does: runs a grid block by block, every thread a fiber, and says which rule a kernel broke.
// SPDX-License-Identifier: Apache-2.0
//
// A thread runs until it reaches a barrier or a warp operation, or returns; blocks run one after another. So a run repeats
// exactly for a given order. What is undefined on a GPU throws Error here, with file, line, block and thread.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace espalier::emulation {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A line of a kernel's source.
struct Place {
  const char* file;
  unsigned line;
};

// Who runs next among the threads that can run.
enum class Order { forward, reverse, random };

struct Settings {
  Order order = Order::forward;
  std::uint64_t seed = 1;       // of Order::random
  std::size_t stack_bytes = 0;  // of one thread; 0: 64 KB, with the address sanitizer 256 KB
};
// Read at every launch. At the start: ESPALIER_CUDA_ORDER = forward, reverse, random or random:SEED, else forward.
Settings& settings();

// Limits of a block on sm_80 (CUDA C++ Programming Guide, "Compute Capabilities", technical specifications).
inline constexpr unsigned kWarp = 32, kMaxThreads = 1024, kMaxBlockZ = 64, kMaxGridX = 2147483647, kMaxGridYZ = 65535;
inline constexpr std::size_t kDefaultShared = 48 * 1024, kOptInShared = 163 * 1024;

// What ran since reset: tests assert on them.
struct Counts {
  std::uint64_t launches = 0, blocks = 0, threads = 0;
  std::uint64_t crossings = 0;   // one a thread and barrier or warp operation
  std::size_t shared_bytes = 0;  // the largest block's
};
Counts& counts();

// Empty if CUDA would take this launch; else what is wrong. dynamic_limit: kDefaultShared, or what was asked for.
std::string launch_mistake(dim3 grid, dim3 block, std::size_t dynamic_bytes, std::size_t dynamic_limit);

// Runs thread() for every thread of the grid. Static and dynamic shared memory of a block together: at most shared_limit.
// Errors: Error; the grid is abandoned there.
void run(dim3 grid, dim3 block, std::size_t dynamic_bytes, std::size_t shared_limit, const std::function<void()>& thread);

// --- called by kernels, through kernel_language.hpp ---

// What the running thread sees.
struct View {
  uint3 thread{};
  uint3 block{};
  dim3 block_size;
  dim3 grid_size;
  int lane = 0;
};
extern View view;

// The block's barrier; the result is the number of threads that came with a true predicate and the number that came.
struct Votes {
  int yes = 0, all = 0;
};
Votes meet_block(bool predicate, Place place);

// The threads of a warp that `mask` names and that have not returned meet in one operation.
enum class Operation : unsigned char { syncwarp, shuffle, shuffle_up, shuffle_down, shuffle_xor, ballot, any, all };
// value: what this lane brings. source: the lane whose value it takes (-1: none, the result is the lanes with value != 0).
std::uint64_t meet_warp(Operation operation, unsigned mask, std::uint64_t value, int source, Place place);
[[noreturn]] void fail_here(const std::string& what, Place place);

// One array a block and declaration, filled with 0xff bytes (NaN) and followed by bytes that must not change.
void* shared_array_at(const void* key, std::size_t bytes, const char* name, Place place);
void* dynamic_shared();

}  // namespace espalier::emulation
