// Small dense products by the register tile and transposes by squares, compiled once per instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/block_product.hpp"

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/block_product.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"

#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <int R, class T>
HWY_INLINE void one_tile(Index depth, const T* a, Index a_row, Index a_step, const T* b, Index b_step, T* c, Index c_step,
                         bool add) {
  const Wide<T> d;
  Accumulator<T, R, 2> acc;
  clear(acc);
  multiply_accumulate(depth, a, a_row, a_step, b, b_step, acc);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    T* to = c + r * c_step;
    for (int v = 0; v < 2; ++v) {
      T* at = to + v * kLanes<T>;
      hn::StoreU(add ? hn::Add(hn::LoadU(d, at), acc.c[r][v]) : acc.c[r][v], d, at);
    }
  }
}

template <class T>
void all_tiles(Index rows, Index cols, Index depth, const T* a, Index a_row, Index a_step, const T* b, Index b_step, T* c,
               Index c_step, bool add) {
  constexpr int kThird = kRows / 3;
  for (Index j = 0; j < cols; j += kPanel<T>) {
    Index i = 0;
    for (; i + kRows <= rows; i += kRows) {
      one_tile<kRows>(depth, a + i * a_row, a_row, a_step, b + j, b_step, c + i * c_step + j, c_step, add);
    }
    for (; i + kThird <= rows; i += kThird) {
      one_tile<kThird>(depth, a + i * a_row, a_row, a_step, b + j, b_step, c + i * c_step + j, c_step, add);
    }
    for (; i < rows; ++i) {
      one_tile<1>(depth, a + i * a_row, a_row, a_step, b + j, b_step, c + i * c_step + j, c_step, add);
    }
  }
}

// R rows of a reading, all columns: panel by panel, each dot in one vector until the end.
template <int R, class T>
HWY_INLINE void read_rows(const BlockReading<T>& g, Index i) {
  const Wide<T> d;
  hn::Vec<Wide<T>> sums[R];
  for (int r = 0; r < R; ++r) sums[r] = hn::Zero(d);
  for (Index j = 0; j < g.cols; j += kPanel<T>) {
    Accumulator<T, R, 2> acc;
    clear(acc);
    multiply_accumulate(g.depth, g.a + i * g.a_row, g.a_row, g.a_step, g.b + j, g.b_step, acc);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const Index k = j + v * kLanes<T>;
        if (g.dots != nullptr) sums[r] = hn::MulAdd(acc.c[r][v], hn::LoadU(d, g.x + (i + r) * g.x_step + k), sums[r]);
        if (g.y != nullptr) {
          T* to = g.y + (i + r) * g.y_step + k;
          hn::StoreU(hn::MulAdd(acc.c[r][v], hn::Set(d, g.scale[(i + r) * g.scale_step]), hn::LoadU(d, to)), d, to);
        }
      }
    }
  }
  for (int r = 0; r < R && g.dots != nullptr; ++r) g.dots[(i + r) * g.dots_step] += hn::GetLane(hn::SumOfLanes(d, sums[r]));
}

template <class T>
void read_all(const BlockReading<T>& g) {
  constexpr int kThird = kRows / 3;
  Index i = 0;
  for (; i + kRows <= g.rows; i += kRows) read_rows<kRows>(g, i);
  for (; i + kThird <= g.rows; i += kThird) read_rows<kThird>(g, i);
  for (; i < g.rows; ++i) read_rows<1>(g, i);
}

void reading_float(const BlockReading<float>& g) {
  read_all(g);
}
void reading_double(const BlockReading<double>& g) {
  read_all(g);
}
void block_product_float(Index rows, Index cols, Index depth, const float* a, Index a_row, Index a_step, const float* b,
                         Index b_step, float* c, Index c_step, bool add) {
  all_tiles(rows, cols, depth, a, a_row, a_step, b, b_step, c, c_step, add);
}
void block_product_double(Index rows, Index cols, Index depth, const double* a, Index a_row, Index a_step, const double* b,
                          Index b_step, double* c, Index c_step, bool add) {
  all_tiles(rows, cols, depth, a, a_row, a_step, b, b_step, c, c_step, add);
}
void transpose_float(const float* x, Index x_stride, Index rows, Index cols, float* y, Index y_stride) {
  transpose(x, x_stride, rows, cols, y, y_stride);
}
void transpose_double(const double* x, Index x_stride, Index rows, Index cols, double* y, Index y_stride) {
  transpose(x, x_stride, rows, cols, y, y_stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(block_product_float);
HWY_EXPORT(block_product_double);
HWY_EXPORT(reading_float);
HWY_EXPORT(reading_double);
HWY_EXPORT(transpose_float);
HWY_EXPORT(transpose_double);

// Instantiated, not specialised: g++ gives explicit specialisations default visibility in spite of -fvisibility=hidden.
template <class T>
void block_product(Index rows, Index cols, Index depth, const T* a, Index a_row, Index a_step, const T* b, Index b_step, T* c,
                   Index c_step, bool add) {
  if constexpr (sizeof(T) == sizeof(float)) {
    ESPALIER_DISPATCH(block_product_float)(rows, cols, depth, a, a_row, a_step, b, b_step, c, c_step, add);
  } else {
    ESPALIER_DISPATCH(block_product_double)(rows, cols, depth, a, a_row, a_step, b, b_step, c, c_step, add);
  }
}
template void block_product(Index, Index, Index, const float*, Index, Index, const float*, Index, float*, Index, bool);
template void block_product(Index, Index, Index, const double*, Index, Index, const double*, Index, double*, Index, bool);

template <class T>
void block_reading(const BlockReading<T>& r) {
  if constexpr (sizeof(T) == sizeof(float)) {
    ESPALIER_DISPATCH(reading_float)(r);
  } else {
    ESPALIER_DISPATCH(reading_double)(r);
  }
}
template void block_reading(const BlockReading<float>&);
template void block_reading(const BlockReading<double>&);

template <class T>
void transpose_block(const T* x, Index x_stride, Index rows, Index cols, T* y, Index y_stride) {
  if constexpr (sizeof(T) == sizeof(float)) {
    ESPALIER_DISPATCH(transpose_float)(x, x_stride, rows, cols, y, y_stride);
  } else {
    ESPALIER_DISPATCH(transpose_double)(x, x_stride, rows, cols, y, y_stride);
  }
}
template void transpose_block(const float*, Index, Index, Index, float*, Index);
template void transpose_block(const double*, Index, Index, Index, double*, Index);

}  // namespace espalier::backend
#endif  // HWY_ONCE
