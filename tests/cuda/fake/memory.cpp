// Device memory of the fake: forbidden to host code, NaN at first, between forbidden pages, addresses used once.
// SPDX-License-Identifier: Apache-2.0
#include "emulation/sanitizer.hpp"
#include "fake/device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace espalier::fake {

namespace {

// cudaMalloc returns multiples of 256 (CUDA C++ Programming Guide, "Device Memory Accesses").
constexpr std::size_t kAlignment = 256;
constexpr unsigned char kFresh = 0xff, kGuard = 0xa5;

std::size_t page() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// The bytes of the buffer's pages in front of it and behind it.
template <class F>
void for_each_margin(char* start, const Buffer& buffer, const F& f) {
  f(buffer.map, static_cast<std::size_t>(start - buffer.map));
  f(start + buffer.bytes, static_cast<std::size_t>(buffer.map + buffer.map_bytes - (start + buffer.bytes)));
}

void poison_margins([[maybe_unused]] char* start, [[maybe_unused]] const Buffer& buffer, [[maybe_unused]] bool poison) {
#if ESPALIER_ADDRESS_SANITIZER
  for_each_margin(start, buffer, [poison](char* p, std::size_t n) {
    if (poison) {
      __asan_poison_memory_region(p, n);
    } else {
      __asan_unpoison_memory_region(p, n);
    }
  });
#endif
}

}  // namespace

Open::Open() {
  Device& d = device();
  if (d.open_depth++ > 0) return;
  for (const auto& [start, buffer] : d.buffers) d.protect(start, buffer);
}
Open::~Open() {
  Device& d = device();
  if (--d.open_depth > 0) return;
  for (const auto& [start, buffer] : d.buffers) d.protect(start, buffer);
}

void Device::protect(const char*, const Buffer& buffer) {
  const bool reachable = open_depth > 0 && buffer.begun;
  mprotect(buffer.map, buffer.map_bytes, reachable ? PROT_READ | PROT_WRITE : PROT_NONE);
}

char* Device::allocate(std::size_t bytes, const std::string& made, bool begun) {
  if (bytes == 0 || (limit > 0 && (bytes > limit || in_use > limit - bytes))) return nullptr;
  const std::size_t inner = round_up(round_up(bytes, kAlignment), page()), whole = inner + 2 * page();
  void* const map = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  watch_faults();
  Buffer buffer;
  buffer.bytes = bytes;
  buffer.map = static_cast<char*>(map) + page();
  buffer.map_bytes = inner;
  buffer.begun = begun;
  buffer.made = made;
  // At the end of its pages, so that running over by 256 bytes or more is a fault; the margins are checked when it is freed.
  char* const start = buffer.map + inner - round_up(bytes, kAlignment);
  mprotect(buffer.map, inner, PROT_READ | PROT_WRITE);
  std::memset(start, kFresh, bytes);
  for_each_margin(start, buffer, [](char* p, std::size_t n) { std::memset(p, kGuard, n); });
  poison_margins(start, buffer, true);
  protect(start, buffer);
  buffers[start] = buffer;
  past[buffer.map] = inner;
  in_use += bytes;
  peak = std::max(peak, in_use);
  return start;
}

void Device::begin_buffer(const char* start) {
  const auto it = buffers.find(start);
  if (it == buffers.end()) return;
  it->second.begun = true;
  protect(start, it->second);
}

std::string Device::release(const char* start) {
  const auto it = buffers.find(start);
  const Buffer buffer = it->second;
  char* const first = const_cast<char*>(start);
  poison_margins(first, buffer, false);
  mprotect(buffer.map, buffer.map_bytes, PROT_READ);
  std::string damage;
  for_each_margin(first, buffer, [&](const char* p, std::size_t n) {
    if (std::all_of(p, p + n, [](char byte) { return static_cast<unsigned char>(byte) == kGuard; })) return;
    damage = std::string(p < start ? "written before the start" : "written past the end") + " of a buffer of " +
             std::to_string(buffer.bytes) + " bytes (" + buffer.made + ")";
  });
  // The pages go back to the system, the addresses stay taken.
  mmap(buffer.map, buffer.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (!buffer.ending) in_use -= buffer.bytes;
  buffers.erase(it);
  return damage;
}

Buffer* Device::find(const void* pointer, std::size_t bytes) {
  const auto* const p = static_cast<const char*>(pointer);
  auto it = buffers.upper_bound(p);
  if (it == buffers.begin()) return nullptr;
  --it;
  const std::size_t offset = static_cast<std::size_t>(p - it->first);
  if (offset > it->second.bytes || bytes > it->second.bytes - offset) return nullptr;
  return &it->second;
}

bool Device::touches_device(const void* pointer, std::size_t bytes) const {
  const auto* const p = static_cast<const char*>(pointer);
  const auto it = past.lower_bound(p + bytes);
  if (it == past.begin()) return false;
  const auto before = std::prev(it);
  return before->first + before->second > p;
}

std::string Device::argument_mistake(const void* pointer) const {
  const auto* const p = static_cast<const char*>(pointer);
  if (p == nullptr) return "";
  auto it = buffers.upper_bound(p);
  if (it != buffers.begin() && p <= std::prev(it)->first + std::prev(it)->second.bytes) {
    return std::prev(it)->second.begun ? "" : "a kernel was given memory whose cudaMallocAsync has not run";
  }
  const auto host = host_buffers.upper_bound(const_cast<char*>(p));
  if (host != host_buffers.begin() && p <= static_cast<char*>(std::prev(host)->first) + std::prev(host)->second) return "";
  return touches_device(p, 1) ? "a kernel was given memory that is freed" : "a kernel was given a pointer to host memory";
}

Device::Nearest Device::nearest(const char* address) const {
  // Up to a page before and behind the pages of a buffer nothing else lies.
  auto range = past.upper_bound(address + page());
  if (range == past.begin()) return {};
  --range;
  const bool near = address < range->first + range->second + page();
  if (!near) return {};
  const auto it = buffers.lower_bound(range->first);
  if (it == buffers.end() || it->second.map != range->first) return {true, "device memory that is freed"};
  const std::string state = it->second.begun ? "" : ", before the cudaMallocAsync has run";
  return {true, "byte " + std::to_string(address - it->first) + " of a device buffer of " + std::to_string(it->second.bytes) +
                    " bytes (" + it->second.made + state + ")"};
}

}  // namespace espalier::fake
