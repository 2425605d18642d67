// Sums of exponentials: values, states, magnitudes.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/functions/exponential_term.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

namespace espalier {

namespace {

constexpr Index kBlock = 64;

// Re(c exp(-s d)), taken apart so that real terms cost one exponential and no infinite intermediate turns into NaN.
double value(const ExponentialTerm& t, double d) {
  const double decayed = std::exp(-t.decay.real() * d);
  if (t.real()) return t.coefficient.real() * decayed;
  const double angle = -t.decay.imag() * d;
  return decayed * (t.coefficient.real() * std::cos(angle) - t.coefficient.imag() * std::sin(angle));
}

double power_of(double d, int power) {
  double p = 1;
  for (int k = 0; k < power; ++k) p *= d;
  return p;
}

// The table of one term within a block: exp(-s j), j = 0 .. 63; its real and its imaginary part.
struct BlockTable {
  std::array<double, kBlock> re, im;
  explicit BlockTable(std::complex<double> s) {
    for (Index j = 0; j < kBlock; ++j) {
      const double decayed = std::exp(-s.real() * static_cast<double>(j)), angle = -s.imag() * static_cast<double>(j);
      re[static_cast<std::size_t>(j)] = decayed * std::cos(angle);
      im[static_cast<std::size_t>(j)] = decayed * std::sin(angle);
    }
  }
};

}  // namespace

double ExponentialSum::operator()(double d) const {
  double s = 0;
  for (const ExponentialTerm& t : terms) s += t.power == 0 ? value(t, d) : power_of(d, t.power) * value(t, d);
  return s;
}

void ExponentialSum::evaluate(Index first, std::span<double> out) const {
  if (first < 0) throw ValueError("ExponentialSum::evaluate: first is " + std::to_string(first) + ", expected >= 0");
  std::fill(out.begin(), out.end(), 0.0);
  const auto count = static_cast<Index>(out.size());
  for (const ExponentialTerm& t : terms) {
    const BlockTable table(t.decay);
    const bool real = t.real();
    std::array<double, kBlock> block;
    for (Index b = 0; b < count; b += kBlock) {
      const double d0 = static_cast<double>(first + b);
      const double decayed = std::exp(-t.decay.real() * d0);
      if (decayed == 0 && t.decay.real() > 0) break;
      const double angle = -t.decay.imag() * d0;
      const std::complex<double> c =
          real ? t.coefficient * decayed
               : t.coefficient * std::complex<double>(decayed * std::cos(angle), decayed * std::sin(angle));
      const double cr = c.real(), ci = c.imag();
      if (real) {
        for (std::size_t j = 0; j < kBlock; ++j) block[j] = cr * table.re[j];
      } else {
        for (std::size_t j = 0; j < kBlock; ++j) block[j] = cr * table.re[j] - ci * table.im[j];
      }
      const auto n = static_cast<std::size_t>(std::min(kBlock, count - b));
      double* o = out.data() + b;
      if (t.power == 0) {
        for (std::size_t j = 0; j < n; ++j) o[j] += block[j];
      } else {
        for (std::size_t j = 0; j < n; ++j) o[j] += power_of(d0 + static_cast<double>(j), t.power) * block[j];
      }
    }
  }
}

void ExponentialSum::evaluate(std::span<const double> distances, std::span<double> out) const {
  if (distances.size() != out.size()) {
    throw ShapeError("ExponentialSum::evaluate: out", static_cast<Index>(out.size()), static_cast<Index>(distances.size()));
  }
  for (std::size_t k = 0; k < out.size(); ++k) out[k] = (*this)(distances[k]);
}

Index ExponentialSum::slots() const {
  Index slots = 0;
  for (std::size_t k = 0; k < terms.size(); ++k) {
    bool seen = false, complex = false;
    int power = 0;
    for (std::size_t i = 0; i < terms.size(); ++i) {
      if (terms[i].decay != terms[k].decay) continue;
      seen = seen || i < k;
      complex = complex || !terms[i].real();
      power = std::max(power, terms[i].power);
    }
    if (!seen) slots += (complex ? 2 : 1) * (power + 1);
  }
  return slots;
}

double ExponentialSum::magnitude(double first, double last) const {
  double sum = 0;
  for (const ExponentialTerm& t : terms) {
    // d^p exp(-s d) has one maximum, at p / s.
    const double s = t.decay.real();
    double d = s > 0 ? std::clamp(t.power / s, first, last) : last;
    sum += std::abs(t.coefficient) * power_of(d, t.power) * std::exp(-s * d);
  }
  return sum;
}

double ExponentialSum::disc_bound(double centre, double radius) const {
  double bound = 0;
  for (const ExponentialTerm& t : terms) {
    bound += std::abs(t.coefficient) * power_of(std::abs(centre) + radius, t.power) *
             std::exp(-t.decay.real() * centre + std::abs(t.decay) * radius);
  }
  return bound;
}

double ExponentialSum::least_decay() const {
  double least = std::numeric_limits<double>::infinity();
  for (const ExponentialTerm& t : terms) least = std::min(least, t.decay.real());
  return least;
}

}  // namespace espalier
