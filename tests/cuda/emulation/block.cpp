// The scheduler of one block, its barrier and its shared memory.
// SPDX-License-Identifier: Apache-2.0
#include "emulation/block.hpp"

#include "emulation/block_state.hpp"
#include "emulation/sanitizer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

namespace espalier::emulation {

View view;

namespace {

constexpr std::size_t kGuardBytes = 256;
constexpr unsigned char kGuard = 0xa5, kFresh = 0xff;  // 0xff...: NaN in float and double, -1 in integers

Settings settings_of_environment() {
  Settings s;
  const char* const text = std::getenv("ESPALIER_CUDA_ORDER");
  const std::string word = text == nullptr ? "forward" : text;
  if (word == "reverse") {
    s.order = Order::reverse;
  } else if (word.rfind("random", 0) == 0) {
    s.order = Order::random;
    if (word.size() > 7 && word[6] == ':') s.seed = std::strtoull(word.c_str() + 7, nullptr, 10);
  } else if (word != "forward") {
    throw Error("ESPALIER_CUDA_ORDER is '" + word + "', expected forward, reverse, random or random:SEED");
  }
  return s;
}

std::size_t stack_bytes() {
  if (settings().stack_bytes > 0) return settings().stack_bytes;
#if ESPALIER_ADDRESS_SANITIZER
  return 256 * 1024;
#else
  return 64 * 1024;
#endif
}

std::string triple(uint3 v) {
  return std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z);
}

// Kept between launches: making 1024 stacks costs more than running most blocks.
BlockState state;

// The first frames of a fiber. What it throws ends the block.
void run_thread() {
  try {
    (*state.kernel)();
  } catch (const std::exception& e) {
    if (state.error.empty()) state.error = e.what();
  } catch (...) {
    if (state.error.empty()) state.error = "a kernel threw something that is no std::exception";
  }
}

// Not instrumented: this frame is left for good by the last leave(), so it must not own poisoned memory.
__attribute__((no_sanitize("address", "undefined"))) void thread_main() {
  Fiber::arrived();
  run_thread();
  state.finish_current();
  for (;;) state.threads[state.current].fiber->leave(true);
}

}  // namespace

Settings& settings() {
  static Settings s = settings_of_environment();
  return s;
}

Counts& counts() {
  static Counts c;
  return c;
}

std::string name_of(Place place) {
  const char* const slash = std::strrchr(place.file, '/');
  return std::string(slash == nullptr ? place.file : slash + 1) + ":" + std::to_string(place.line);
}

BlockState& block_state() {
  return state;
}

void fail_for(uint3 thread, const std::string& what, Place place) {
  throw Error(name_of(place) + ": " + what + " (block " + triple(view.block) + " thread " + triple(thread) + ")");
}
void fail_here(const std::string& what, Place place) {
  fail_for(view.thread, what, place);
}

void BlockState::finish_current() {
  threads[current].waiting = Waiting::finished;
  --alive;
  warps[current / kWarp].alive &= ~(1u << (current % kWarp));
  if (!error.empty()) return;
  // Barriers and warp operations are for the threads that have not returned (compute capability 7.0 and later).
  try {
    release_barrier();
    release_warp(current / kWarp);
  } catch (const std::exception& e) {
    error = e.what();
  }
}

void BlockState::release_barrier() {
  if (at_barrier == 0 || at_barrier != alive) return;
  result = {yes, static_cast<int>(alive)};
  yes = 0;
  at_barrier = 0;
  for (unsigned t = 0; t < size; ++t) {
    if (threads[t].waiting == Waiting::barrier) threads[t].waiting = Waiting::nothing;
  }
}

Votes meet_block(bool predicate, Place place) {
  if (state.at_barrier == 0) {
    state.barrier_place = place;
  } else if (!same_place(state.barrier_place, place)) {
    fail_here("divergent barrier: other threads of the block wait at " + name_of(state.barrier_place), place);
  }
  state.yes += predicate;
  ++state.at_barrier;
  state.threads[state.current].waiting = Waiting::barrier;
  state.threads[state.current].place = place;
  ++counts().crossings;
  state.release_barrier();
  state.threads[state.current].fiber->leave(false);
  return state.result;
}

