// Starts of the search for decays.
// SPDX-License-Identifier: Apache-2.0
#include "functions/decay_starts.hpp"

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>

#include <algorithm>
#include <array>
#include <cmath>

namespace espalier::fitting {

namespace {

using Complex = std::complex<double>;

constexpr double kPi = 3.14159265358979323846;
constexpr std::size_t kBlock = 64, kMoments = 8;
// exp(-sigma t) over half a block is its Taylor polynomial of degree 7 to 2e-9 below this |sigma|.
constexpr double kSlow = 0.3 / 32;

// The generating function of an even grid of values, at any sigma = -log z with Re sigma > 0.
class GeneratingFunction {
 public:
  explicit GeneratingFunction(std::span<const double> f) : f_(f), moments_((f.size() + kBlock - 1) / kBlock * kMoments) {
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

  Complex operator()(Complex sigma) const { return std::abs(sigma) < kSlow ? slow(sigma) : direct(sigma); }

 private:
  Complex direct(Complex sigma) const {
    // exp(-45) = 3e-20 of the first value.
    const auto n = static_cast<std::size_t>(std::min(static_cast<double>(f_.size()), 45 / sigma.real() + 1));
    const Complex z = std::exp(-sigma);
    Complex sum = 0;
    for (std::size_t k = n; k-- > 0;) {
      sum = Complex(sum.real() * z.real() - sum.imag() * z.imag() + f_[k], sum.real() * z.imag() + sum.imag() * z.real());
    }
    return sum;
  }
  Complex slow(Complex sigma) const {
    std::array<Complex, kMoments> taylor;
    taylor[0] = 1;
    for (std::size_t p = 1; p < kMoments; ++p) taylor[p] = taylor[p - 1] * (-32.0 * sigma) / static_cast<double>(p);
    const Complex z = std::exp(-64.0 * sigma);
    Complex sum = 0;
    for (std::size_t b = moments_.size() / kMoments; b-- > 0;) {
      double re = 0, im = 0;
      for (std::size_t p = 0; p < kMoments; ++p) {
        re += taylor[p].real() * moments_[b * kMoments + p], im += taylor[p].imag() * moments_[b * kMoments + p];
      }
      sum = sum * z + Complex(re, im);
    }
    return sum * std::exp(-31.5 * sigma);
  }

  std::span<const double> f_;
  std::vector<double> moments_;
};

std::span<const double> even_values(const Problem& p) {
  return p.integers ? std::span<const double>(p.all).subspan(static_cast<std::size_t>(p.first))
                    : std::span<const double>(p.grid);
}

}  // namespace

LoewnerStart::LoewnerStart(const Problem& p) : step_(p.step) {
  const std::span<const double> f = even_values(p);
  const auto n = static_cast<double>(f.size());
  slowest_ = 0.01 / n, fastest_ = p.integers ? (p.first > 0 ? std::min(20 / p.first, 40.0) : 40.0) : 40.0;
  const GeneratingFunction transform(f);
  // Points on rays, in conjugate pairs and alternately on the left and on the right. A truncated sum has no poles: at
  // Re sigma = 12 / n and beyond the missing tail weighs 6e-6 of its values.
  std::vector<Complex> x[2], g[2];
  std::vector<double> weight[2];
  constexpr int kPerDecade = 6;
  for (const double angle : {0.0, 0.5, 0.9, 1.2}) {
    const double least = std::log10(std::min(12 / (n * std::cos(angle)), 0.2)), most = std::log10(angle == 0 ? 4.0 : 2.5);
    const int points = std::max(4, static_cast<int>(kPerDecade * (most - least)) + 1);
    for (int k = 0; k < points; ++k) {
      const double radius = std::pow(10, least + (most - least) * k / (points - 1));
      const Complex sigma = std::polar(radius, angle);
      const Complex at = std::tanh(0.5 * sigma), value = transform(sigma) / (1.0 + at);
      // A component c exp(-s d) adds up to c / s; in units of what is allowed at distances about 1 / |sigma|.
      const double d = std::min(p.first + p.step / radius, p.last);
      const double y = f[static_cast<std::size_t>(std::min(1 / radius, n - 1))];
      const double u = std::sqrt(radius * radius / p.allowed(p.integers ? std::floor(d) : d, y));
      auto& side = x[k % 2];
      side.push_back(at), g[k % 2].push_back(value), weight[k % 2].push_back(u);
      if (angle != 0) side.push_back(std::conj(at)), g[k % 2].push_back(std::conj(value)), weight[k % 2].push_back(u);
    }
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

Index LoewnerStart::order() const {
  return (values_.array() > 1).count();
}

std::vector<Complex> LoewnerStart::decays(Index slots) const {
  Index r = std::min<Index>(slots, values_.size());
  while (r > 0 && !(values_[r - 1] > 1e-13 * values_[0])) --r;
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
    const double re = std::clamp(std::abs(s.real()), slowest_, fastest_);
    if (!std::isfinite(s.real()) || !std::isfinite(s.imag())) s = {fastest_, 0};
    if (std::abs(s.imag()) <= 1e-6 * std::abs(s)) {
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
