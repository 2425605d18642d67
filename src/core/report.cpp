// Printing of engine reports.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/report.hpp>

#include <ostream>

namespace espalier {

std::ostream& operator<<(std::ostream& out, const Report& r) {
  out << "engine:            " << r.engine << "\nreason:            " << r.reason;
  if (r.certificate) {
    out << '\n' << (r.certificate->estimated ? "estimated error:  " : "certified error:  ");
    const std::pair<const char*, const std::optional<double>&> bounds[] = {{"row", r.certificate->row},
                                                                           {"entry", r.certificate->entry},
                                                                           {"pointwise", r.certificate->pointwise},
                                                                           {"norm", r.certificate->norm}};
    for (const auto& [name, value] : bounds) {
      if (value) out << ' ' << name << ' ' << *value;
    }
  } else {
    out << "\nerror:             exact up to rounding";
  }
  if (r.terms > 0) out << "\nterms:             " << r.terms;
  out << "\nrounding estimate: " << r.rounding_estimate << "\npredicted seconds: " << r.predicted_seconds
      << "\nflops:             " << r.flops << "\nbytes:             " << r.bytes << "\nextra bytes:       " << r.extra_bytes;
  for (const auto& w : r.warnings) out << "\nwarning:           " << w;
  return out;
}

}  // namespace espalier
