// Data of a fit: values, allowed errors, graded samples.
// SPDX-License-Identifier: Apache-2.0
#include "functions/fit_problem.hpp"

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>

#include "core/number_text.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace espalier::fitting {

namespace {

constexpr std::size_t kNodes = 8;
// Below this many integers a piece is taken whole: the outer Chebyshev nodes would round to one integer.
constexpr double kWhole = 24;
// Least squares see at most so many distances.
constexpr std::size_t kMostSamples = 4096;
// Pieces of a real range; the functions of this library need some hundred.
constexpr std::size_t kMostPieces = 4096;
// Points of a real range at which the largest |f| is looked for, half of them evenly spaced, half in the logarithm.
constexpr int kScan = 512;
constexpr double kPi = 3.14159265358979323846;

double checked(const DistanceFunction& f, double d) {
  const double y = f(d);
  if (!std::isfinite(y)) {
    throw FunctionError(f.name(), "is " + number_text(y) + " at d = " + number_text(d) + ", expected a finite number");
  }
  return y;
}

void check_options(const FitOptions& o) {
  if (!(o.tolerance >= 0)) throw ValueError("fit_exponentials: tolerance is " + number_text(o.tolerance) + ", expected >= 0");
  if (o.max_slots < 1) throw ValueError("fit_exponentials: max_slots is " + std::to_string(o.max_slots) + ", expected >= 1");
  if (!(o.max_amplification >= 1)) {
    throw ValueError("fit_exponentials: max_amplification is " + number_text(o.max_amplification) + ", expected >= 1");
  }
}

void copy_options(Problem& p, const DistanceFunction& f, const FitOptions& o) {
  check_options(o);
  p.f = &f;
  p.tolerance = o.tolerance, p.max_amplification = o.max_amplification;
  p.kind = o.kind, p.one_sided = o.one_sided, p.max_slots = o.max_slots;
  p.stop = o.stop;
}

// One piece of the subdivision: its nodes, and whether the polynomial through them is f.
struct Piece {
  std::array<double, kNodes> d, y;
};

class Sampler {
 public:
  explicit Sampler(Problem& problem) : p_(problem) {}

  void run() {
    split(p_.first, p_.last, 0);
    Samples& s = p_.samples;
    s.needed = static_cast<Index>(distance_.size());
    thin();
    const auto n = static_cast<Eigen::Index>(distance_.size());
    s.distance = Eigen::Map<Eigen::VectorXd>(distance_.data(), n);
    s.value = Eigen::Map<Eigen::VectorXd>(value_.data(), n);
    s.share = Eigen::Map<Eigen::VectorXd>(share_.data(), n);
    s.allowed.resize(n);
    for (Eigen::Index k = 0; k < n; ++k) s.allowed[k] = p_.allowed(s.distance[k], s.value[k]);
  }

 private:
  // A rough function has as many samples as distances: beyond the first ones every so many are dropped at random, and those
  // that stay stand for them too. Which is enough to see that a fit fails; one that does not is checked everywhere.
  void thin() {
    const std::size_t n = distance_.size();
    if (n <= kMostSamples) return;
    constexpr std::size_t kFirst = kMostSamples / 8;
    const double share = static_cast<double>(n - kFirst) / static_cast<double>(kMostSamples - kFirst);
    const Random random(n);
    std::size_t kept = kMostSamples / 8;
    for (double at = static_cast<double>(kept); at < static_cast<double>(n); at += share, ++kept) {
      const auto k = std::min(n - 1, static_cast<std::size_t>(at + share * random.uniform(kept)));
      distance_[kept] = distance_[k], value_[kept] = value_[k], share_[kept] = share * share_[k];
    }
    distance_.resize(kept), value_.resize(kept), share_.resize(kept);
  }

  double value(double d) {
    if (p_.integers) return p_.all[static_cast<std::size_t>(d)];
    ++p_.evaluations;
    return checked(*p_.f, d);
  }
  double snap(double d) const { return p_.integers ? std::round(d) : d; }

