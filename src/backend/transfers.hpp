// Backend primitives between the host's memory and the backend's, and the order between streams.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include "backend/elementwise.hpp"

#include <cstdint>
#include <vector>

namespace espalier::backend {

// to[i] = from[i] for i < size, from host memory; returns when all is there. For set-up.
template <class T, class B>
void upload(const T* from, T* to, Index size);
// The same in the order of the context's stream: `from` must stay as it is until the stream has come so far.
template <class T, class B>
void upload(const T* from, T* to, Index size, const Context<B>& context);

// Memory of the backend with these numbers, converted to T. For set-up.
template <class T, class B, class U>
Buffer<T, B> uploaded(const std::vector<U>& values) {
  std::vector<T> converted(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) converted[i] = static_cast<T>(values[i]);
  Buffer<T, B> memory(static_cast<Index>(values.size()));
  upload<T, B>(converted.data(), memory.data(), memory.size());
  return memory;
}

// A point in one stream's work that other streams wait for. On the host a call's work is done when it returns.
template <class B>
class Mark {
 public:
  Mark();
  ~Mark();  // NOLINT(performance-trivially-destructible): on a device it frees an event
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  void record(const Context<B>& context);
  // Work that is enqueued on the context's stream from here on runs after the point recorded.
  void wait(const Context<B>& context) const;

 private:
  void* event_ = nullptr;
};

// out_r (+)= sum_p weight[p] x[index[p]], start[r] <= p < start[r + 1], r < rows; no weights: 1.
struct SumRows {
  std::vector<std::int32_t> start{0}, index;
  std::vector<double> weight;
  Index rows() const { return static_cast<Index>(start.size()) - 1; }
};
// The same rows in the backend's memory; `host` must outlive the upload.
template <class B>
struct PlacedRows {
  PlacedRows(const SumRows& host, const Context<B>& context);
  Index rows;
  Buffer<std::int32_t, B> start, index;
  Buffer<double, B> weight;
};
// Sums in double, in a fixed order. In, Out: float or double.
template <class In, class Out, class B>
void sum_rows(const PlacedRows<B>& rows, const In* x, Out* out, bool add, const Context<B>& context);

}  // namespace espalier::backend
