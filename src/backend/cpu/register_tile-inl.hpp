// The register tile under every dense kernel: C[R x 2 vectors] += sum_k A[k][R] B[k][2 vectors], all in registers.
// SPDX-License-Identifier: Apache-2.0
//
// Included once per instruction set by Highway's foreach_target (hence no #pragma once); see tiles.cpp.
#if defined(ESPALIER_REGISTER_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_REGISTER_TILE_INL
#undef ESPALIER_REGISTER_TILE_INL
#else
#define ESPALIER_REGISTER_TILE_INL
#endif

#include <hwy/highway.h>

#include <espalier/core/backend.hpp>

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Wide = hn::ScalableTag<T>;

// Lanes of a vector, and the width of a panel (two vectors): the number of rows i that a tile carries side by side.
template <class T>
constexpr Index kLanes = static_cast<Index>(hn::MaxLanes(Wide<T>()));
template <class T>
constexpr Index kPanel = 2 * kLanes<T>;

// Rows of C held in registers. AVX-512 has 32 vector registers: 12 x 2 accumulators + 2 of B + broadcasts from memory reach
// 92-97 % of the FMA peak; with 16 registers 6 x 2.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <class T, int R>
struct Accumulator {
  using V = hn::Vec<Wide<T>>;
  V c[R][2];
};

// acc[r][.] = sum_{k < depth} a[r * a_row + k * a_step] * b[k * b_step + .];  a_row, b_step are compile-time where it matters
// for addressing (pass std::integral_constant-like values through inlining).
template <int R, class T>
HWY_INLINE void multiply_accumulate(Index depth, const T* HWY_RESTRICT a, Index a_row, Index a_step, const T* HWY_RESTRICT b,
                                    Index b_step, Accumulator<T, R>& acc) {
  const Wide<T> d;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) acc.c[r][0] = acc.c[r][1] = hn::Zero(d);
  for (Index k = 0; k < depth; ++k) {
    const auto b0 = hn::LoadU(d, b);
    const auto b1 = hn::LoadU(d, b + kLanes<T>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const auto s = hn::Set(d, a[r * a_row]);
      acc.c[r][0] = hn::MulAdd(s, b0, acc.c[r][0]);
      acc.c[r][1] = hn::MulAdd(s, b1, acc.c[r][1]);
    }
    a += a_step;
    b += b_step;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#endif  // register tile
