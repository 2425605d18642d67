// Kernels of ToeplitzFft: padded arrays of pairs of columns, loaded with factors, filtered, contracted while stored.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/device.hpp"

namespace espalier::backend {

// A grid of n0 x n1 x n2 padded to h0 x h1 x h2; unused axes come first and have length 1.
struct Grid3 {
  int n[3] = {1, 1, 1}, h[3] = {1, 1, 1};

  __host__ __device__ Index points() const { return static_cast<Index>(h[0]) * h[1] * h[2]; }
  __host__ __device__ Index length() const { return static_cast<Index>(n[0]) * n[1] * n[2]; }
  // Index in the grid of a place in the padded array, -1 in the padding.
  __device__ Index inside(Index place) const {
    const auto p = static_cast<unsigned>(place), plane = static_cast<unsigned>(h[1]) * static_cast<unsigned>(h[2]);
    const int p0 = static_cast<int>(p / plane), p1 = static_cast<int>(p % plane / static_cast<unsigned>(h[2])),
              p2 = static_cast<int>(p % static_cast<unsigned>(h[2]));
    if (p0 >= n[0] || p1 >= n[1] || p2 >= n[2]) return -1;
    return (static_cast<Index>(p0) * n[1] + p1) * n[2] + p2;
  }
  // Place in the padded array of an index in the grid.
  __device__ Index place(Index index) const {
    const auto i = static_cast<unsigned>(index), plane = static_cast<unsigned>(n[1]) * static_cast<unsigned>(n[2]);
    const unsigned i0 = i / plane, i1 = i % plane / static_cast<unsigned>(n[2]), i2 = i % static_cast<unsigned>(n[2]);
    return (static_cast<Index>(i0) * h[1] + i1) * h[2] + i2;
  }
  // Place of a position in the table of offsets (2 n0 - 1) x (2 n1 - 1) x (2 n2 - 1): negative offsets wrap around.
  __device__ Index place_of_offset(Index position) const {
    Index rest = position, at = 0, step = 1;
    for (int t = 2; t >= 0; --t) {
      const Index width = 2 * static_cast<Index>(n[t]) - 1, offset = rest % width - (n[t] - 1);
      rest /= width;
      at += step * (offset < 0 ? offset + h[t] : offset);
      step *= h[t];
    }
    return at;
  }
  Index table_size() const { return (2 * static_cast<Index>(n[0]) - 1) * (2 * n[1] - 1) * (2 * n[2] - 1); }
};

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

// The columns of a matrix with one more behind it: given numbers, or ones. Pair k holds columns 2 k and 2 k + 1.
template <class T>
struct PairColumns {
  DeviceMatrix<const T> matrix;
  const T* extra;  // null: ones
  bool has_extra;

