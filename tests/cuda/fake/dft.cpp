// Mixed-radix Cooley-Tukey, one axis after another: short and right rather than fast.
// SPDX-License-Identifier: Apache-2.0
#include "fake/dft.hpp"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace espalier::fake {

namespace {

using Complex = std::complex<double>;

std::size_t smallest_factor(std::size_t n) {
  for (std::size_t p = 2; p * p <= n; ++p) {
    if (n % p == 0) return p;
  }
  return n;
}

// roots: the powers of the primitive root for the whole line.
struct Line {
  const std::vector<Complex>& roots;
  std::vector<Complex> parts;  // the p values that are combined

  void run(const Complex* in, std::size_t stride, Complex* out, std::size_t n) {
    if (n == 1) {
      out[0] = in[0];
      return;
    }
    const std::size_t p = smallest_factor(n), m = n / p, whole = roots.size();
    for (std::size_t r = 0; r < p; ++r) run(in + r * stride, stride * p, out + r * m, m);
    parts.resize(p > parts.size() ? p : parts.size());
    for (std::size_t k = 0; k < m; ++k) {
      for (std::size_t r = 0; r < p; ++r) parts[r] = out[r * m + k] * roots[r * k * (whole / n) % whole];
      for (std::size_t q = 0; q < p; ++q) {
        Complex sum = 0;
        for (std::size_t r = 0; r < p; ++r) sum += parts[r] * roots[r * q % p * (whole / p)];
        out[q * m + k] = sum;
      }
    }
  }
};

}  // namespace

void transform(std::vector<Complex>& data, const std::vector<long long>& sizes, int sign) {
  std::size_t inner = 1;
  for (std::size_t axis = sizes.size(); axis-- > 0;) {
    const auto n = static_cast<std::size_t>(sizes[axis]);
    std::vector<Complex> roots(n), in(n), out(n);
    for (std::size_t k = 0; k < n; ++k) {
      const double angle = sign * 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n);
      roots[k] = {std::cos(angle), std::sin(angle)};
    }
    Line line{roots, {}};
    for (std::size_t start = 0; start < data.size(); start += n * inner) {
      for (std::size_t column = start; column < start + inner; ++column) {
        for (std::size_t k = 0; k < n; ++k) in[k] = data[column + k * inner];
        line.run(in.data(), 1, out.data(), n);
        for (std::size_t k = 0; k < n; ++k) data[column + k * inner] = out[k];
      }
    }
    inner *= n;
  }
}

}  // namespace espalier::fake
