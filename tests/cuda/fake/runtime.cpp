// The fake CUDA runtime: errors, counting, devices, allocation, copies, launches.
// SPDX-License-Identifier: Apache-2.0
#include "emulation/block.hpp"
#include "emulation/kernel_language.hpp"
#include "fake/control.hpp"
#include "fake/device.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace espalier::fake {

namespace {

struct ErrorWords {
  cudaError_t error;
  const char* name;
  const char* text;
};
// The runtime's own words.
constexpr ErrorWords kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

long long number_in_environment() {
  const char* const text = std::getenv("FAKE_CUDA_FAIL");
  return text == nullptr ? 0 : std::atoll(text);
}

void report_at_exit() {
  const std::string left = device().leaks(), error = device().sticky;
  if (left.empty() && error.empty()) return;
  if (!error.empty()) std::fprintf(stderr, "fake CUDA: an error that nobody forgot: %s\n", error.c_str());
  if (!left.empty()) std::fprintf(stderr, "fake CUDA: left at the end of the program:\n%s", left.c_str());
  std::fflush(stdout);
  std::fflush(stderr);
  std::_Exit(99);
}

// Registered before the constructors of the program's own objects, so that it runs after their destructors.
__attribute__((constructor(101))) void watch_the_end() {
  std::atexit(report_at_exit);
}

}  // namespace

Device& device() {
  static Device* const d = [] {
    auto* const made = new Device;
    made->fail_at = number_in_environment();
    return made;
  }();
  return *d;
}

std::string Device::leaks() const {
  std::string text;
  for (const auto& [start, b] : buffers) {
    text +=
        "  device buffer of " + std::to_string(b.bytes) + " bytes, " + b.made + (b.ending ? ", its free has not run\n" : "\n");
  }
  for (const auto& [start, bytes] : host_buffers) text += "  pinned host buffer of " + std::to_string(bytes) + " bytes\n";
  for (const auto& [handle, plan] : plans) text += "  plan " + std::to_string(handle) + ": " + plan.words() + "\n";
  for (const auto& s : streams) text += "  stream, " + std::to_string(s->queue.size()) + " pieces of work waiting\n";
  for (std::size_t e = 0; e < events.size(); ++e) text += "  event\n";
  return text;
}

Call::Call(const char* name, cudaError_t injected) : lock_(device().mutex) {
  Device& d = device();
  ++d.calls;
  if (d.device_count == 0) {
    error_ = cudaErrorNoDevice;
  } else if (!d.sticky.empty()) {
    error_ = cudaErrorLaunchFailure;
  } else if (d.fail_at > 0 && --d.fail_at == 0) {
    d.failed = name;
    error_ = injected;
  }
}

cudaError_t Call::give(cudaError_t error, const std::string& detail) {
  if (error == cudaSuccess) return error;
  device().last = error;
  device().detail = detail;
  return error;
}

Memory memory() {
  const std::lock_guard lock(device().mutex);
  return {device().in_use, device().peak, device().buffers.size()};
}
void reset_peak() {
  const std::lock_guard lock(device().mutex);
  device().peak = device().in_use;
}
void set_memory_limit(std::size_t bytes) {
  device().limit = bytes;
}
long long calls() {
  return device().calls;
}
void fail_call(long long n) {
  device().fail_at = n;
}
std::string failed_call() {
  return device().failed;
}
void set_device_count(int count) {
  device().device_count = count;
}
std::string leaks() {
  return device().leaks();
}
std::string device_error() {
  return device().sticky;
}

void reset() {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (!d.sticky.empty()) d.drain_all();  // with an error that stays, work is dropped, not run
  d.sticky.clear();
  d.detail.clear();
  d.failed.clear();
  d.last = cudaSuccess;
  d.limit = 0;
  d.fail_at = 0;
  d.device_count = 1;
  d.peak = d.in_use;
}

}  // namespace espalier::fake

using namespace espalier::fake;