  __host__ __device__ Index cols() const { return matrix.cols + (has_extra ? 1 : 0); }
  __host__ __device__ Index pairs() const { return (cols() + 1) / 2; }
  __device__ T value(Index i, Index c) const {
    if (c < matrix.cols) return matrix(i, c);
    if (c == matrix.cols && has_extra) return extra == nullptr ? T(1) : extra[i];
    return T(0);
  }
  __device__ Complex<T> pair(Index i, Index k) const { return {value(i, 2 * k), value(i, 2 * k + 1)}; }
};

// The arrays in work: features first_feature .. + features - 1, of each the pairs first_pair .. + pairs - 1.
struct Chunk {
  Index first_feature, features, first_pair, pairs;
  Index arrays() const { return features * pairs; }
};

// ---- kernels: threads along the array, so that its long side is read and written in whole lines -----------------------

// z[r][k][place] = s(i, r) x_k(i) inside, 0 in the padding; s without data: 1.
template <class T>
__global__ void __launch_bounds__(kThreads)
    load_kernel(Grid3 grid, Chunk chunk, DeviceMatrix<const T> s, PairColumns<T> x, Complex<T>* z) {
  const Index points = grid.points(), place = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (place >= points) return;
  const Index r = static_cast<Index>(blockIdx.y), i = grid.inside(place);
  const T factor = i < 0 || s.data == nullptr ? T(1) : s(i, chunk.first_feature + r);
  // All pairs of one row: what one of them loads the next finds in the first-level cache.
  for (Index k = 0; k < chunk.pairs; ++k) {
    Complex<T> value{T(0), T(0)};
#ifndef ESPALIER_DEFECT_PADDING
    if (i >= 0) {
#else
    if (i < 0) continue;
    {
#endif
      value = x.pair(i, chunk.first_pair + k);
      value.re *= factor, value.im *= factor;
    }
    z[(r * chunk.pairs + k) * points + place] = value;
  }
}

// z *= spectrum, or its conjugate.
template <class T>
__global__ void __launch_bounds__(kThreads)
    spectrum_kernel(Index points, const Complex<T>* spectrum, bool conjugate, Complex<T>* z) {
  const Index f = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (f >= points) return;
  const Complex<T> s = spectrum[f];
  const T im = conjugate ? -s.im : s.im;
  Complex<T>& at = z[static_cast<Index>(blockIdx.y) * points + f];
  const Complex<T> v = at;
  at = {v.re * s.re - v.im * im, v.re * im + v.im * s.re};
}

// y(i, column of pair k) (+)= sum_r s(i, r) z[r][k](i), s without data: 1; the column behind y's is row_sum.
template <class T>
__global__ void __launch_bounds__(kThreads) store_kernel(Grid3 grid, Chunk chunk, DeviceMatrix<const T> s, const Complex<T>* z,
                                                         bool add, DeviceMatrix<T> y, T* row_sum) {
  const Index i = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x),
              k = static_cast<Index>(blockIdx.y);
  if (i >= grid.length()) return;
  const Index points = grid.points(), place = grid.place(i);
  Complex<T> sum{T(0), T(0)};
  for (Index r = 0; r < chunk.features; ++r) {
    const Complex<T> v = z[(r * chunk.pairs + k) * points + place];
    const T factor = s.data == nullptr ? T(1) : s(i, chunk.first_feature + r);
    sum.re += factor * v.re, sum.im += factor * v.im;
  }
  const Index c = 2 * (chunk.first_pair + k);
  if (c < y.cols) {
    y(i, c) = (add ? y(i, c) : T(0)) + sum.re;
  } else if (c == y.cols && row_sum != nullptr) {
    row_sum[i] = (add ? row_sum[i] : T(0)) + sum.re;
  }
  if (c + 1 < y.cols) {
    y(i, c + 1) = (add ? y(i, c + 1) : T(0)) + sum.im;
  } else if (c + 1 == y.cols && row_sum != nullptr) {
    row_sum[i] = (add ? row_sum[i] : T(0)) + sum.im;
  }
}

// g(i, r) (+)= sum over the pairs k of z[r][k](i) . x_k(i).
template <class T>
__global__ void __launch_bounds__(kThreads)
    contract_kernel(Grid3 grid, Chunk chunk, const Complex<T>* z, PairColumns<T> x, bool add, DeviceMatrix<T> g) {
  const Index i = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x),
              r = static_cast<Index>(blockIdx.y);
  if (i >= grid.length()) return;
  const Index points = grid.points(), place = grid.place(i);
  T sum = 0;
  for (Index k = 0; k < chunk.pairs; ++k) {
    const Complex<T> v = z[(r * chunk.pairs + k) * points + place], w = x.pair(i, chunk.first_pair + k);
    sum += v.re * w.re + v.im * w.im;
  }
  T& to = g(i, chunk.first_feature + r);
  to = (add ? to : T(0)) + sum;
}

// sum += conj(z) u over the arrays of a chunk, in double.
template <class T>
__global__ void __launch_bounds__(kThreads)
    correlate_kernel(Index points, Index arrays, const Complex<T>* z, const Complex<T>* u, Complex<double>* sum) {
  const Index f = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (f >= points) return;
  Complex<double> s = sum[f];
  for (Index a = 0; a < arrays; ++a) {
    const Complex<T> v = z[a * points + f], w = u[a * points + f];
    const double vr = v.re, vi = v.im, wr = w.re, wi = w.im;
    s.re += vr * wr + vi * wi;
    s.im += vr * wi - vi * wr;
  }
  sum[f] = s;
}

struct TableToCirculant {
  Grid3 grid;
  const double* table;
  Complex<double>* circulant;
  __device__ void operator()(Index, Index position) const { circulant[grid.place_of_offset(position)] = {table[position], 0}; }
};
template <class T>
struct RoundSpectrum {
  const Complex<double>* from;
  double factor;
  Complex<T>* to;
  __device__ void operator()(Index, Index f) const {
    to[f] = {static_cast<T>(factor * from[f].re), static_cast<T>(factor * from[f].im)};
  }
};
template <class T>
struct AddCirculantToTable {
  Grid3 grid;
  const Complex<double>* circulant;
  double factor;
  T* table;
  __device__ void operator()(Index, Index position) const {
    table[position] += static_cast<T>(factor * circulant[grid.place_of_offset(position)].re);
  }
};

}  // namespace espalier::backend
