// The loops between the transforms, once per instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/fft_kernels.hpp"

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/fft_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The baseline of this Highway has vectors of one lane, which hold no complex number: there the plain loops at the end of each
// function do all the work.
#if HWY_TARGET != HWY_SCALAR
template <class T>
using Wide = hn::ScalableTag<T>;
template <class T>
HWY_INLINE Index lanes() {
  return static_cast<Index>(hn::Lanes(Wide<T>()));
}

// z w, or z conj(w), on interleaved complex numbers: the even lanes get re, the odd ones im.
template <bool kConjugate, class V>
HWY_INLINE V complex_product(V z, V w) {
  const hn::DFromV<V> d;
  const V p = hn::Mul(z, hn::DupEven(w));
  const V q = hn::Mul(hn::Reverse2(d, z), hn::DupOdd(w));
  if constexpr (kConjugate) return hn::OddEven(hn::Sub(p, q), hn::Add(p, q));
  return hn::OddEven(hn::Add(p, q), hn::Sub(p, q));
}
#endif

#if HWY_TARGET != HWY_SCALAR
// i z.
template <class V>
HWY_INLINE V times_i(V z) {
  const V turned = hn::Reverse2(hn::DFromV<V>(), z);
  return hn::OddEven(turned, hn::Neg(turned));
}
#endif

template <bool kConjugate, class T>
HWY_INLINE void complex_product_one(const T* z, const T* w, T* out) {
  const T re = z[0], im = z[1], c = w[0], s = kConjugate ? -w[1] : w[1];
  out[0] = re * c - im * s;
  out[1] = im * c + re * s;
}

#if HWY_TARGET != HWY_SCALAR
// Spreads a vector of N real factors over the N complex numbers (two vectors) that they belong to.
template <class T>
struct Spread {
  using D = Wide<T>;
  using TI = hwy::MakeSigned<T>;
  decltype(hn::SetTableIndices(D(), static_cast<const TI*>(nullptr))) low, high;
  Spread() : low(indices(0)), high(indices(lanes<T>() / 2)) {}

 private:
  static auto indices(Index first) {
    HWY_ALIGN TI at[hn::MaxLanes(D())];
    for (Index k = 0; k < lanes<T>(); ++k) at[k] = static_cast<TI>(first + k / 2);
    return hn::SetTableIndices(D(), at);
  }
};
#endif

template <class T>
void load(const T* HWY_RESTRICT x, const T* HWY_RESTRICT scale, Index n, Index h, Index stride, const T* HWY_RESTRICT w,
          T* HWY_RESTRICT line) {
  T* HWY_RESTRICT odd = line + 2 * stride;
  Index j = 0;  // complex numbers
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  const auto put = [&](Index at, auto z) HWY_ATTR {
    hn::StoreU(z, d, line + at);
    hn::StoreU(complex_product<false>(z, hn::LoadU(d, w + at)), d, odd + at);
  };
  if (scale != nullptr) {
    const Spread<T> spread;
    for (; j + step <= n; j += step) {
      const auto s = hn::LoadU(d, scale + j);
      put(2 * j, hn::Mul(hn::LoadU(d, x + 2 * j), hn::TableLookupLanes(s, spread.low)));
      put(2 * j + step, hn::Mul(hn::LoadU(d, x + 2 * j + step), hn::TableLookupLanes(s, spread.high)));
    }
  } else {
    for (; j + step <= n; j += step) {
      put(2 * j, hn::LoadU(d, x + 2 * j));
      put(2 * j + step, hn::LoadU(d, x + 2 * j + step));
    }
  }
#endif
  for (; j < n; ++j) {
    const T s = scale != nullptr ? scale[j] : T(1);
    line[2 * j] = s * x[2 * j];
    line[2 * j + 1] = s * x[2 * j + 1];
    complex_product_one<false>(line + 2 * j, w + 2 * j, odd + 2 * j);
  }
  for (Index k = 2 * n; k < 2 * h; ++k) line[k] = odd[k] = T(0);
}

template <class T>
void store(const T* HWY_RESTRICT line, Index n, Index stride, const T* HWY_RESTRICT w, T* HWY_RESTRICT x) {
  const T* HWY_RESTRICT odd = line + 2 * stride;
  Index k = 0;  // real components
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  for (; k + step <= 2 * n; k += step) {
    const auto z = complex_product<true>(hn::LoadU(d, odd + k), hn::LoadU(d, w + k));
    hn::StoreU(hn::Add(hn::LoadU(d, line + k), z), d, x + k);
  }
#endif
  for (; k < 2 * n; k += 2) {
    T z[2];
    complex_product_one<true>(odd + k, w + k, z);
    x[k] = line[k] + z[0];
    x[k + 1] = line[k + 1] + z[1];
  }
}

