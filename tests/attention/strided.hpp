// Tensors of the attention tests: random numbers in a chosen memory order, with guarded gaps between rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/random.hpp>
#include <espalier/core/views.hpp>

#include <cstring>
#include <limits>
#include <vector>

namespace espalier::test {

enum class Order { bhld, blhd };

// [B, H, L, D] with 3 elements of gap after every row (bhld) or every token (blhd), filled with NaN: a kernel that lets a gap
// matter gives NaN, and one that writes into a gap is caught by `gaps_intact`.
template <class T>
class Strided {
 public:
  Strided() = default;
  Strided(Index b, Index h, Index l, Index d, Order order = Order::bhld) {
    const Index row = order == Order::bhld ? d + 3 : h * d + 3;
    storage_.assign(static_cast<std::size_t>(b * (order == Order::bhld ? h : 1) * l * row + 1), gap());
    view_ = TensorView<T>(storage_.data(), b, h, l, d);
    view_.strides[2] = row;
    view_.strides[1] = order == Order::bhld ? l * row : d;
    view_.strides[0] = order == Order::bhld ? h * l * row : l * row;
    fill(T(0));
  }
  Strided(const Strided& other) : storage_(other.storage_), view_(other.view_) { view_.data = storage_.data(); }
  Strided& operator=(const Strided& other) {
    storage_ = other.storage_;
    view_ = other.view_;
    view_.data = storage_.data();
    return *this;
  }

  TensorView<T> view() const { return view_; }
  operator TensorView<T>() const { return view_; }
  operator TensorView<const T>() const { return view_; }
  T& operator()(Index b, Index h, Index l, Index d) const {
    return view_.data[b * view_.strides[0] + h * view_.strides[1] + l * view_.strides[2] + d];
  }
  template <class F>
  void each(const F& f) const {
    for (Index b = 0; b < view_.sizes[0]; ++b) {
      for (Index h = 0; h < view_.sizes[1]; ++h) {
        for (Index l = 0; l < view_.sizes[2]; ++l) {
          for (Index d = 0; d < view_.sizes[3]; ++d) f(b, h, l, d);
        }
      }
    }
  }
  void fill(T value) {
    each([&](Index b, Index h, Index l, Index d) { (*this)(b, h, l, d) = value; });
  }
  void randomise(std::uint64_t seed, double size = 1) {
    const Random r(seed);
    std::uint64_t at = 0;
    each([&](Index b, Index h, Index l, Index d) { (*this)(b, h, l, d) = static_cast<T>(size * r.normal(at++)); });
  }
  bool gaps_intact() const {
    std::vector<T> copy = storage_;
    each([&](Index b, Index h, Index l, Index d) {
      copy[static_cast<std::size_t>(&(*this)(b, h, l, d) - storage_.data())] = gap();
    });
    for (const T& x : copy) {
      const T g = gap();
      if (std::memcmp(&x, &g, sizeof(T)) != 0) return false;
    }
    return true;
  }
  // The same bits in every element and gap.
  bool same(const Strided& other) const {
    return storage_.size() == other.storage_.size() &&
           std::memcmp(storage_.data(), other.storage_.data(), storage_.size() * sizeof(T)) == 0;
  }

 private:
  static T gap() {
    if constexpr (std::numeric_limits<T>::has_quiet_NaN) return std::numeric_limits<T>::quiet_NaN();
    return T(-77);
  }
  mutable std::vector<T> storage_;
  TensorView<T> view_;
};

// Values in another precision, in plain order.
template <class To, class From>
Strided<To> converted(const Strided<From>& x) {
  const auto v = x.view();
  Strided<To> r(v.sizes[0], v.sizes[1], v.sizes[2], v.sizes[3]);
  x.each([&](Index b, Index h, Index l, Index d) { r(b, h, l, d) = static_cast<To>(x(b, h, l, d)); });
  return r;
}

}  // namespace espalier::test
