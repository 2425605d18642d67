// Starts of the search for decays.
// SPDX-License-Identifier: Apache-2.0
#include "functions/decay_starts.hpp"

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>

namespace espalier::fitting {

namespace {

using Complex = std::complex<double>;

constexpr double kPi = 3.14159265358979323846;
constexpr std::size_t kBlock = 64, kMoments = 12;
// exp(-i w t) over half a block is its Taylor polynomial of degree 11 to 1e-15 below this frequency.
constexpr double kSlow = 0.3 / 32;

// F at the odd frequencies w = pi k / n: sum over d of f(d) exp(-i w d). At each of them exp(-i w n) = -1, so that the end of
// the range does not show: a term c z^d gives c (1 + z^n) / (1 - z exp(-i w)), with the pole of the infinite sum.
class Spectrum {
 public:
  explicit Spectrum(std::span<const double> f) : f_(f), moments_((f.size() + kBlock - 1) / kBlock * kMoments) {
    std::array<std::array<double, kMoments>, kBlock> power;
    for (std::size_t j = 0; j < kBlock; ++j) {
      const double t = (static_cast<double>(j) - 31.5) / 32;
      power[j][0] = 1;
      for (std::size_t p = 1; p < kMoments; ++p) power[j][p] = power[j][p - 1] * t;
    }
    for (std::size_t k = 0; k < f.size(); ++k) {
      for (std::size_t p = 0; p < kMoments; ++p) moments_[k / kBlock * kMoments + p] += f[k] * power[k % kBlock][p];
    }
  }

  double frequency(Index k) const { return kPi * static_cast<double>(k) / static_cast<double>(f_.size()); }

  Complex operator()(Index k) const {
    const double w = frequency(k);
    const bool slow = w < kSlow;
    std::array<double, kBlock> cosine, sine;
    for (std::size_t j = 0; j < kBlock; ++j) {
      cosine[j] = std::cos(w * static_cast<double>(j)), sine[j] = -std::sin(w * static_cast<double>(j));
    }
    std::array<Complex, kMoments> taylor;
    taylor[0] = std::polar(1.0, -31.5 * w);
    for (std::size_t p = 1; p < kMoments; ++p) taylor[p] = taylor[p - 1] * Complex(0, -32 * w / static_cast<double>(p));
    Complex sum = 0;
    const auto turn = static_cast<std::uint64_t>(2 * f_.size());
    for (std::size_t b = 0; b * kBlock < f_.size(); ++b) {
      double re = 0, im = 0;
      if (slow) {
        const double* m = moments_.data() + b * kMoments;
        for (std::size_t p = 0; p < kMoments; ++p) re += taylor[p].real() * m[p], im += taylor[p].imag() * m[p];
      } else {
        const double* y = f_.data() + b * kBlock;
        const std::size_t n = std::min(kBlock, f_.size() - b * kBlock);
        for (std::size_t j = 0; j < n; ++j) re += cosine[j] * y[j], im += sine[j] * y[j];
      }
      // The phase of a block, its whole turns taken out in integers.
      const auto steps = static_cast<std::uint64_t>(k) * (b * kBlock) % turn;
      sum += std::polar(1.0, -frequency(static_cast<Index>(steps))) * Complex(re, im);
    }
    return sum;
  }