template <class T>
void add_stored(const T* HWY_RESTRICT line, Index n, Index stride, const T* HWY_RESTRICT w, const T* HWY_RESTRICT scale,
                T* HWY_RESTRICT x) {
  const T* HWY_RESTRICT odd = line + 2 * stride;
  Index j = 0;  // complex numbers
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  const Spread<T> spread;
  const auto add = [&](Index at, auto s) HWY_ATTR {
    const auto z = hn::Add(hn::LoadU(d, line + at), complex_product<true>(hn::LoadU(d, odd + at), hn::LoadU(d, w + at)));
    hn::StoreU(hn::MulAdd(s, z, hn::LoadU(d, x + at)), d, x + at);
  };
  for (; j + step <= n; j += step) {
    const auto s = hn::LoadU(d, scale + j);
    add(2 * j, hn::TableLookupLanes(s, spread.low));
    add(2 * j + step, hn::TableLookupLanes(s, spread.high));
  }
#endif
  for (; j < n; ++j) {
    T z[2];
    complex_product_one<true>(odd + 2 * j, w + 2 * j, z);
    x[2 * j] += scale[j] * (line[2 * j] + z[0]);
    x[2 * j + 1] += scale[j] * (line[2 * j + 1] + z[1]);
  }
}

template <class T>
void split(T* HWY_RESTRICT x, Index m, const T* HWY_RESTRICT w) {
  Index k = 0;  // real components
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  for (; k + step <= 2 * m; k += step) {
    T* at = x + k;
    const auto a = hn::LoadU(d, at), b = hn::LoadU(d, at + 2 * m), c = hn::LoadU(d, at + 4 * m), e = hn::LoadU(d, at + 6 * m);
    const auto ac = hn::Add(a, c), be = hn::Add(b, e), a_c = hn::Sub(a, c), i_be = times_i(hn::Sub(b, e));
    hn::StoreU(hn::Add(ac, be), d, at);
    hn::StoreU(complex_product<false>(hn::Sub(a_c, i_be), hn::LoadU(d, w + k)), d, at + 2 * m);
    hn::StoreU(complex_product<false>(hn::Sub(ac, be), hn::LoadU(d, w + 2 * m + k)), d, at + 4 * m);
    hn::StoreU(complex_product<false>(hn::Add(a_c, i_be), hn::LoadU(d, w + 4 * m + k)), d, at + 6 * m);
  }
#endif
  for (; k < 2 * m; k += 2) {
    T* at[4] = {x + k, x + 2 * m + k, x + 4 * m + k, x + 6 * m + k};
    T part[4][2];
    for (int c = 0; c < 2; ++c) {
      const T ac = at[0][c] + at[2][c], be = at[1][c] + at[3][c], a_c = at[0][c] - at[2][c];
      const T i_be = c == 0 ? at[3][1] - at[1][1] : at[1][0] - at[3][0];  // of i (b - e)
      part[0][c] = ac + be, part[1][c] = a_c - i_be, part[2][c] = ac - be, part[3][c] = a_c + i_be;
    }
    at[0][0] = part[0][0], at[0][1] = part[0][1];
    for (int q = 1; q < 4; ++q) complex_product_one<false>(part[q], w + 2 * m * (q - 1) + k, at[q]);
  }
}

template <class T>
void join(T* HWY_RESTRICT z, Index m, const T* HWY_RESTRICT w) {
  Index k = 0;  // real components
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  for (; k + step <= 2 * m; k += step) {
    T* at = z + k;
    const auto a = hn::LoadU(d, at);
    const auto b = complex_product<true>(hn::LoadU(d, at + 2 * m), hn::LoadU(d, w + k));
    const auto c = complex_product<true>(hn::LoadU(d, at + 4 * m), hn::LoadU(d, w + 2 * m + k));
    const auto e = complex_product<true>(hn::LoadU(d, at + 6 * m), hn::LoadU(d, w + 4 * m + k));
    const auto ac = hn::Add(a, c), be = hn::Add(b, e), a_c = hn::Sub(a, c), i_be = times_i(hn::Sub(b, e));
    hn::StoreU(hn::Add(ac, be), d, at);
    hn::StoreU(hn::Add(a_c, i_be), d, at + 2 * m);
    hn::StoreU(hn::Sub(ac, be), d, at + 4 * m);
    hn::StoreU(hn::Sub(a_c, i_be), d, at + 6 * m);
  }
#endif
  for (; k < 2 * m; k += 2) {
    T* at[4] = {z + k, z + 2 * m + k, z + 4 * m + k, z + 6 * m + k};
    T part[4][2] = {{at[0][0], at[0][1]}};
    for (int q = 1; q < 4; ++q) complex_product_one<true>(at[q], w + 2 * m * (q - 1) + k, part[q]);
    for (int c = 0; c < 2; ++c) {
      const T ac = part[0][c] + part[2][c], be = part[1][c] + part[3][c], a_c = part[0][c] - part[2][c];
      const T i_be = c == 0 ? part[3][1] - part[1][1] : part[1][0] - part[3][0];  // of i (b - e)
      at[0][c] = ac + be, at[1][c] = a_c + i_be, at[2][c] = ac - be, at[3][c] = a_c - i_be;
    }
  }
}

