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
    // At a high frequency the sum is far smaller than its parts: added up in long double it keeps the digits that a tolerance
    // of 1e-12 asks for.
    std::complex<long double> sum = 0;
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
    return {static_cast<double>(sum.real()), static_cast<double>(sum.imag())};
  }

 private:
  std::span<const double> f_;
  std::vector<double> moments_;
};

// The Fourier integral of a function on a real range at w = pi k / length, k odd, from its polynomials of degree 7 on pieces:
// a Legendre polynomial has the transform 2 (-i)^n j_n(w h) with a spherical Bessel function.
class Integral {
 public:
  Integral(const Problem& p, Index& evaluations) : first_(p.first) {
    // Nodes and weights of the Gauss-Legendre rule of 8 points, by Newton's iteration on P_8.
    std::array<double, kNodes> x, w;
    for (unsigned k = 0; k < kNodes; ++k) {
      double t = std::cos(kPi * (k + 0.75) / (kNodes + 0.5)), slope = 1;
      for (int step = 0; step < 6; ++step) {
        const double value = std::legendre(kNodes, t);
        slope = kNodes * (std::legendre(kNodes - 1, t) - t * value) / (1 - t * t);
        t -= value / slope;
      }
      x[k] = t, w[k] = 2 / ((1 - t * t) * slope * slope);
    }
    for (const auto& [a, b] : p.pieces) {
      Piece piece{0.5 * (a + b), 0.5 * (b - a), {}};
      for (std::size_t k = 0; k < kNodes; ++k) {
        const double y = (*p.f)(piece.centre + piece.half * x[k]);
        ++evaluations;
        for (unsigned n = 0; n < kNodes; ++n) piece.legendre[n] += (n + 0.5) * w[k] * y * std::legendre(n, x[k]);
      }
      pieces_.push_back(piece);
    }
  }

  Complex operator()(double w) const {
    Complex sum = 0;
    for (const Piece& piece : pieces_) {
      const std::array<double, kNodes> bessel = spherical_bessel(w * piece.half);
      Complex part = 0, turn = 1;
      for (unsigned n = 0; n < kNodes; ++n) {
        part += turn * piece.legendre[n] * bessel[n];
        turn *= Complex(0, -1);
      }
      sum += 2 * piece.half * part * std::polar(1.0, -w * (piece.centre - first_));
    }
    return sum;
  }

 private:
  static constexpr unsigned kNodes = 8;

  // j_0 .. j_7 at t > 0: the recurrence upwards is stable beyond the order.
  static std::array<double, kNodes> spherical_bessel(double t) {
    std::array<double, kNodes> j;
    if (t < 10) {
      for (unsigned n = 0; n < kNodes; ++n) j[n] = std::sph_bessel(n, t);
      return j;
    }
    j[0] = std::sin(t) / t;
    j[1] = (j[0] - std::cos(t)) / t;
    for (unsigned n = 1; n + 1 < kNodes; ++n) j[n + 1] = (2 * n + 1) / t * j[n] - j[n - 1];
    return j;
  }

  struct Piece {
    double centre, half;
    std::array<double, kNodes> legendre;
  };
  double first_;
  std::vector<Piece> pieces_;
};

// Odd numbers from 1 on, evenly spaced in the logarithm, below `end`.
std::vector<double> odd_numbers(double end, double per_decade = 12) {
  std::vector<double> out;
  for (double at = 1; at < end; at *= std::pow(10, 1 / per_decade)) {
    const double k = 2 * std::floor(0.5 * at) + 1;
    if (out.empty() || k > out.back()) out.push_back(k);
  }
  return out;
}

// odd_numbers, and around each of the highest peaks of the spectrum two sequences of distances from the peak, evenly spaced in
// the logarithm too: near i w a decay is as multi-scale as near 0.
std::vector<double> odd_numbers_near_peaks(const Spectrum& spectrum, double end) {
  constexpr std::size_t kPeaks = 3;
  const std::vector<double> scan = odd_numbers(end, 60);
  std::vector<double> height;
  height.reserve(scan.size());
  for (const double k : scan) height.push_back(std::abs(spectrum(static_cast<Index>(k))));
  std::vector<std::size_t> peaks;
  for (std::size_t i = 2; i + 1 < scan.size(); ++i) {
    if (height[i] > height[i - 1] && height[i] > height[i + 1]) peaks.push_back(i);
  }
  std::sort(peaks.begin(), peaks.end(), [&](std::size_t a, std::size_t b) { return height[a] > height[b]; });
  if (peaks.size() > kPeaks) peaks.resize(kPeaks);
  std::vector<double> out = odd_numbers(end);
  for (const std::size_t i : peaks) {
    // The top of the peak, by halving steps along the odd numbers.
    double top = scan[i], most = height[i];
    for (double step = std::floor(0.25 * (scan[i + 1] - scan[i - 1])) * 2; step >= 2; step = std::floor(0.25 * step) * 2) {
      for (const double k : {top - step, top + step}) {
        if (k < 1 || k >= end) continue;
        const double h = std::abs(spectrum(static_cast<Index>(k)));
        if (h > most) most = h, top = k;
      }
    }
    for (const double gap : odd_numbers(0.5 * top)) {
      out.push_back(top - gap + 1), out.push_back(top + gap + 1);
    }
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  out.erase(std::lower_bound(out.begin(), out.end(), end), out.end());
  return out;
}

}  // namespace