 private:
  std::span<const double> f_;
  std::vector<double> moments_;
};

std::span<const double> even_values(const Problem& p) {
  return p.integers ? std::span<const double>(p.all).subspan(static_cast<std::size_t>(p.first))
                    : std::span<const double>(p.grid);
}

// Odd numbers from 1 on, evenly spaced in the logarithm, below n.
std::vector<Index> frequencies(Index n) {
  constexpr double kPerDecade = 12;
  std::vector<Index> out;
  for (double at = 1; at < 0.95 * static_cast<double>(n); at *= std::pow(10, 1 / kPerDecade)) {
    const Index k = static_cast<Index>(at) | 1;
    if (out.empty() || k > out.back()) out.push_back(k);
  }
  return out;
}

}  // namespace

LoewnerStart::LoewnerStart(const Problem& p) : step_(p.step) {
  const std::span<const double> f = even_values(p);
  const auto n = static_cast<double>(f.size());
  slowest_ = 0.01 / n, fastest_ = p.integers && p.first > 0 ? std::min(20 / p.first, 40.0) : 40.0;
  const Spectrum spectrum(f);
  // Points in conjugate pairs, alternately on the left and on the right.
  std::vector<Complex> x[2], g[2];
  std::vector<double> weight[2];
  std::size_t turn = 0;
  for (const Index k : frequencies(static_cast<Index>(f.size()))) {
    const double w = spectrum.frequency(k);
    const Complex at(0, std::tan(0.5 * w)), value = spectrum(k) / (1.0 + at);
    // A component c exp(-s d) adds up to c / s; in units of what is allowed at distances about 1 / w.
    const double d = std::min(p.first + p.step / w, p.last);
    const double y = f[static_cast<std::size_t>(std::min(1 / w, n - 1))];
    const double u = w / std::sqrt(p.allowed(p.integers ? std::floor(d) : d, y));
    const std::size_t side = turn++ % 2;
    x[side].insert(x[side].end(), {at, std::conj(at)});
    g[side].insert(g[side].end(), {value, std::conj(value)});
    weight[side].insert(weight[side].end(), {u, u});
  }
  const auto rows = static_cast<Eigen::Index>(x[0].size()), cols = static_cast<Eigen::Index>(x[1].size());
  Eigen::MatrixXcd loewner(rows, cols), shifted(rows, cols);
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index j = 0; j < cols; ++j) {
      const auto a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(j);
      const Complex scale = weight[0][a] * weight[1][b] / (x[0][a] - x[1][b]);
      loewner(i, j) = -scale * (g[0][a] - g[1][b]);
      shifted(i, j) = -scale * (x[0][a] * g[0][a] - x[1][b] * g[1][b]);
    }
  }
  const Eigen::BDCSVD<Eigen::MatrixXcd> svd(loewner, Eigen::ComputeThinU | Eigen::ComputeThinV);
  values_ = svd.singularValues();
  shifted_ = svd.matrixU().adjoint() * shifted * svd.matrixV();
}

Index LoewnerStart::order(double bound) const {
  return (values_.array() > bound).count();
}

std::vector<Complex> LoewnerStart::decays(Index slots) const {
  Index r = std::min<Index>(slots, values_.size());
  while (r > 0 && !(values_[r - 1] > 2e-14 * values_[0])) --r;
  std::vector<Complex> out;
  if (r == 0) return out;
  Eigen::MatrixXcd a = shifted_.topLeftCorner(r, r);
  for (Index i = 0; i < r; ++i) a.row(i) /= values_[i];
  const Eigen::VectorXcd poles = Eigen::ComplexEigenSolver<Eigen::MatrixXcd>(a, false).eigenvalues();
  // Poles come in conjugate pairs up to rounding; those with a positive imaginary part stand for both.
  std::vector<Complex> pairs;
  std::vector<double> real;
  for (Index k = 0; k < r; ++k) {
    const Complex pole = poles[k];
    Complex s = 2.0 * std::atanh(-pole);
    if (!std::isfinite(s.real()) || !std::isfinite(s.imag())) s = {fastest_, 0};
    // Growing modes are turned round; what changes nothing over the range is a constant.
    const double re = std::abs(s.real()) < 1e-4 * slowest_ ? 0.0 : std::min(std::abs(s.real()), fastest_);
    if (std::abs(s.imag()) <= 1e-6 * std::abs(s.real()) + 0.1 * slowest_) {
      real.push_back(re);
    } else if (s.imag() > 0) {
      pairs.push_back({re, std::min(s.imag(), kPi)});
    }
  }
  for (const Complex& s : pairs) {
    if (static_cast<Index>(2 * out.size()) + 2 <= r) out.push_back(s / step_);
  }
  const auto used = static_cast<Index>(2 * out.size());
  for (std::size_t k = 0; k < real.size() && used + static_cast<Index>(k) < r; ++k) out.push_back(real[k] / step_);
  return out;
}

std::vector<Complex> logarithmic_decays(const Problem& p, Index count) {
  const double range = std::max(p.last - p.first, p.step);
  double shortest = p.step;
  for (Eigen::Index k = 1; k < p.samples.distance.size(); ++k) {
    const double gap = p.samples.distance[k] - p.samples.distance[k - 1];
    if (gap > 0) shortest = std::min(shortest, gap);
  }
  const double slow = std::log(0.7 / range);
  double fast = std::log(2 / std::max(shortest, 1e-12 * range));
  if (p.first > 0) fast = std::min(fast, std::log(5 / p.first));
  std::vector<Complex> out;
  for (Index k = 0; k < count; ++k) {
    const double share = count > 1 ? static_cast<double>(k) / static_cast<double>(count - 1) : 0.5;
    out.push_back(std::exp(slow + share * (fast - slow)));
  }
  return out;
}

}  // namespace espalier::fitting