template <bool kConjugate, class T>
void multiply_as(const T* z, const T* HWY_RESTRICT s, Index count, T* out) {
  Index k = 0;
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  for (; k + step <= 2 * count; k += step) {
    hn::StoreU(complex_product<kConjugate>(hn::LoadU(d, z + k), hn::LoadU(d, s + k)), d, out + k);
  }
#endif
  for (; k < 2 * count; k += 2) complex_product_one<kConjugate>(z + k, s + k, out + k);
}
template <class T>
void multiply(const T* z, const T* s, Index count, bool conjugate, T* out) {
  conjugate ? multiply_as<true>(z, s, count, out) : multiply_as<false>(z, s, count, out);
}

template <class T>
void correlate(const T* HWY_RESTRICT z, const T* HWY_RESTRICT u, Index count, T* HWY_RESTRICT g) {
  Index k = 0;
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  for (; k + step <= 2 * count; k += step) {
    const auto p = complex_product<true>(hn::LoadU(d, u + k), hn::LoadU(d, z + k));
    hn::StoreU(hn::Add(hn::LoadU(d, g + k), p), d, g + k);
  }
#endif
  for (; k < 2 * count; k += 2) {
    T p[2];
    complex_product_one<true>(u + k, z + k, p);
    g[k] += p[0];
    g[k + 1] += p[1];
  }
}

template <class T>
void add_scaled(const T* HWY_RESTRICT z, const T* HWY_RESTRICT scale, Index count, T* HWY_RESTRICT out) {
  Index j = 0;
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  const Spread<T> spread;
  const auto add = [&](Index at, auto s)
                       HWY_ATTR { hn::StoreU(hn::MulAdd(s, hn::LoadU(d, z + at), hn::LoadU(d, out + at)), d, out + at); };
  for (; j + step <= count; j += step) {
    const auto s = hn::LoadU(d, scale + j);
    add(2 * j, hn::TableLookupLanes(s, spread.low));
    add(2 * j + step, hn::TableLookupLanes(s, spread.high));
  }
#endif
  for (; j < count; ++j) {
    out[2 * j] += scale[j] * z[2 * j];
    out[2 * j + 1] += scale[j] * z[2 * j + 1];
  }
}

template <class T>
void add_componentwise(const T* HWY_RESTRICT z, const T* HWY_RESTRICT u, Index count, T* HWY_RESTRICT out) {
  Index k = 0;
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  for (; k + step <= 2 * count; k += step) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, z + k), hn::LoadU(d, u + k), hn::LoadU(d, out + k)), d, out + k);
  }
#endif
  for (; k < 2 * count; ++k) out[k] += z[k] * u[k];
}

// Magnitudes are compared as integers: there NaN is the largest of all and is not lost.
template <class T>
void largest(const T* HWY_RESTRICT z, Index count, T* HWY_RESTRICT out) {
  using TI = hwy::MakeSigned<T>;
  TI most[2] = {0, 0};
  Index k = 0;  // real components
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const hn::RebindToSigned<Wide<T>> di;
  const Index step = lanes<T>();
  auto first = hn::Zero(di), second = first;
  const auto magnitude = [&](Index at) HWY_ATTR { return hn::BitCast(di, hn::Abs(hn::LoadU(d, z + at))); };
  for (; k + 2 * step <= 2 * count; k += 2 * step) {
    first = hn::Max(first, magnitude(k));
    second = hn::Max(second, magnitude(k + step));
  }
  HWY_ALIGN TI lane[hn::MaxLanes(d)];
  hn::Store(hn::Max(first, second), di, lane);
  for (Index l = 0; l < step; ++l) most[l % 2] = std::max(most[l % 2], lane[l]);
#endif
  for (; k < 2 * count; ++k) {
    const T value = std::abs(z[k]);
    TI bits;
    std::memcpy(&bits, &value, sizeof(T));
    most[k % 2] = std::max(most[k % 2], bits);
  }
  std::memcpy(out, most, 2 * sizeof(T));
}

template <class T>
void scale_parts(T re, T im, Index count, T* HWY_RESTRICT z) {
  Index k = 0;
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  const Index step = lanes<T>();
  const auto factors = hn::OddEven(hn::Set(d, im), hn::Set(d, re));
  for (; k + step <= 2 * count; k += step) hn::StoreU(hn::Mul(hn::LoadU(d, z + k), factors), d, z + k);
#endif
  for (; k < 2 * count; k += 2) {
    z[k] *= re;
    z[k + 1] *= im;
  }
}

template <class T>
FftKernels<T> kernels() {
  return {load<T>,    store<T>,       add_stored<T>,       split<T>, join<T>, multiply<T>, correlate<T>, add_scaled<T>,
          largest<T>, scale_parts<T>, add_componentwise<T>};
}
FftKernels<float> kernels_float() {
  return kernels<float>();
}
FftKernels<double> kernels_double() {
  return kernels<double>();
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(kernels_float);
HWY_EXPORT(kernels_double);

template <>
FftKernels<float> fft_kernels<float>() {
  return ESPALIER_DISPATCH(kernels_float)();
}
template <>
FftKernels<double> fft_kernels<double>() {
  return ESPALIER_DISPATCH(kernels_double)();
}

}  // namespace espalier::backend
#endif
