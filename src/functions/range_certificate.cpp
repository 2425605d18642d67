// Bounds on the error of a sum of exponentials over all real distances of a range.
// SPDX-License-Identifier: Apache-2.0
#include "functions/fit_certificate.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace espalier::fitting {

namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPi = 3.14159265358979323846;
constexpr int kDegree = 15, kNodes = 64;
constexpr double kGrowth = 1.072;  // 1 / cos(15 pi / 128), rounded up
// A sum that needs more pieces than this oscillates or jumps too much to be bounded; it then has no certificate.
constexpr int kMostPieces = 8192;

class RangeCheck {
 public:
  RangeCheck(Problem& problem, const ExponentialSum& sum) : p_(problem), sum_(sum) {
    for (int k = 0; k < kNodes; ++k) cosine_[static_cast<std::size_t>(k)] = std::cos(kPi * (k + 0.5) / kNodes);
  }

  Checked run() {
    estimated_ = !std::isfinite(p_.f->disc_bound(0.5 * (p_.first + p_.last), 0)) && !p_.f->constant_pieces();
    piece(p_.first, p_.last, 0);
    Checked out;
    if (!std::isfinite(largest_error_)) return out;
    out.certificate.estimated = estimated_;
    // sup |f| is at least what was seen.
    if (largest_ > 0) out.certificate.entry = largest_error_ / largest_;
    out.amplification = largest_ > 0 ? sum_.magnitude(p_.first, p_.last) / largest_ : 0;
    double relative = 0;
    bool everywhere = true;
    for (const Bound& b : bounds_) {
      // |f| on the piece lies between least and most; below 1e-7 of the largest it takes no part in `pointwise`.
      if (b.most < 1e-7 * largest_) {
        everywhere = false;
        continue;
      }
      if (b.least < 1e-7 * largest_) everywhere = false;
      relative = std::max(relative, b.error / std::max(b.least, 1e-7 * largest_));
    }
    if (largest_ > 0 && relative <= 1) out.certificate.pointwise = relative;
    if (p_.floor > 0) {
      double worst = 0;
      for (const Bound& b : bounds_) worst = std::max(worst, b.error / (b.least + p_.floor));
      out.certificate.row = 2 * worst;
    } else if (largest_ > 0 && everywhere) {
      out.certificate.row = relative;
    }
    if (largest_ == 0 && largest_error_ == 0) out.certificate.row = out.certificate.entry = out.certificate.pointwise = 0;
    out.negative = negative_;
    return out;
  }

 private:
  struct Bound {
    double error, least, most;
  };

  void piece(double a, double b, int depth) {
    p_.look();
    if (++pieces_ > kMostPieces) {
      largest_error_ = kInfinity;
      return;
    }
    const double c = 0.5 * (a + b), h = 0.5 * (b - a);
    // A function that is a polynomial of degree 15 up to `remainder` (Cauchy: M (h / R)^16 / (1 - h / R) on a disc of radius R)
    // is at most 1 / cos(pi 15 / 128) = 1.0719 times its largest value at 64 Chebyshev nodes, remainder apart.
    double remainder = kInfinity, remainder_f = kInfinity;
    for (const double ratio : {4.0, 8.0, 16.0, 2.5}) {
      const double r = ratio * h, factor = std::pow(ratio, -(kDegree + 1)) / (1 - 1 / ratio);
      const double f = estimated_ ? 0.0 : p_.f->disc_bound(c, r) * factor;
      remainder_f = std::min(remainder_f, f);
      remainder = std::min(remainder, f + sum_.disc_bound(c, r) * factor);
    }
    double error = 0, slack = 0, low = kInfinity, high = -kInfinity;
    Index negative = 0;
    for (const double cosine : cosine_) {
      const double d = std::clamp(c + h * cosine, a, b), y = (*p_.f)(d), s = sum_(d);
      ++p_.evaluations;
      error = std::max(error, std::abs(s - y));
      low = std::min(low, y), high = std::max(high, y);
      negative += y >= 0 && s < 0;
    }
    const double most = std::max(std::abs(low), std::abs(high));
    slack = rounding(b, most);
    const double bound = kGrowth * (error + slack + remainder) + remainder;
    const double tight = std::max(1e-3 * error, 1e-2 * p_.tolerance * std::max(nearest(low, high), 1e-7 * largest_seen()));
    if (depth < 60 && h > 0 && !(remainder <= std::max(tight, 0.5 * slack))) {
      if (const double jump = p_.f->variation(a, b); std::isfinite(jump)) {
        const double coarse = error + jump + slope(a) * (b - a) + slack;
        if (coarse <= 2 * (error + slack) || coarse <= tight || (depth > 40)) {
          keep({coarse, nearest(low - jump, high + jump), most + jump}, most, negative);
          return;
        }
      }
      const double middle = a + (depth < 30 ? 0.25 : 0.5) * (b - a);
      if (middle > a && middle < b) {
        piece(a, middle, depth + 1);
        piece(middle, b, depth + 1);
        return;
      }
    }
    // f between the nodes, by the same argument about the middle of its values there.
    const double swing = (kGrowth - 1) * 0.5 * (high - low) + (kGrowth + 1) * remainder_f + 4 * kEps * most;
    keep({bound, nearest(low - swing, high + swing), most + swing}, most, negative);
  }

  // Least |y| for y in [low, high].
  static double nearest(double low, double high) {
    return low <= 0 && high >= 0 ? 0.0 : std::min(std::abs(low), std::abs(high));
  }

  void keep(Bound b, double seen, Index negative) {
    largest_error_ = std::max(largest_error_, b.error);
    if (std::isnan(b.error)) largest_error_ = kInfinity;
    largest_ = std::max(largest_, seen);
    negative_ += negative;
    bounds_.push_back(b);
  }

  double largest_seen() const { return std::max(largest_, p_.largest); }
  // Bound of |d sum / d d| from a on.
  double slope(double a) const {
    double s = 0;
    for (const ExponentialTerm& t : sum_.terms) {
      const double q = t.power > 0 ? t.power * std::pow(p_.last, t.power - 1) : 0.0;
      s += std::abs(t.coefficient) * (std::abs(t.decay) * std::pow(p_.last, t.power) + q) * std::exp(-t.decay.real() * a);
    }
    return s;
  }
  double rounding(double d, double y) const {
    double s = 4 * std::abs(y);
    for (const ExponentialTerm& t : sum_.terms) {
      const double re = t.decay.real();
      s += std::abs(t.coefficient) * std::pow(d, t.power) *
           (8 + static_cast<double>(sum_.terms.size()) + 2 * std::abs(t.decay) * d) * std::exp(-re * std::max(p_.first, 0.0));
    }
    return kEps * s;
  }

  Problem& p_;
  const ExponentialSum& sum_;
  std::array<double, kNodes> cosine_;
  std::vector<Bound> bounds_;
  double largest_error_ = 0, largest_ = 0;
  Index negative_ = 0;
  int pieces_ = 0;
  bool estimated_ = false;
};

}  // namespace

Checked check_range(Problem& problem, const ExponentialSum& sum) {
  return RangeCheck(problem, sum).run();
}

}  // namespace espalier::fitting
