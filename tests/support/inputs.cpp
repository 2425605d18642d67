// Inputs and guards.
// SPDX-License-Identifier: Apache-2.0
#include "support/inputs.hpp"

#include <espalier/core/random.hpp>

#include <cmath>
#include <cstring>
#include <limits>

namespace espalier::test {

std::string name_of(InputKind kind) {
  switch (kind) {
    case InputKind::positive:
      return "positive";
    case InputKind::with_signs:
      return "signed";
    case InputKind::alternating:
      return "alternating";
    case InputKind::spike:
      return "spike";
    case InputKind::log_normal:
      return "log-normal";
  }
  return "?";
}

template <class T>
Guarded<T>::Guarded(Index rows, Index cols, Index gap)
    : rows_(rows), cols_(cols), gap_(gap), storage_(static_cast<std::size_t>(2 * margin + rows * (cols + gap)), guard_) {
  set(dense_matrix(rows, cols, [](Index, Index) { return std::numeric_limits<double>::quiet_NaN(); }));
}

template <class T>
DenseMatrix Guarded<T>::column() const {
  DenseMatrix r = dense();
  r.rows = rows_ * cols_;
  r.cols = 1;
  return r;
}

template <class T>
void Guarded<T>::set(const DenseMatrix& values) {
  for (Index i = 0; i < rows_; ++i) {
    for (Index j = 0; j < cols_; ++j) view()(i, j) = static_cast<T>(values(i, j));
  }
}

template <class T>
bool Guarded<T>::is_element(Index position) const {
  const Index p = position - margin;
  return p >= 0 && p < rows_ * (cols_ + gap_) && p % (cols_ + gap_) < cols_;
}

template <class T>
void Guarded<T>::poison() {
  guard_ = std::numeric_limits<T>::quiet_NaN();
  for (std::size_t p = 0; p < storage_.size(); ++p) {
    if (!is_element(static_cast<Index>(p))) storage_[p] = guard_;
  }
}

template <class T>
bool Guarded<T>::intact() const {
  for (std::size_t p = 0; p < storage_.size(); ++p) {
    if (!is_element(static_cast<Index>(p)) && std::memcmp(&storage_[p], &guard_, sizeof(T)) != 0) return false;
  }
  return true;
}

template <class T>
bool Guarded<T>::same_bits(const Guarded& other) const {
  return storage_.size() == other.storage_.size() &&
         std::memcmp(storage_.data(), other.storage_.data(), storage_.size() * sizeof(T)) == 0;
}

template <class T>
Guarded<T> make_input(Index rows, Index cols, InputKind kind, std::uint64_t seed, Index gap) {
  const Random random(seed, static_cast<std::uint64_t>(kind));
  Guarded<T> r(rows, cols, gap);
  r.set(dense_matrix(rows, cols, [&](Index i, Index j) {
    const auto p = static_cast<std::uint64_t>(2 * (i * cols + j));
    switch (kind) {
      case InputKind::positive:
        return random.uniform(p);
      case InputKind::with_signs:
        return random.normal(p);
      case InputKind::alternating:
        return (i % 2 == 0 ? 1 : -1) * (1 + 0.01 * random.uniform(p));
      case InputKind::spike:
        return i == rows / 2 ? 1 + random.uniform(p) : 0.0;
      case InputKind::log_normal:
        return (random.uniform(p + 1) < 0.5 ? -1 : 1) * std::exp(1.5 * random.normal(p));
    }
    return 0.0;
  }));
  return r;
}

template class Guarded<float>;
template class Guarded<double>;
template Guarded<float> make_input(Index, Index, InputKind, std::uint64_t, Index);
template Guarded<double> make_input(Index, Index, InputKind, std::uint64_t, Index);

}  // namespace espalier::test