extern "C" {

cudaError_t cudaGetLastError() {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (!d.sticky.empty()) return cudaErrorLaunchFailure;
  return std::exchange(d.last, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  return d.sticky.empty() ? d.last : cudaErrorLaunchFailure;
}
const char* cudaGetErrorName(cudaError_t error) {
  for (const auto& words : kErrors) {
    if (words.error == error) return words.name;
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  for (const auto& words : kErrors) {
    if (words.error != error) continue;
    const std::string& more = error == cudaErrorLaunchFailure ? d.sticky : error == d.last ? d.detail : std::string();
    if (error == cudaSuccess || more.empty()) return words.text;
    // The runtime's texts live for ever, and so do these.
    static auto* const kept = new std::map<std::string, int>;
    return kept->emplace(std::string(words.text) + ": " + more, 0).first->first.c_str();
  }
  return "unrecognized error code";
}

cudaError_t cudaGetDeviceCount(int* count) {
  Call call("cudaGetDeviceCount", cudaErrorInitializationError);
  *count = 0;
  if (call.refused()) return call.give();
  *count = device().device_count;
  return call.give(cudaSuccess);
}
cudaError_t cudaGetDevice(int* number) {
  Call call("cudaGetDevice", cudaErrorInitializationError);
  if (!call.refused()) *number = 0;
  return call.give();
}
cudaError_t cudaSetDevice(int number) {
  Call call("cudaSetDevice", cudaErrorInitializationError);
  if (call.refused()) return call.give();
  return call.give(number >= 0 && number < device().device_count ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int* version) {
  Call call("cudaDriverGetVersion", cudaErrorUnknown);
  if (!call.refused()) *version = 13000;
  return call.give();
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  Call call("cudaRuntimeGetVersion", cudaErrorUnknown);
  if (!call.refused()) *version = 13000;
  return call.give();
}

// An A100 (CUDA C++ Programming Guide, "Compute Capabilities": 8.0).
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  namespace emu = espalier::emulation;
  Call call("cudaDeviceGetAttribute", cudaErrorUnknown);
  if (call.refused()) return call.give();
  if (number != 0) return call.give(cudaErrorInvalidDevice);
  switch (static_cast<int>(attribute)) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      *value = emu::kMaxThreads;
      break;
    case cudaDevAttrMaxBlockDimZ:
      *value = emu::kMaxBlockZ;
      break;
    case cudaDevAttrMaxGridDimX:
      *value = emu::kMaxGridX;
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = emu::kMaxGridYZ;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = emu::kDefaultShared;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emu::kOptInShared;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 164 * 1024;
      break;
    case cudaDevAttrWarpSize:
      *value = emu::kWarp;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 108;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    default:
      return call.give(cudaErrorInvalidValue, "the fake does not know this attribute");
  }
  return call.give(cudaSuccess);
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Call call("cudaMalloc", cudaErrorMemoryAllocation);
  if (call.refused()) return call.give();
  if (pointer == nullptr || bytes == 0) return call.give(cudaErrorInvalidValue, "cudaMalloc of 0 bytes");
  *pointer = device().allocate(bytes, "cudaMalloc, call " + std::to_string(device().calls), true);
  return call.give(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

// The memory exists in stream order: before its place in the stream is reached nobody can touch it.
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  Call call("cudaMallocAsync", cudaErrorMemoryAllocation);
  if (call.refused()) return call.give();
  Device& d = device();
  if (pointer == nullptr || bytes == 0) return call.give(cudaErrorInvalidValue, "cudaMallocAsync of 0 bytes");
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  char* const start = d.allocate(bytes, "cudaMallocAsync, call " + std::to_string(d.calls), false);
  if (start == nullptr) return call.give(cudaErrorMemoryAllocation);
  d.enqueue(stream, [start] { device().begin_buffer(start); });
  *pointer = start;
  return call.give(cudaSuccess);
}

// Waits for the whole device, as the real one does.
cudaError_t cudaFree(void* pointer) {
  Call call("cudaFree", cudaErrorUnknown);
  Device& d = device();
  if (pointer == nullptr) return call.give();
  d.drain_all();
  const auto it = d.buffers.find(static_cast<const char*>(pointer));
  if (it == d.buffers.end() || it->second.ending)
    return call.give(cudaErrorInvalidValue, "cudaFree of what is no device buffer");
  const std::string damage = d.release(it->first);
  if (!damage.empty()) d.fail_for_good(damage);
  return call.give(d.sticky.empty() ? call.error() : cudaErrorLaunchFailure);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  Call call("cudaFreeAsync", cudaErrorUnknown);
  Device& d = device();
  if (pointer == nullptr) return call.give();
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  const auto it = d.buffers.find(static_cast<const char*>(pointer));
  if (it == d.buffers.end() || it->second.ending) {
    return call.give(cudaErrorInvalidValue, "cudaFreeAsync of what is no device buffer");
  }
  if (!d.sticky.empty()) {  // nothing runs any more
    d.release(it->first);
    return call.give(cudaErrorLaunchFailure);
  }
  // From here on the bytes can be given out again on this stream.
  it->second.ending = true;
  d.in_use -= it->second.bytes;
  const char* const start = it->first;
  d.enqueue(stream, [start] {
    const std::string damage = device().release(start);
    if (!damage.empty()) device().fail_for_good(damage);
  });
  return call.give();
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  Call call("cudaHostAlloc", cudaErrorMemoryAllocation);
  if (call.refused()) return call.give();
  *pointer = std::malloc(bytes);
  if (*pointer == nullptr) return call.give(cudaErrorMemoryAllocation);
  std::memset(*pointer, 0xff, bytes);
  device().host_buffers[*pointer] = bytes;
  return call.give(cudaSuccess);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}
cudaError_t cudaFreeHost(void* pointer) {
  Call call("cudaFreeHost", cudaErrorUnknown);
  device().drain_all();
  if (pointer == nullptr) return call.give();
  if (device().host_buffers.erase(pointer) == 0)
    return call.give(cudaErrorInvalidValue, "cudaFreeHost of what is no host buffer");
  std::free(pointer);
  return call.give();
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Call call("cudaMemGetInfo", cudaErrorUnknown);
  if (call.refused()) return call.give();
  *total_bytes = device().limit > 0 ? device().limit : std::size_t{40} << 30;
  *free_bytes = *total_bytes - device().in_use;
  return call.give(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Call call("cudaFuncSetAttribute", cudaErrorUnknown);
  if (call.refused()) return call.give();
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return call.give(cudaSuccess);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > espalier::emulation::kOptInShared) {
    return call.give(cudaErrorInvalidValue, std::to_string(value) + " bytes of dynamic shared memory, at most " +
                                                std::to_string(espalier::emulation::kOptInShared) + " can be asked for");
  }
  device().shared_asked[function] = static_cast<std::size_t>(value);
  return call.give(cudaSuccess);
}

}  // extern "C"

namespace espalier::emulation {

cudaError_t enqueue(const void* kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes, cudaStream_t stream,
                    const std::vector<const void*>& pointers, std::function<void()> thread) {
  Call call("kernel launch", cudaErrorLaunchOutOfResources);
  if (call.refused()) return call.give();
  Device& d = device();
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  const auto asked = d.shared_asked.find(kernel);
  const std::size_t limit = asked == d.shared_asked.end() ? kDefaultShared : std::max(kDefaultShared, asked->second);
  const std::string mistake = launch_mistake(grid, block, dynamic_bytes, limit);
  if (!mistake.empty()) {
    return call.give(dynamic_bytes > limit ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration, mistake);
  }
  // Declared and dynamic shared memory together: 48 KB unless more was asked for, then what the chip has.
  const std::size_t whole = limit > kDefaultShared ? kOptInShared : kDefaultShared;
  d.enqueue(stream, [grid, block, dynamic_bytes, whole, pointers, thread = std::move(thread)] {
    for (const void* const pointer : pointers) {
      const std::string wrong = device().argument_mistake(pointer);
      if (!wrong.empty()) throw Error(wrong);
    }
    run(grid, block, dynamic_bytes, whole, thread);
  });
  return call.give(cudaSuccess);
}

}  // namespace espalier::emulation