void* BlockState::take_shared(const void* key, std::size_t bytes, const char* name) {
  const std::size_t whole = (bytes + kGuardBytes + 127) / 128 * 128;
  auto* const memory = static_cast<unsigned char*>(std::aligned_alloc(128, whole));
  if (memory == nullptr) throw std::bad_alloc();
  shared.push_back({key, memory, bytes, whole, name});
  std::memset(memory, kFresh, bytes);
  std::memset(memory + bytes, kGuard, whole - bytes);
#if ESPALIER_ADDRESS_SANITIZER
  __asan_poison_memory_region(memory + bytes, whole - bytes);
#endif
  return memory;
}

void BlockState::drop_shared() {
  for (const SharedArray& array : shared) {
    unsigned char* const guard = array.memory + array.bytes;
    const std::size_t n = array.whole - array.bytes;
#if ESPALIER_ADDRESS_SANITIZER
    __asan_unpoison_memory_region(guard, n);
#endif
    if (error.empty() && !std::all_of(guard, guard + n, [](unsigned char byte) { return byte == kGuard; })) {
      error = "written past the end of the shared array '" + std::string(array.name) + "' of " + std::to_string(array.bytes) +
              " bytes (block " + triple(view.block) + ")";
    }
    std::free(array.memory);
  }
  shared.clear();
}

void* shared_array_at(const void* key, std::size_t bytes, const char* name, Place place) {
  std::size_t total = bytes, fixed = bytes;
  for (const auto& array : state.shared) {
    if (array.key == key) return array.memory;
    total += array.bytes;
    if (array.key != nullptr) fixed += array.bytes;
  }
  if (fixed > kDefaultShared) {
    fail_here("shared arrays of " + std::to_string(fixed) + " bytes, at most " + std::to_string(kDefaultShared) +
                  " can be declared; use dynamic shared memory",
              place);
  }
  if (total > state.shared_limit) {
    fail_here("too much shared memory: " + std::to_string(total) + " bytes, the limit of this launch is " +
                  std::to_string(state.shared_limit),
              place);
  }
  counts().shared_bytes = std::max(counts().shared_bytes, total);
  return state.take_shared(key, bytes, name);
}

void* dynamic_shared() {
  return state.shared.front().memory;
}

void BlockState::report_deadlock() {
  // Each place once: how many wait there, and who is the first.
  struct Crowd {
    std::string where;
    uint3 first;
    unsigned number;
  };
  std::vector<Crowd> crowds;
  for (unsigned t = 0; t < size; ++t) {
    const Thread& thread = threads[t];
    if (thread.waiting == Waiting::finished) continue;
    const bool barrier = thread.waiting == Waiting::barrier;
    const std::string where =
        name_of(thread.place) + (barrier ? " (barrier)" : " (warp operation, mask " + hexadecimal(thread.mask) + ")");
    const auto known = std::find_if(crowds.begin(), crowds.end(), [&](const Crowd& c) { return c.where == where; });
    if (known == crowds.end()) {
      crowds.push_back({where, thread.index, 1});
    } else {
      ++known->number;
    }
  }
  error = "deadlock: " + std::to_string(alive) + " threads of block " + triple(view.block) + " wait for ever";
  for (const Crowd& c : crowds) {
    error += "; " + std::to_string(c.number) + " at " + c.where + ", the first is thread " + triple(c.first);
  }
}

