// Shortlists of the exact top-k search: the best candidates of each query so far, and the threshold a new one must reach.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/views.hpp>

#include "backend/elementwise.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace espalier::backend {

template <class T>
struct Candidate {
  T score;
  std::int32_t key;
};
template <class T>
bool better(const Candidate<T>& a, const Candidate<T>& b) {
  return a.score > b.score || (a.score == b.score && a.key < b.key);
}

// For each query of a block an unsorted list that holds its k best candidates among others. When a list is full it is cut
// back to k, and the threshold becomes the smallest score above the k-th best: keys come in ascending order, so an equal
// score loses its tie. The threshold only filters; the order of `better` decides.
template <class T>
class TopKLists {
 public:
  // `lanes` queries; those from `limits.size` on never accept anything. keys: how many candidates a query can see.
  TopKLists(Index lanes, VectorView<const Index, Cpu> limits, Index keys)
      : limits_(limits),
        capacity_(capacity(limits, keys)),
        storage_((lanes * capacity_ * element + 7) / 8),
        sizes_(lanes),
        thresholds_(lanes) {
    for (Index i = 0; i < lanes; ++i) {
      sizes_.data()[i] = 0;
      thresholds_.data()[i] = (i < limits.size && limits[i] > 0 ? -1 : 1) * std::numeric_limits<T>::infinity();
    }
  }
  // Room for one list of up to k of `keys` candidates: twice k, so that cutting back costs O(1) a candidate.
  static Index capacity(Index k, Index keys) { return std::min(std::max(2 * std::min(k, keys), k + 32), keys) + 1; }

  const T* thresholds() const { return thresholds_.data(); }
  void add(Index lane, T score, Index key) {
    if (!(score >= thresholds_.data()[lane]) || lane >= limits_.size || limits_[lane] == 0) return;
    Candidate<T>* list = candidates(lane);
    Index& size = sizes_.data()[lane];
    list[size++] = {score, static_cast<std::int32_t>(key)};
    if (size == capacity_ && size > limits_[lane]) cut(lane);
  }
  // Row `lane` of the answer.
  template <class I>
  void write(Index lane, I* indices, T* scores, Index count) {
    Candidate<T>* list = candidates(lane);
    const Index found = std::min(sizes_.data()[lane], limits_[lane]);
    std::partial_sort(list, list + found, list + sizes_.data()[lane], better<T>);
    for (Index r = 0; r < count; ++r) {
      indices[r] = r < found ? static_cast<I>(list[r].key) : I(-1);
      scores[r] = r < found ? list[r].score : -std::numeric_limits<T>::infinity();
    }
  }

 private:
  static constexpr Index element = static_cast<Index>(sizeof(Candidate<T>));
  static Index capacity(VectorView<const Index, Cpu> limits, Index keys) {
    Index most = 0;
    for (Index i = 0; i < limits.size; ++i) most = std::max(most, limits[i]);
    return capacity(most, keys);
  }
  Candidate<T>* candidates(Index lane) { return reinterpret_cast<Candidate<T>*>(storage_.data()) + lane * capacity_; }
  void cut(Index lane) {
    Candidate<T>* list = candidates(lane);
    const Index k = limits_[lane];
    std::nth_element(list, list + (k - 1), list + sizes_.data()[lane], better<T>);
    sizes_.data()[lane] = k;
    thresholds_.data()[lane] = std::nextafter(list[k - 1].score, std::numeric_limits<T>::infinity());
  }

  VectorView<const Index, Cpu> limits_;
  Index capacity_;
  Buffer<std::int64_t, Cpu> storage_, sizes_;
  Buffer<T, Cpu> thresholds_;
};

// One block of queries of one head against all of its keys.
template <class T>
struct TopKBlock {
  MatrixView<const T, Cpu> q, k;  // rows of the block; all keys that take part
  Index first_query = 0;
  bool causal = false;
  Index causal_shift = 0;
  bool exclude_self = false;
  VectorView<const Index, Cpu> limits{};  // places of each row of q
};

}  // namespace espalier::backend
