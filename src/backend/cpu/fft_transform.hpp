// The padded forward and inverse transform of one complex array on a grid, on FFTW.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/cpu/fft_kernels.hpp"
#include "backend/elementwise.hpp"

#include <memory>
#include <vector>

namespace espalier::backend {

// Array of n_0 x ... x n_{d-1} complex numbers <-> its spectrum after padding to 2 h_t on every axis.
//
// Axis by axis, always on contiguous lines (a strided batch costs 11-13 times more): after a block of lines is transformed it
// is transposed, so that the next axis lies innermost. Lines that are all padding are never transformed forward, lines that
// nobody reads never backward. The spectrum's order is [k_1] ... [k_{d-1}][k_0], each axis even frequencies first, then odd,
// the halves of the innermost axis `stride` apart (numbers between are unused); long halves are split in four in the same way.
template <class T>
class GridTransform {
 public:
  // Memory of one worker.
  struct Scratch {
    Buffer<T, Cpu> block;                // lines in work
    std::vector<Buffer<T, Cpu>> stages;  // arrays between the axes
  };

  GridTransform(const std::vector<Index>& sizes, bool measure);
  ~GridTransform();

  Index points() const { return points_; }                // prod n_t
  Index spectrum_size() const { return spectrum_size_; }  // complex numbers, with the unused ones
  Scratch scratch() const;
  static Index scratch_size(const std::vector<Index>& sizes);  // complex numbers, bound

  // spectrum of s_j x_j; scale null: s = 1.
  void forward(const T* x, const T* scale, T* spectrum, Scratch& scratch) const;
  // x = prod 2 h_t times the inverse transform; scale given: x_j += s_j times it. The spectrum is overwritten.
  void inverse(T* spectrum, T* x, Scratch& scratch, const T* scale = nullptr) const;

  const FftKernels<T>& kernels() const { return kernels_; }

  // Spectrum / prod 2 h_t of a real table (2 n_t - 1)^d, in double before the last rounding.
  void table_spectrum(const double* table, T* spectrum) const;
  // table[o] += Re of the inverse transform (divided by prod 2 h_t) of a spectrum in double.
  void add_table(const double* spectrum, T* table) const;

 private:
  struct Axis;
  struct Plans;
  void transform_lines(const Axis& axis, Index rows, bool backward, T* lines) const;
  // Calls visit(position in the table, index in the circulant of size prod 2 h_t).
  template <class F>
  void for_each_offset(const F& visit) const;
  // Calls visit(position in the spectrum, index in the full row-major spectrum).
  template <class F>
  void for_each_frequency(const F& visit) const;

  std::vector<Axis> axes_;
  std::unique_ptr<Plans> plans_;  // of the whole circulant, in double
  FftKernels<T> kernels_;
  Index points_ = 1, full_size_ = 1, spectrum_size_ = 1;
};

}  // namespace espalier::backend