  void push(double d, double y, double share) { distance_.push_back(d), value_.push_back(y), share_.push_back(share); }

  void split(double a, double b, int depth) {
    if (p_.integers && b - a < kWhole) {
      for (double d = a; d <= b; ++d) push(d, value(d), 1);
      return;
    }
    Piece piece;
    for (std::size_t k = 0; k < kNodes; ++k) {
      piece.d[k] = snap(a + (b - a) * (0.5 - 0.5 * std::cos(kPi * static_cast<double>(k) / (kNodes - 1))));
      piece.y[k] = value(piece.d[k]);
    }
    // 48 cuts to a quarter end at 1e-29 of a real range: a root at 0 is then below every tolerance that double can meet.
    // Where f is as good as 0 a sum is not yet: pieces grow with the distance, whatever f does.
    const double short_piece = p_.integers ? kWhole : 1e-3 * (p_.last - p_.first);
    const bool graded = b - a <= 0.5 * (a - p_.first) + short_piece;
    p_.samples.rough = p_.pieces.size() >= kMostPieces;
    if (depth >= 48 || p_.samples.rough || (graded && smooth(piece))) {
      const double length = p_.integers ? b - a + 1 : b - a;
      for (std::size_t k = 0; k < kNodes; ++k) {
        const double left = k == 0 ? piece.d[k] : piece.d[k - 1], right = k + 1 == kNodes ? piece.d[k] : piece.d[k + 1];
        push(piece.d[k], piece.y[k], length * 0.5 * (right - left) / (b - a));
      }
      if (!p_.integers) p_.pieces.push_back({a, b});
      return;
    }
    // Real ranges are finest towards their first distance, where a root of f may be.
    const double middle = p_.integers ? std::floor(0.5 * (a + b)) : a + 0.25 * (b - a);
    split(a, middle, depth + 1);
    split(p_.integers ? middle + 1 : middle, b, depth + 1);
  }

  bool smooth(const Piece& piece) {
    std::array<double, kNodes> weight;
    const double scale = 4 / (piece.d[kNodes - 1] - piece.d[0]);
    for (std::size_t k = 0; k < kNodes; ++k) {
      weight[k] = 1;
      for (std::size_t i = 0; i < kNodes; ++i) {
        if (i != k) weight[k] /= scale * (piece.d[k] - piece.d[i]);
      }
    }
    for (std::size_t k = 0; k + 1 < kNodes; ++k) {
      const double d = snap(0.5 * (piece.d[k] + piece.d[k + 1]));
      if (d == piece.d[k] || d == piece.d[k + 1]) continue;
      double up = 0, down = 0;
      for (std::size_t i = 0; i < kNodes; ++i) {
        const double w = weight[i] / (d - piece.d[i]);
        up += w * piece.y[i], down += w;
      }
      const double y = value(d);
      if (!(std::abs(up / down - y) <= 0.05 * p_.allowed(d, y) + 1e-15 * p_.largest)) return false;
    }
    return true;
  }

  Problem& p_;
  std::vector<double> distance_, value_, share_;
};

}  // namespace

void Problem::look() const {
  if (stop.stop_requested()) throw Cancelled();
}

double Problem::allowed(double d, double y) const {
  if (kind == ToleranceKind::entry) return tolerance * largest;
  if (kind == ToleranceKind::pointwise) return tolerance * std::max(std::abs(y), 1e-7 * largest);
  if (!integers) return floor > 0 ? 0.5 * tolerance * (std::abs(y) + floor) : tolerance * std::max(std::abs(y), 1e-7 * largest);
  // Half in proportion to |f|, half spread evenly over the octaves of distance: both halves add up to at most S(i) on every
  // row of distances 0 .. i, since sum_{d <= i} S(d) / (d + 1) <= S(i) (1 + log n).
  const auto n = norm.size();
  const std::size_t low = (n - 1) / 2;
  // Of a symmetric mask's middle row the nearer side; where f is 0 on all of it, half of the other (f(0) = 0 on two points).
  const double row = one_sided ? norm[static_cast<std::size_t>(d)] : norm[low] > 0 ? norm[low] : 0.5 * norm[n - 1 - low];
  return 0.5 * tolerance * (std::abs(y) + row / ((d + 1) * (1 + std::log(static_cast<double>(n)))));
}