// Points in conjugate pairs, alternately on the left and on the right.
struct LoewnerStart::Points {
  std::vector<Complex> x[2], g[2];
  std::vector<double> weight[2];
  std::size_t turn = 0;

  void add(Complex at, Complex value, double u) {
    const std::size_t side = turn++ % 2;
    x[side].insert(x[side].end(), {at, std::conj(at)});
    g[side].insert(g[side].end(), {value, std::conj(value)});
    weight[side].insert(weight[side].end(), {u, u});
  }
};

LoewnerStart::LoewnerStart(Problem& p, bool refined) : integers_(p.integers) {
  Points points;
  // A component c exp(-s d) adds up to c / s; in units of what is allowed at distances about 1 / w.
  const auto weight = [&](double w) {
    double d = std::min(p.first + 1 / w, p.last);
    if (p.integers) d = std::floor(d);
    const double y = p.integers ? p.all[static_cast<std::size_t>(d)] : (*p.f)(d);
    // The tail of a Gaussian has no frequencies of its own: where bounds follow |f| down to 1e-7, even ones may do better.
    const bool even = refined && (p.kind == ToleranceKind::pointwise || !p.integers);
    return w / std::sqrt(even ? p.tolerance * p.largest : p.allowed(d, y));
  };
  if (integers_) {
    const std::span<const double> f = std::span<const double>(p.all).subspan(static_cast<std::size_t>(p.first));
    const auto n = static_cast<double>(f.size());
    slowest_ = 0.01 / n;
    fastest_ = p.first > 0 ? std::min(20 / p.first, 40.0) : 40.0;
    const Spectrum spectrum(f);
    for (const double k : refined ? odd_numbers_near_peaks(spectrum, 0.95 * n) : odd_numbers(0.95 * n)) {
      const double w = spectrum.frequency(static_cast<Index>(k));
      const Complex at(0, std::tan(0.5 * w));
      points.add(at, spectrum(static_cast<Index>(k)) / (1.0 + at), weight(w));
    }
  } else {
    const double length = p.last > p.first ? p.last - p.first : 1.0;
    double shortest = length;
    for (const auto& [a, b] : p.pieces) shortest = std::min(shortest, b - a);
    slowest_ = 0.01 / length;
    fastest_ = p.first > 0 ? 20 / p.first : 1e14 / length;
    const Integral integral(p, p.evaluations);
    for (const double k : odd_numbers(4 * length / shortest)) {
      const double w = kPi * k / length;
      points.add({0, w}, integral(w), weight(w));
    }
  }
  reduce(points);
}

void LoewnerStart::reduce(const Points& points) {
  const auto rows = static_cast<Eigen::Index>(points.x[0].size()), cols = static_cast<Eigen::Index>(points.x[1].size());
  Eigen::MatrixXcd loewner(rows, cols), shifted(rows, cols);
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index j = 0; j < cols; ++j) {
      const auto a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(j);
      const Complex left = points.x[0][a], right = points.x[1][b], g = points.g[0][a], h = points.g[1][b];
      const Complex scale = points.weight[0][a] * points.weight[1][b] / (left - right);
      loewner(i, j) = -scale * (g - h);
      shifted(i, j) = -scale * (left * g - right * h);
    }
  }
  if (rows == 0 || cols == 0) return;
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
    Complex s = integers_ ? 2.0 * std::atanh(-pole) : -pole;
    if (!std::isfinite(s.real()) || !std::isfinite(s.imag())) s = {fastest_, 0};
    // Growing modes are turned round; what changes nothing over the range is a constant.
    const double re = std::abs(s.real()) < 1e-4 * slowest_ ? 0.0 : std::min(std::abs(s.real()), fastest_);
    if (std::abs(s.imag()) <= 1e-6 * std::abs(s.real()) + 0.1 * slowest_) {
      real.push_back(re);
    } else if (s.imag() > 0) {
      pairs.push_back({re, std::min(s.imag(), integers_ ? kPi : fastest_)});
    }
  }
  for (const Complex& s : pairs) {
    if (static_cast<Index>(2 * out.size()) + 2 <= r) out.push_back(s);
  }
  const auto used = static_cast<Index>(2 * out.size());
  for (std::size_t k = 0; k < real.size() && used + static_cast<Index>(k) < r; ++k) out.push_back(real[k]);
  return out;
}

std::vector<Complex> logarithmic_decays(const Problem& p, Index count) {
  const double range = p.last > p.first ? p.last - p.first : 1.0;
  double shortest = p.integers ? 1 : range;
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
