// The error that a kind of tolerance bounds, out of a certificate: as a number, and in words for a refusal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>

#include <optional>
#include <sstream>
#include <string>

namespace espalier {

inline std::optional<double> error_of_kind(const Certificate& c, ToleranceKind kind) {
  return kind == ToleranceKind::row ? c.row : kind == ToleranceKind::entry ? c.entry : c.pointwise;
}

// "a row error of 0.01, above the tolerance 1e-06"; empty bounds are those above 1.
inline std::string missed_tolerance(const Certificate& c, ToleranceKind kind, double tolerance) {
  const char* name = kind == ToleranceKind::row ? "a row" : kind == ToleranceKind::entry ? "an entry" : "a pointwise";
  const std::optional<double> error = error_of_kind(c, kind);
  std::ostringstream text;
  text << name << " error of ";
  if (error) {
    text << *error;
  } else {
    text << "more than 1";
  }
  text << ", above the tolerance " << tolerance;
  return text.str();
}

}  // namespace espalier
