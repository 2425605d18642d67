// The fake device's state, shared by the sources of tests/cuda/fake.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <cufft.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace espalier::fake {

// Work on a stream. It runs after everything of a smaller number on its stream and after `number_before` on stream_before.
struct Work {
  std::uint64_t number = 0;
  std::function<void()> run;
  cudaStream_t stream_before = nullptr;
  std::uint64_t number_before = 0;
};

struct Buffer {
  std::size_t bytes = 0;
  char* map = nullptr;  // whole pages, a forbidden one on both sides not included
  std::size_t map_bytes = 0;
  bool begun = true;    // cudaMallocAsync: its place in the stream was reached
  bool ending = false;  // cudaFreeAsync was called
  std::string made;     // by which call
};

struct Plan {
  bool made = false, automatic = true;
  int rank = 0;
  cufftType type = CUFFT_C2C;
  long long n[3] = {1, 1, 1};
  long long batch = 1;
  // Advanced layout; basic: packed, the strides were not given.
  bool basic = true;
  long long in_embed[3] = {1, 1, 1}, out_embed[3] = {1, 1, 1};
  long long in_stride = 1, in_distance = 0, out_stride = 1, out_distance = 0;
  std::size_t work_bytes = 0;
  void* work_area = nullptr;
  cudaStream_t stream = nullptr;
  std::string words() const;
};

class Device {
 public:
  std::recursive_mutex mutex;
  std::map<const char*, Buffer> buffers;
  std::map<const char*, std::size_t> past;  // every range that was device memory once
  std::map<void*, std::size_t> host_buffers;
  std::vector<std::unique_ptr<CUstream_st>> streams;
  std::map<cudaEvent_t, std::unique_ptr<CUevent_st>> events;
  std::map<cufftHandle, Plan> plans;
  std::map<const void*, std::size_t> shared_asked;  // kernel -> dynamic shared memory it may have
  cufftHandle next_plan = 1;
  std::size_t in_use = 0, peak = 0, limit = 0;
  long long calls = 0, fail_at = 0;
  std::string failed;
  int device_count = 1;
  cudaError_t last = cudaSuccess;
  std::string sticky, detail;  // detail: what cudaGetErrorString adds to the last error
  int open_depth = 0;

  // Memory (memory.cpp). Null: no memory, or beyond the limit.
  char* allocate(std::size_t bytes, const std::string& made, bool begun);
  // Empty, or what was overwritten outside the buffer.
  std::string release(const char* start);
  void begin_buffer(const char* start);
  void protect(const char* start, const Buffer& buffer);
  Buffer* find(const void* pointer, std::size_t bytes);  // the buffer that holds the whole range
  bool touches_device(const void* pointer, std::size_t bytes) const;
  // Empty if a kernel may be given this address: null, pinned host memory, or in a live device buffer or at its end.
  std::string argument_mistake(const void* pointer) const;
  struct Nearest {
    bool known = false;
    std::string words;  // "byte 16 of a device buffer of 12 bytes (cudaMalloc, call 3)"
  };
  Nearest nearest(const char* address) const;

  // Streams (streams.cpp).
  CUstream_st& stream_of(cudaStream_t stream);
  bool known(cudaStream_t stream) const;
  void enqueue(cudaStream_t stream, std::function<void()> work);
  void run_next(CUstream_st& stream);
  void run_until(CUstream_st& stream, std::uint64_t number);
  void drain(CUstream_st& stream);
  void drain_all();
  void fail_for_good(const std::string& what);

  std::string leaks() const;
};

// Until somebody else takes the signal, a fault at an address of device memory is explained on stderr.
void watch_faults();

// Never destroyed: objects of the program may be released after main.
Device& device();

// Device memory is reachable while one of these lives.
class Open {
 public:
  Open();
  ~Open();
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
};

// One call of the interface: holds the lock, counts, decides whether it has to fail. A releasing call does its work first.
class Call {
 public:
  Call(const char* name, cudaError_t injected);
  bool refused() const { return error_ != cudaSuccess; }
  cudaError_t error() const { return error_; }
  // The result of the call; errors are remembered for cudaGetLastError.
  cudaError_t give(cudaError_t error, const std::string& detail = "");
  cudaError_t give() { return give(error_); }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace espalier::fake

struct CUstream_st {
  unsigned flags = 0;
  std::deque<espalier::fake::Work> queue;
};
struct CUevent_st {
  bool recorded = false;
  cudaStream_t stream = nullptr;
  std::uint64_t number = 0;  // of the record in its stream's order
};
