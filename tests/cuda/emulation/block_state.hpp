// The block that is running: its threads, warps, barrier and shared memory. Shared by block.cpp and warp.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emulation/block.hpp"
#include "emulation/fiber.hpp"

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace espalier::emulation {

enum class Waiting : unsigned char { nothing, barrier, warp, finished };

struct Thread {
  explicit Thread(std::size_t stack_bytes) : fiber(std::make_unique<Fiber>(stack_bytes)) {}
  std::unique_ptr<Fiber> fiber;
  uint3 index{};
  Waiting waiting = Waiting::finished;
  Place place{"", 0};  // where it waits
  // Of the warp operation it waits in.
  unsigned mask = 0;
  std::uint64_t value = 0, result = 0;
  int source = -1;
};

// A warp operation that some of its lanes have reached.
struct Meeting {
  unsigned mask, arrived;
  Operation operation;
  Place place;
};

struct Warp {
  unsigned alive = 0;  // lanes that have not returned
  std::vector<Meeting> meetings;
};

// key: the declaration; null for dynamic shared memory, which comes first.
struct SharedArray {
  const void* key;
  unsigned char* memory;
  std::size_t bytes, whole;  // whole: with the guard behind
  const char* name;
};

struct BlockState {
  const std::function<void()>* kernel = nullptr;
  std::vector<Thread> threads;  // the first `size` are the block's
  std::vector<Warp> warps;
  std::vector<SharedArray> shared;
  std::string error;  // the first one; ends the block
  std::size_t stack_bytes = 0, shared_limit = 0;
  unsigned size = 0, current = 0, alive = 0, at_barrier = 0;
  int yes = 0;  // predicates at the barrier
  Place barrier_place{"", 0};
  Votes result;

  void run_block(std::size_t dynamic_bytes, std::vector<unsigned>& turns, bool shuffled, std::mt19937_64& random);
  void prepare(std::size_t dynamic_bytes);
  void finish_current();
  void release_barrier();
  void release_warp(unsigned warp);
  void complete(const Meeting& meeting, unsigned warp);
  void report_deadlock();
  void* take_shared(const void* key, std::size_t bytes, const char* name);
  void drop_shared();
};

BlockState& block_state();

std::string name_of(Place place);  // "kernels.cu:12"
std::string hexadecimal(unsigned mask);
inline bool same_place(Place a, Place b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}
[[noreturn]] void fail_for(uint3 thread, const std::string& what, Place place);

}  // namespace espalier::emulation
