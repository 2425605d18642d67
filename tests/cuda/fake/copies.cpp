// Copies and fills of the fake: direction, pitch and range are checked twice, when they are enqueued and when they run.
// SPDX-License-Identifier: Apache-2.0
//
// Host memory is read and written when the copy runs, not when it is enqueued: right for pinned memory, and for pageable
// memory the latest moment that the runtime's rules allow ("API synchronization behavior" of the runtime's manual).
#include "fake/device.hpp"

#include <cstring>
#include <stdexcept>

using espalier::fake::Call;
using espalier::fake::Device;
using espalier::fake::device;

namespace {

struct Block {  // height rows of width bytes
  std::size_t width, height, pitch;
  std::size_t span() const { return (height - 1) * pitch + width; }
};

enum class Side { host, device, broken };
Side side_of(const void* pointer, std::size_t bytes) {
  const auto* const buffer = device().find(pointer, bytes);
  if (buffer != nullptr) return buffer->ending ? Side::broken : Side::device;
  return device().touches_device(pointer, bytes) ? Side::broken : Side::host;
}

bool agrees(Side to, Side from, cudaMemcpyKind kind) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return to == Side::host && from == Side::host;
    case cudaMemcpyHostToDevice:
      return to == Side::device && from == Side::host;
    case cudaMemcpyDeviceToHost:
      return to == Side::host && from == Side::device;
    case cudaMemcpyDeviceToDevice:
      return to == Side::device && from == Side::device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

void check_alive(const void* pointer, std::size_t bytes, bool was_device, const char* what) {
  if (was_device && device().find(pointer, bytes) == nullptr) {
    throw std::runtime_error(std::string(what) + " of " + std::to_string(bytes) + " bytes: the buffer was freed before it ran");
  }
}

cudaError_t copy(const char* name, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                 std::size_t height, cudaMemcpyKind kind, cudaStream_t stream, bool wait) {
  Call call(name, cudaErrorUnknown);
  if (call.refused()) return call.give();
  Device& d = device();
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  if (width > to_pitch || width > from_pitch) return call.give(cudaErrorInvalidPitchValue, "rows are wider than the pitch");
  if (width > 0 && height > 0) {
    const Block target{width, height, to_pitch}, source{width, height, from_pitch};
    const Side to_side = side_of(to, target.span()), from_side = side_of(from, source.span());
    if (to_side == Side::broken || from_side == Side::broken) {
      return call.give(cudaErrorInvalidValue, std::string(name) + (to_side == Side::broken ? " to " : " from ") +
                                                  "memory that is freed or does not lie in one device buffer");
    }
    if (!agrees(to_side, from_side, kind)) {
      const auto words = [](Side s) { return s == Side::host ? "host" : "device"; };
      return call.give(cudaErrorInvalidValue, std::string(name) + " from " + words(from_side) + " to " + words(to_side) +
                                                  " memory, its kind says otherwise");
    }
    d.enqueue(stream, [=] {
      check_alive(to, target.span(), to_side == Side::device, "copy to device memory");
      check_alive(from, source.span(), from_side == Side::device, "copy from device memory");
      for (std::size_t row = 0; row < height; ++row) {
        std::memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
      }
    });
  }
  if (wait) d.drain(d.stream_of(stream));
  return call.give(d.sticky.empty() ? cudaSuccess : cudaErrorLaunchFailure);
}

cudaError_t fill(const char* name, void* pointer, std::size_t pitch, int value, std::size_t width, std::size_t height,
                 cudaStream_t stream) {
  Call call(name, cudaErrorUnknown);
  if (call.refused()) return call.give();
  Device& d = device();
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  if (width > pitch) return call.give(cudaErrorInvalidPitchValue, "rows are wider than the pitch");
  if (width == 0 || height == 0) return call.give(cudaSuccess);
  const Block target{width, height, pitch};
  if (side_of(pointer, target.span()) != Side::device) {
    return call.give(cudaErrorInvalidValue, std::string(name) + " of memory that does not lie in one device buffer");
  }
  d.enqueue(stream, [=] {
    check_alive(pointer, target.span(), true, name);
    for (std::size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(pointer) + row * pitch, value, width);
  });
  return call.give(cudaSuccess);
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy("cudaMemcpyAsync", to, bytes, from, bytes, bytes, 1, kind, stream, false);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return copy("cudaMemcpy", to, bytes, from, bytes, bytes, 1, kind, nullptr, true);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  return copy("cudaMemcpy2DAsync", to, to_pitch, from, from_pitch, width, height, kind, stream, false);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  return copy("cudaMemcpy2D", to, to_pitch, from, from_pitch, width, height, kind, nullptr, true);
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  return fill("cudaMemsetAsync", pointer, bytes, value, bytes, 1, stream);
}
cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  return fill("cudaMemset", pointer, bytes, value, bytes, 1, nullptr);
}
cudaError_t cudaMemset2DAsync(void* pointer, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  return fill("cudaMemset2DAsync", pointer, pitch, value, width, height, stream);
}

}  // extern "C"
