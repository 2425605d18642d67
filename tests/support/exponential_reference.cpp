// The slow truth about sums of exponentials.
// SPDX-License-Identifier: Apache-2.0
#include "support/exponential_reference.hpp"

#include <algorithm>
#include <cmath>

namespace espalier::test {

namespace {

using Long = long double;

std::string text(const std::string& what, Long got, Long bound) {
  return what + ": " + std::to_string(static_cast<double>(got)) + " e0, log10 " +
         std::to_string(static_cast<double>(std::log10(got))) + ", bound log10 " +
         std::to_string(static_cast<double>(std::log10(bound)));
}

}  // namespace

Long exponential_value(const ExponentialSum& sum, Long d) {
  Long total = 0;
  for (const ExponentialTerm& t : sum.terms) {
    const Long a = t.decay.real(), b = t.decay.imag(), re = t.coefficient.real(), im = t.coefficient.imag();
    const Long power = t.power == 0 ? 1 : std::pow(d, static_cast<Long>(t.power));
    total += power * std::exp(-a * d) * (re * std::cos(b * d) + im * std::sin(b * d));
  }
  return total;
}

TrueErrors true_errors(const DistanceFunction& f, const ExponentialSum& sum, Index count, Index first, bool one_sided) {
  std::vector<Long> value, error;
  TrueErrors out;
  Long largest = 0, worst = 0;
  for (Index d = 0; d < count; ++d) {
    const Long y = f(static_cast<double>(d));
    const Long approximate = d >= first ? exponential_value(sum, static_cast<Long>(d)) : y;
    value.push_back(std::abs(y)), error.push_back(std::abs(approximate - y));
    largest = std::max(largest, std::abs(y)), worst = std::max(worst, error.back());
    const Long rounding = 1e-12L * sum.magnitude(static_cast<double>(d), static_cast<double>(d)) + 1e-300L;
    out.negative += d >= first && y >= 0 && approximate < -rounding;
    out.perhaps_negative += d >= first && y >= 0 && approximate < rounding;
  }
  for (Index d = first; d < count; ++d) {
    const auto k = static_cast<std::size_t>(d);
    if (value[k] >= 1e-7L * largest && value[k] > 0) out.pointwise = std::max(out.pointwise, error[k] / value[k]);
  }
  out.entry = largest > 0 ? worst / largest : worst;
  for (Index i = 0; i < count; ++i) {
    Long e = 0, s = 0;
    for (Index j = 0; j < (one_sided ? i + 1 : count); ++j) {
      const auto d = static_cast<std::size_t>(std::abs(i - j));
      e += error[d], s += value[d];
    }
    if (s > 0) out.row = std::max(out.row, e / s);
    if (s == 0 && e > 0) out.zero_row = true;
  }
  return out;
}

std::vector<std::string> broken_promises(const ExponentialFit& fit, const DistanceFunction& f, Index count,
                                         const FitOptions& options) {
  std::vector<std::string> broken;
  const TrueErrors truth = true_errors(f, fit.sum, count, options.first, options.one_sided);
  const Certificate& c = fit.certificate;
  // A closed form promises 0: f in double differs from its own formula by rounding, which is no error of the sum.
  const bool closed = fit.method == "closed form";
  const auto bounded = [&](const char* what, Long got, const std::optional<double>& bound, bool must) {
    if (must && !bound) broken.push_back(std::string(what) + ": no bound");
    if (bound && !closed && !(got <= *bound)) broken.push_back(text(what, got, *bound));
    if (bound && closed && *bound != 0) broken.push_back(std::string(what) + ": a closed form with an error");
  };
  bounded("row", truth.row, c.row, fit.met && options.kind == ToleranceKind::row);
  bounded("entry", truth.entry, c.entry, fit.met && options.kind == ToleranceKind::entry);
  bounded("pointwise", truth.pointwise, c.pointwise, fit.met && options.kind == ToleranceKind::pointwise);
  if (c.row && truth.zero_row && !closed) broken.push_back("row: a bound although a row of norm 0 has an error");
  if (c.estimated) broken.push_back("estimated on the integers");
  if (fit.sum.least_decay() < 0) broken.push_back("a term grows");
  if (!fit.method.empty() && !closed &&
      (fit.fitted_negative < truth.negative || fit.fitted_negative > truth.perhaps_negative)) {
    broken.push_back("fitted_negative " + std::to_string(fit.fitted_negative) + ", counted " + std::to_string(truth.negative) +
                     " to " + std::to_string(truth.perhaps_negative));
  }
  if (fit.reason.empty()) broken.push_back("no reason");
  if (!fit.met) return broken;
  if (fit.sum.slots() > options.max_slots) broken.push_back("too many slots");
  if (!closed && fit.amplification > options.max_amplification) broken.push_back("amplification");
  const std::optional<double> wanted = options.kind == ToleranceKind::row     ? c.row
                                       : options.kind == ToleranceKind::entry ? c.entry
                                                                              : c.pointwise;
  if (wanted && *wanted > options.tolerance) broken.push_back("met, but above the tolerance");
  return broken;
}

}  // namespace espalier::test
