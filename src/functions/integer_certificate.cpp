// The exhaustive check of a sum of exponentials on the integers.
// SPDX-License-Identifier: Apache-2.0
#include "functions/fit_certificate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier::fitting {

namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();
// Quotients below the smallest normal number are rounded up to it.
constexpr double kSmallest = std::numeric_limits<double>::min();
constexpr std::size_t kBlock = 64;
// Distances that the sum is evaluated on at once: its terms' tables cost as much as 64 of them.
constexpr std::size_t kRun = 4096;
// Sums of errors are kept for each distance below this, and beyond for each block: a row is then taken for as wrong as the end
// of its block.
constexpr std::size_t kKept = 65536;

// Bound on the rounding error of the sum's values on `count` distances from d0 on: each term is a product of two exponentials
// whose arguments are rounded, 4 operations and |s| d of argument, and as many additions as there are terms.
double rounding(const ExponentialSum& sum, double d0, std::size_t count) {
  double bound = 0;
  const double end = d0 + static_cast<double>(count);
  for (const ExponentialTerm& t : sum.terms) {
    const double s = t.decay.real();
    const double d = s > 0 ? std::clamp(t.power / s, d0, end) : end;
    const double magnitude = std::abs(t.coefficient) * std::pow(d, t.power) * std::exp(-s * d);
    bound += magnitude * (8 + t.power + static_cast<double>(sum.terms.size()) + 2 * std::abs(t.decay) * end);
  }
  return kEps * bound;
}

// Prefix sums of errors by distance.
class ErrorSums {
 public:
  explicit ErrorSums(std::size_t count) { sums_.reserve(std::min(count, kKept) + count / kBlock + 1); }
  // The sum up to and including d; d rises.
  void push(std::size_t d, double sum) {
    if (slot(d) < sums_.size()) {
      sums_[slot(d)] = sum;
    } else {
      sums_.resize(slot(d), last_);
      sums_.push_back(sum);
    }
    last_ = sum;
  }
  // At least the sum up to d.
  double operator()(std::size_t d) const { return sums_.empty() ? 0.0 : sums_[std::min(slot(d), sums_.size() - 1)]; }
  double all() const { return last_; }

 private:
  static std::size_t slot(std::size_t d) { return d < kKept ? d : kKept + (d - kKept) / kBlock; }
  std::vector<double> sums_;
  double last_ = 0;
};

// The worst row: (sum of errors) / (sum of |f|), rows of a causal mask or of a symmetric one.
std::optional<double> worst_row(const ErrorSums& error, const std::vector<double>& norm, double error_at_0, double norm_at_0,
                                bool one_sided) {
  const std::size_t n = norm.size();
  double worst = 0;
  const auto row = [&worst](double e, double s) {
    if (e == 0) return;
    worst = std::max(worst, s > 0 ? e / s : std::numeric_limits<double>::infinity());
  };
  if (one_sided) {
    for (std::size_t i = 0; i < n; ++i) row(error(i), norm[i]);
  } else {
    for (std::size_t i = 0; i <= (n - 1) / 2; ++i) {
      row(error(i) + error(n - 1 - i) - error_at_0, norm[i] + norm[n - 1 - i] - norm_at_0);
    }
  }
  if (!std::isfinite(worst)) return std::nullopt;
  // Prefix sums of n numbers carry n roundings each.
  return error.all() > 0 ? worst * (1 + 4 * kEps * static_cast<double>(n)) + kSmallest : 0;
}

}  // namespace

Checked check_integers(const Problem& p, const ExponentialSum& sum) {
  const std::size_t n = p.all.size(), first = static_cast<std::size_t>(p.first);
  ErrorSums error(n);
  Checked out;
  double total = 0, largest = 0, ratio = 0;
  std::vector<double> run(kRun);
  for (std::size_t b = first; b < n; b += kBlock) {
    const std::size_t m = std::min(kBlock, n - b), at = (b - first) % kRun;
    if (at == 0) {
      p.look();
      sum.evaluate(static_cast<Index>(b), std::span(run).first(std::min(kRun, n - b)));
    }
    const double* block = run.data() + at;
    const double slack = rounding(sum, static_cast<double>(b), m);
    for (std::size_t k = 0; k < m; ++k) {
      const double y = p.all[b + k], e = std::abs(block[k] - y) + slack + 2 * kEps * std::abs(y);
      total += e;
      error.push(b + k, total);
      largest = std::max(largest, e);
      if (std::abs(y) >= 1e-7 * p.largest && y != 0) ratio = std::max(ratio, e / std::abs(y));
      if (y >= 0 && block[k] < 0) ++out.negative;
    }
  }
  // NaN of an overflowing sum must not pass as small.
  const bool finite = std::isfinite(total);
  const double zero_error = first == 0 ? error(0) : 0.0;
  if (!finite) return out;
  out.certificate.row = worst_row(error, p.norm, zero_error, std::abs(p.all[0]), p.one_sided);
  if (p.largest > 0) {
    const double smallest = total > 0 ? kSmallest : 0;
    out.certificate.entry = largest / p.largest + smallest;
    if (ratio <= 1) out.certificate.pointwise = ratio + smallest;
    out.amplification = sum.magnitude(p.first, p.last) / p.largest;
  } else if (total == 0) {
    out.certificate.entry = 0, out.certificate.pointwise = 0;
  }
  return out;
}

}  // namespace espalier::fitting
