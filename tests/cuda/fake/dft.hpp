// The discrete Fourier transform of the fake cuFFT, in double, for any size.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <complex>
#include <vector>

namespace espalier::fake {

// out_k = sum_j data_j exp(sign 2 pi i (j_1 k_1 / n_1 + ... )), row-major, unnormalised, in place.
// Cost: product of the sizes times the sum of their prime factors. Error: a few eps log2 n of the norm.
void transform(std::vector<std::complex<double>>& data, const std::vector<long long>& sizes, int sign);

}  // namespace espalier::fake
