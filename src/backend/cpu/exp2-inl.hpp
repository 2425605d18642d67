// 2^x for a vector, by a polynomial: the exponential of the softmax kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once).
#if defined(ESPALIER_EXP2_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_EXP2_INL
#undef ESPALIER_EXP2_INL
#else
#define ESPALIER_EXP2_INL
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Minimax polynomials of 2^f on [-1/2, 1/2]: relative error 7.5e-8 (degree 5) and 3.1e-18 (degree 11).
template <class T>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {
  using Integer = std::int32_t;
  static constexpr int kMantissa = 23, kDegree = 5;
  static constexpr Integer kBias = 127;
  static constexpr float kLowest = -127, kHighest = 128, kRound = 12582912.0f;  // 1.5 x 2^23
  static constexpr float kCoefficient[] = {1.0000000716547141446f,   0.69314696706503521429f,   0.24022119723710719626f,
                                           0.055507132718556442019f, 0.0096755413431213273895f, 0.0013276472631950876055f};
};
template <>
struct Exp2Constants<double> {
  using Integer = std::int64_t;
  static constexpr int kMantissa = 52, kDegree = 11;
  static constexpr Integer kBias = 1023;
  static constexpr double kLowest = -1023, kHighest = 1024, kRound = 6755399441055744.0;  // 1.5 x 2^52
  static constexpr double kCoefficient[] = {0.9999999999999999971,     0.69314718055994533046,     0.24022650695910156204,
                                            0.055504108664819921605,   0.0096181291075883352443,   0.0013333558146789921722,
                                            0.00015403530462514432062, 0.000015252733489988525649, 1.321543308967639918e-6,
                                            1.0178198021671930844e-7,  7.0741056135081427963e-9,   4.4352827069572771511e-10};
};

// 2^x; relative error 2e-7 (float), 3e-16 (double). -inf and everything that would be subnormal give exactly 0, NaN gives NaN.
// x <= 0 unless kAnySign, which costs one instruction more and gives +inf above the range.
template <bool kAnySign, class T>
HWY_INLINE hn::Vec<Wide<T>> exp2(hn::Vec<Wide<T>> x) {
  using C = Exp2Constants<T>;
  const Wide<T> d;
  const hn::RebindToSigned<Wide<T>> di;
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, C::kLowest)), hn::Set(d, C::kLowest), x);  // this target's Max loses NaN
#else
  // The bound comes first: x86's maximum returns its second argument when one is NaN.
  x = hn::Max(hn::Set(d, C::kLowest), x);
#endif
  if constexpr (kAnySign) x = hn::Min(hn::Set(d, C::kHighest), x);
  // Adding 1.5 x 2^mantissa rounds to the nearest integer n and leaves it in the lowest bits.
  const auto shifted = hn::Add(x, hn::Set(d, C::kRound));
  const auto f = hn::Sub(x, hn::Sub(shifted, hn::Set(d, C::kRound)));
  auto p = hn::Set(d, C::kCoefficient[C::kDegree]);
#pragma GCC unroll 12
  for (int k = C::kDegree - 1; k >= 0; --k) p = hn::MulAdd(p, f, hn::Set(d, C::kCoefficient[k]));
  // n = lowest gives the factor 0. A product, not an addition to the exponent: it keeps NaN.
  const auto n = hn::Add(hn::ShiftLeft<C::kMantissa>(hn::BitCast(di, shifted)), hn::Set(di, C::kBias << C::kMantissa));
  return hn::Mul(p, hn::BitCast(d, n));
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // exp2
