// Vector loops between the transforms: padding with modulation, products of spectra, accumulation. Interleaved complex numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

namespace espalier::backend {

// Every pointer to complex data counts 2 T a number; `count`, n, h, stride count complex numbers.
//
// A line of n numbers is padded to 2 h >= 2 n and transformed by two transforms of length h, one for the even and one for
// the odd frequencies (the first step of decimation in frequency; half the input is zero, so it costs one product a number
// instead of a stage of butterflies):
//   X[2k]     = sum_{j < h} x_j          e^{-2 pi i j k / h}
//   X[2k + 1] = sum_{j < h} (x_j w_j)    e^{-2 pi i j k / h},   w_j = e^{-pi i j / h}
//   2 h x_j   = E_j + conj(w_j) O_j,     E, O the unnormalised inverse transforms of the two halves.
// The halves lie `stride` >= h apart.
template <class T>
struct FftKernels {
  // line[j] = s_j x_j, line[stride + j] = s_j x_j w_j for j < n, both 0 for n <= j < h; scale null: s = 1. scale is real.
  void (*load)(const T* x, const T* scale, Index n, Index h, Index stride, const T* w, T* line);
  // x[j] = line[j] + conj(w_j) line[stride + j], j < n.
  void (*store)(const T* line, Index n, Index stride, const T* w, T* x);
  // x[j] += s_j (line[j] + conj(w_j) line[stride + j]), j < n; s real.
  void (*add_stored)(const T* line, Index n, Index stride, const T* w, const T* scale, T* x);
  // One more step of the same kind, in place on 4 m numbers, for halves that are larger than the first-level cache: part q = 0
  // .. 3 (m numbers at q m) becomes w^(jq) sum_l (-i)^(ql) x_(j + l m), w = e^{-2 pi i / (4 m)}, whose transform of length m is
  // that of x at the frequencies 4 k + q. w: w^j, w^(2j), w^(3j), j < m, one after the other.
  void (*split)(T* x, Index m, const T* w);
  // Its inverse times 4: x_(j + l m) = sum_q i^(ql) conj(w^(jq)) z_qj.
  void (*join)(T* z, Index m, const T* w);
  // out = z s, or z conj(s). out may be z.
  void (*multiply)(const T* z, const T* s, Index count, bool conjugate, T* out);
  // g += u conj(z).
  void (*correlate)(const T* z, const T* u, Index count, T* g);
  // out += s z, s real.
  void (*add_scaled)(const T* z, const T* scale, Index count, T* out);
  // out[0] = max |Re z|, out[1] = max |Im z|; not finite where a component of any number is not.
  void (*largest)(const T* z, Index count, T* out);
  // Re z *= re, Im z *= im.
  void (*scale_parts)(T re, T im, Index count, T* z);
  // out[k] += z[k] u[k] over the 2 count real components: their sum over both components is Re(z conj(u)).
  void (*add_componentwise)(const T* z, const T* u, Index count, T* out);
};

// The loops for the widest instruction set of this machine.
template <class T>
FftKernels<T> fft_kernels();

}  // namespace espalier::backend