double Problem::excess(const Eigen::VectorXd& error) const {
  if (kind != ToleranceKind::row || !integers) return (error.array().abs() / samples.allowed.array()).maxCoeff();
  // Rows of a symmetric mask: the first, and the two halves of the middle one; between them errors and norms change slowly.
  const std::size_t low = (norm.size() - 1) / 2, high = norm.size() - 1 - low;
  double sum = 0, worst = 0, below = 0, above = 0, zero = 0;
  for (Eigen::Index k = 0; k < error.size(); ++k) {
    const auto d = static_cast<std::size_t>(samples.distance[k]);
    const double part = samples.share[k] * std::abs(error[k]);
    sum += part;
    if (one_sided && sum > 0) worst = std::max(worst, sum / (tolerance * norm[d]));
    if (d == 0) zero = part;
    if (d <= low) below = sum;
    if (d <= high) above = sum;
  }
  if (one_sided) return worst;
  const double middle = norm[low] + norm[high] - std::abs(all[0]), errors = below + above - zero;
  if (errors > 0) worst = errors / (tolerance * middle);
  return std::max(worst, sum / (tolerance * norm.back()));
}

Problem integer_problem(const DistanceFunction& f, Index count, const FitOptions& options) {
  Problem p;
  copy_options(p, f, options);
  if (count < 1) throw ValueError("fit_exponentials: count is " + std::to_string(count) + ", expected >= 1");
  if (options.first < 0 || options.first > count) {
    throw ValueError("fit_exponentials: first is " + std::to_string(options.first) + ", expected 0 .. " +
                     std::to_string(count));
  }
  p.first = static_cast<double>(options.first), p.last = static_cast<double>(count - 1);
  p.all.resize(static_cast<std::size_t>(count));
  p.norm.resize(p.all.size());
  double sum = 0;
  for (std::size_t k = 0; k < p.all.size(); ++k) {
    if (k % 4096 == 0) p.look();
    p.all[k] = checked(f, static_cast<double>(k));
    sum += std::abs(p.all[k]);
    p.norm[k] = sum;
    p.largest = std::max(p.largest, std::abs(p.all[k]));
  }
  p.evaluations = count;
  return p;
}

Problem range_problem(const DistanceFunction& f, RealRange range, const FitOptions& options) {
  Problem p;
  copy_options(p, f, options);
  if (!(range.first >= 0 && range.last >= range.first) || !std::isfinite(range.last)) {
    throw ValueError("fit_exponentials: the range is " + number_text(range.first) + " .. " + number_text(range.last) +
                     ", expected 0 <= first <= last, finite");
  }
  if (f.last_integer() >= 0)
    throw ValueError("fit_exponentials: a " + f.name() + " has values at integers only, not on a range");
  p.integers = false;
  p.first = range.first, p.last = range.last;
  const double length = range.last - range.first;
  for (int k = 0; k <= kScan; ++k) {
    const double share = static_cast<double>(k) / kScan;
    for (const double part : {share, std::pow(10, -12 * share)}) {
      p.largest = std::max(p.largest, std::abs(checked(f, std::min(range.last, range.first + length * part))));
      ++p.evaluations;
    }
  }
  if (options.row_entries < 0) {
    throw ValueError("fit_exponentials: row_entries is " + std::to_string(options.row_entries) + ", expected >= 0");
  }
  if (options.row_entries > 0 && range.first == 0) {
    p.floor = std::abs(checked(f, 0)) / static_cast<double>(options.row_entries);
  }
  return p;
}

void take_samples(Problem& problem) {
  Sampler(problem).run();
}

}  // namespace espalier::fitting
