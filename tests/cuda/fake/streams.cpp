// Streams and events of the fake: queues that move only when somebody synchronises.
// SPDX-License-Identifier: Apache-2.0
//
// Order, from the CUDA C++ Programming Guide ("Streams", "Default Stream"): work of one stream in order; the default stream
// waits for what the blocking streams were given before and they wait for it; non-blocking streams wait for nobody. All else
// is unordered, and what nobody waits for does not run.
#include "fake/device.hpp"

#include <exception>

namespace espalier::fake {

namespace {

CUstream_st& default_stream() {
  static auto* const stream = new CUstream_st;
  return *stream;
}
std::uint64_t next_number = 1;

}  // namespace

bool Device::known(cudaStream_t stream) const {
  if (stream == nullptr) return true;
  for (const auto& s : streams) {
    if (s.get() == stream) return true;
  }
  return false;
}

CUstream_st& Device::stream_of(cudaStream_t stream) {
  return stream == nullptr ? default_stream() : *stream;
}

void Device::enqueue(cudaStream_t stream, std::function<void()> work) {
  Work item;
  item.number = next_number++;
  item.run = std::move(work);
  stream_of(stream).queue.push_back(std::move(item));
}

void Device::fail_for_good(const std::string& what) {
  if (sticky.empty()) sticky = what;
}

void Device::run_next(CUstream_st& stream) {
  const std::uint64_t number = stream.queue.front().number;
  if (&stream == &default_stream()) {
    for (const auto& other : streams) {
      if ((other->flags & cudaStreamNonBlocking) == 0) run_until(*other, number);
    }
  } else if ((stream.flags & cudaStreamNonBlocking) == 0) {
    run_until(default_stream(), number);
  }
  const Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  // A stream that was destroyed meanwhile has done all its work.
  if (work.number_before > 0 && known(work.stream_before)) run_until(stream_of(work.stream_before), work.number_before + 1);
  if (!work.run || !sticky.empty()) return;
  const Open open;
  try {
    work.run();
  } catch (const std::exception& e) {
    fail_for_good(e.what());
  }
}

void Device::run_until(CUstream_st& stream, std::uint64_t number) {
  if (stream.queue.empty()) return;
  const Open open;  // once for all: it costs two system calls a buffer
  while (!stream.queue.empty() && stream.queue.front().number < number) run_next(stream);
}
void Device::drain(CUstream_st& stream) {
  run_until(stream, next_number);
}
void Device::drain_all() {
  for (std::size_t s = 0; s < streams.size(); ++s) drain(*streams[s]);
  drain(default_stream());
}

}  // namespace espalier::fake

using espalier::fake::Call;
using espalier::fake::Device;
using espalier::fake::device;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Call call("cudaStreamCreateWithFlags", cudaErrorMemoryAllocation);
  if (call.refused()) return call.give();
  if (stream == nullptr || flags > cudaStreamNonBlocking) return call.give(cudaErrorInvalidValue);
  device().streams.push_back(std::make_unique<CUstream_st>());
  *stream = device().streams.back().get();
  (*stream)->flags = flags;
  return call.give(cudaSuccess);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Call call("cudaStreamDestroy", cudaErrorUnknown);
  Device& d = device();
  if (stream == nullptr || !d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  d.drain(*stream);
  std::erase_if(d.streams, [stream](const auto& s) { return s.get() == stream; });
  return call.give();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Call call("cudaStreamSynchronize", cudaErrorUnknown);
  Device& d = device();
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  d.drain(d.stream_of(stream));
  return call.give(d.sticky.empty() ? call.error() : cudaErrorLaunchFailure);
}

cudaError_t cudaDeviceSynchronize() {
  Call call("cudaDeviceSynchronize", cudaErrorUnknown);
  device().drain_all();
  return call.give(device().sticky.empty() ? call.error() : cudaErrorLaunchFailure);
}

// A question moves the stream by one piece of work, so that a loop of questions ends.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Call call("cudaStreamQuery", cudaErrorUnknown);
  if (call.refused()) return call.give();
  Device& d = device();
  if (!d.known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  auto& s = d.stream_of(stream);
  if (s.queue.empty()) return call.give(cudaSuccess);
  d.run_next(s);
  return cudaErrorNotReady;  // no error, so not remembered
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Call call("cudaStreamIsCapturing", cudaErrorUnknown);
  if (call.refused()) return call.give();
  if (!device().known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  *status = cudaStreamCaptureStatusNone;
  return call.give(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* user_data) {
  Call call("cudaLaunchHostFunc", cudaErrorUnknown);
  if (call.refused()) return call.give();
  if (!device().known(stream)) return call.give(cudaErrorInvalidResourceHandle, "no such stream");
  device().enqueue(stream, [function, user_data] { function(user_data); });
  return call.give(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  Call call("cudaEventCreateWithFlags", cudaErrorMemoryAllocation);
  if (call.refused()) return call.give();
  auto made = std::make_unique<CUevent_st>();
  *event = made.get();
  device().events[*event] = std::move(made);
  return call.give(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Call call("cudaEventDestroy", cudaErrorUnknown);
  if (device().events.erase(event) == 0) return call.give(cudaErrorInvalidResourceHandle, "no such event");
  return call.give();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Call call("cudaEventRecord", cudaErrorUnknown);
  if (call.refused()) return call.give();
  Device& d = device();
  if (!d.known(stream) || d.events.count(event) == 0)
    return call.give(cudaErrorInvalidResourceHandle, "no such event or stream");
  d.enqueue(stream, nullptr);
  *event = {true, stream, d.stream_of(stream).queue.back().number};
  return call.give(cudaSuccess);
}

// Waits for the record made last before this call; an event never recorded is waited for by nobody.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Call call("cudaStreamWaitEvent", cudaErrorUnknown);
  if (call.refused()) return call.give();
  Device& d = device();
  if (!d.known(stream) || d.events.count(event) == 0)
    return call.give(cudaErrorInvalidResourceHandle, "no such event or stream");
  if (!event->recorded) return call.give(cudaSuccess);
  d.enqueue(stream, nullptr);
  auto& work = d.stream_of(stream).queue.back();
  work.stream_before = event->stream;
  work.number_before = event->number;
  return call.give(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Call call("cudaEventSynchronize", cudaErrorUnknown);
  Device& d = device();
  if (d.events.count(event) == 0) return call.give(cudaErrorInvalidResourceHandle, "no such event");
  if (event->recorded && d.known(event->stream)) d.run_until(d.stream_of(event->stream), event->number + 1);
  return call.give(d.sticky.empty() ? call.error() : cudaErrorLaunchFailure);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Call call("cudaEventQuery", cudaErrorUnknown);
  if (call.refused()) return call.give();
  Device& d = device();
  if (d.events.count(event) == 0) return call.give(cudaErrorInvalidResourceHandle, "no such event");
  if (!event->recorded || !d.known(event->stream)) return call.give(cudaSuccess);
  auto& s = d.stream_of(event->stream);
  if (s.queue.empty() || s.queue.front().number > event->number) return call.give(cudaSuccess);
  d.run_next(s);
  return cudaErrorNotReady;
}

}  // extern "C"