void BlockState::prepare(std::size_t dynamic_bytes) {
  alive = size;
  at_barrier = 0;
  yes = 0;
  error.clear();
  warps.resize((size + kWarp - 1) / kWarp);
  for (unsigned w = 0; w < warps.size(); ++w) {
    const unsigned lanes = std::min(kWarp, size - w * kWarp);
    warps[w].alive = lanes == kWarp ? ~0u : (1u << lanes) - 1;
    warps[w].meetings.clear();
  }
  take_shared(nullptr, dynamic_bytes, "dynamic shared memory");
  counts().shared_bytes = std::max(counts().shared_bytes, dynamic_bytes);
  const dim3 d = view.block_size;
  for (unsigned t = 0; t < size; ++t) {
    threads[t].index = {t % d.x, t / d.x % d.y, t / (d.x * d.y)};
    threads[t].waiting = Waiting::nothing;
    threads[t].fiber->prepare(&thread_main);
  }
}

void BlockState::run_block(std::size_t dynamic_bytes, std::vector<unsigned>& turns, bool shuffled, std::mt19937_64& random) {
  prepare(dynamic_bytes);
  bool moved = true;
  while (alive > 0 && moved && error.empty()) {
    moved = false;
    if (shuffled) std::shuffle(turns.begin(), turns.end(), random);
    for (const unsigned t : turns) {
      if (threads[t].waiting != Waiting::nothing) continue;
      moved = true;
      current = t;
      view.thread = threads[t].index;
      view.lane = static_cast<int>(t % kWarp);
      threads[t].fiber->enter();
      if (!error.empty()) break;
    }
  }
  if (alive > 0 && error.empty()) report_deadlock();
  drop_shared();
  if (error.empty()) return;
  for (unsigned t = 0; t < size; ++t) threads[t].fiber->forget_frames();
  throw Error(error);
}

std::string launch_mistake(dim3 grid, dim3 block, std::size_t dynamic_bytes, std::size_t dynamic_limit) {
  const auto sizes = [](dim3 d) { return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z); };
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (block.x > kMaxThreads || block.y > kMaxThreads || block.z > kMaxBlockZ || threads < 1 || threads > kMaxThreads) {
    return "bad launch: a block of " + sizes(block) + " threads; 1 to 1024 are allowed, at most 64 along z";
  }
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    return "bad launch: a grid of " + sizes(grid) + " blocks; at least 1 and at most 2147483647 x 65535 x 65535 are allowed";
  }
  if (dynamic_bytes > dynamic_limit) {
    return "bad launch: " + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory, the limit is " +
           std::to_string(dynamic_limit);
  }
  return "";
}

void run(dim3 grid, dim3 block, std::size_t dynamic_bytes, std::size_t shared_limit, const std::function<void()>& thread) {
  const std::string mistake = launch_mistake(grid, block, dynamic_bytes, shared_limit);
  if (!mistake.empty()) throw Error(mistake);
  if (state.kernel != nullptr) throw Error("bad launch: a kernel is running already");
  struct Running {
    explicit Running(const std::function<void()>& kernel) { state.kernel = &kernel; }
    ~Running() { state.kernel = nullptr; }
  } running(thread);

  state.size = block.x * block.y * block.z;
  state.shared_limit = shared_limit;
  const std::size_t stack = stack_bytes();
  if (stack != state.stack_bytes) state.threads.clear();
  state.stack_bytes = stack;
  while (state.threads.size() < state.size) state.threads.emplace_back(stack);
  view.block_size = block;
  view.grid_size = grid;

  const Order order = settings().order;
  std::mt19937_64 random(settings().seed);
  std::vector<unsigned> turns(state.size);
  for (unsigned t = 0; t < state.size; ++t) turns[t] = order == Order::reverse ? state.size - 1 - t : t;
  // Blocks are unordered on a GPU, so the order is theirs too.
  std::vector<std::uint64_t> blocks(std::uint64_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), std::uint64_t{0});
  if (order == Order::reverse) std::reverse(blocks.begin(), blocks.end());
  if (order == Order::random) std::shuffle(blocks.begin(), blocks.end(), random);
  ++counts().launches;
  for (const std::uint64_t at : blocks) {
    view.block = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                  static_cast<unsigned>(at / grid.x / grid.y)};
    ++counts().blocks;
    counts().threads += state.size;
    state.run_block(dynamic_bytes, turns, order == Order::random, random);
  }
}

}  // namespace espalier::emulation
