// espalier fit: a function of distance as a sum of exponentials, with its certified error.
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"
#include "function_flag.hpp"

#include <espalier/functions/exponential_sum.hpp>

#include <cstdio>

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  flags.value("function", "F", "an expression in d, or table:FILE.npy with the values at 0, 1, 2, ...");
  flags.value("distances", "a:N", "fit at the integers a .. N-1; below a the function counts in norms only (usually 0:N)");
  flags.value("output", "TERMS.json",
              "terms and certified error, in double: --tolerance defaults to 1e-12, with --type float to 1e-6");
  flags.value("max-slots", "R", "real states at most: 1 for a real decay, 2 for a complex one (default 48)");
  flags.toggle("one-sided", "rows of a causal mask: distances 0 .. i");
}

nlohmann::json number_json(std::complex<double> z) {
  return z.imag() == 0 ? nlohmann::json(z.real()) : nlohmann::json({z.real(), z.imag()});
}

nlohmann::json bound_json(const std::optional<double>& v) {
  return v ? nlohmann::json(*v) : nlohmann::json(nullptr);
}

nlohmann::json certificate_json(const Certificate& c) {
  return {{"row", bound_json(c.row)}, {"entry", bound_json(c.entry)}, {"pointwise", bound_json(c.pointwise)}};
}

nlohmann::json terms_json(const ExponentialSum& sum) {
  nlohmann::json terms = nlohmann::json::array();
  for (const ExponentialTerm& t : sum.terms) {
    terms.push_back({{"coefficient", number_json(t.coefficient)}, {"decay", number_json(t.decay)}});
    if (t.power != 0) terms.back()["power"] = t.power;
  }
  return terms;
}

// "0:4096": first and end.
std::pair<Index, Index> distances_from(const std::string& text) {
  const auto colon = text.find(':');
  if (colon == std::string::npos) throw FlagError("distances", "'" + text + "' (expected 0:N, the integers 0 .. N-1)");
  const Index first = integer_from(text.substr(0, colon), "distances");
  const Index end = integer_from(text.substr(colon + 1), "distances");
  // 2^28 distances take 10 GB and a minute.
  if (first < 0 || end <= first || end > (Index{1} << 28)) {
    throw FlagError("distances", "'" + text + "' (expected 0 <= a < N <= " + std::to_string(Index{1} << 28) + " in a:N)");
  }
  return {first, end};
}

std::optional<double> wanted(const Certificate& c, ToleranceKind kind) {
  if (kind == ToleranceKind::row) return c.row;
  return kind == ToleranceKind::entry ? c.entry : c.pointwise;
}

void run_fit(Run& run) {
  const std::string function = run.flags.required("function", "for example '1/(1+d/16)'");
  const auto [first, count] = distances_from(run.flags.required("distances", "0:N, the integers 0 .. N-1"));
  const std::string path = run.flags.required("output", "TERMS.json");
  if (run.engine() != "auto" && run.engine() != "exponentials") {
    throw FlagError("engine", "'" + run.engine() + "' (expected auto or exponentials)");
  }
  FitOptions options;
  // Without an input the numbers are double unless asked otherwise.
  const bool single = run.flags.text("type").value_or("double") == "float";
  options.tolerance = run.tolerance(single ? Precision::single : Precision::twofold);
  const std::string tolerance =
      run.flags.text("tolerance").value_or(single ? "1e-6 (the default for float)" : "1e-12 (the default for double)");
  options.kind = run.tolerance_kind();
  options.first = first;
  options.max_slots = run.flags.integer("max-slots", 1).value_or(options.max_slots);
  options.one_sided = run.flags.on("one-sided");
  run.outputs.reserve("output", path);
  const FunctionFlag f = read_function(run, function, "function");
  run.flags.check_all_used();
  if (!f.table_shape.empty() && f.table_shape[0] < count) {
    throw FlagError("function", shortened(function) + ": " + std::to_string(f.table_shape[0]) + " values (expected at least " +
                                    std::to_string(count) + " for --distances " + std::to_string(first) + ":" +
                                    std::to_string(count) + ")");
  }
  ExponentialFit fit;
  run.timed("apply", [&] {
    try {
      fit = fit_exponentials(f.f, count, options);
    } catch (const FunctionError&) {
      throw;
    } catch (const ValueError& error) {
      throw FlagError("function", "'" + shortened(function) + "': " + error.what());
    }
  });
  if (!fit.met) throw FlagError("tolerance", tolerance + " cannot be met: " + fit.reason);

  const char* kind = options.kind == ToleranceKind::row ? "row" : options.kind == ToleranceKind::entry ? "entry" : "pointwise";
  nlohmann::json out = {
      {"function", function},     {"distances", {first, count}},        {"tolerance", options.tolerance},
      {"tolerance_kind", kind},   {"terms", terms_json(fit.sum)},       {"certified_error", certificate_json(fit.certificate)},
      {"slots", fit.sum.slots()}, {"amplification", fit.amplification}, {"fitted_negative", fit.fitted_negative},
      {"method", fit.method}};
  const std::string text = out.dump(2) + "\n";
  run.outputs.fill(path, [&text](WholeFile& file) { file.write(text); });

  run.report["size"] = count;
  run.report["engine"] = "exponentials";
  run.report["reason"] = fit.reason;
  run.report["type"] = "double";
  run.report["tolerance"] = options.tolerance;
  run.report["tolerance_kind"] = kind;
  run.report["certified_error"] = out["certified_error"];
  run.report["certified_error"]["norm"] = nullptr;
  run.report["terms"] = fit.sum.terms.size();
  run.report["slots"] = fit.sum.slots();
  run.report["fitted_negative"] = fit.fitted_negative;
  char line[200];
  std::snprintf(line, sizeof(line), "fit: L = %td, %zu terms (%td slots), %.3g s, certified error %.2g (%s)", count,
                fit.sum.terms.size(), fit.sum.slots(), run.report["seconds_apply"].get<double>(),
                *wanted(fit.certificate, options.kind), kind);
  run.finish(line);
}

}  // namespace

Command fit_command() {
  return {
      "fit", "a function of distance as a sum of exponentials, with its certified error",
      "  espalier fit --function '1/(1+d/16)' --distances 0:65536 --tolerance 1e-5 --output terms.json\n"
      "  espalier fit --function 'exp(-(d/300)^2)' --distances 0:4096 --tolerance 1e-6 --tolerance-kind entry --output t.json\n"
      "  espalier fit --function table:weights.npy --distances 129:4096 --tolerance 1e-4 --output far.json",
      add_flags, run_fit};
}

}  // namespace espalier::tools
