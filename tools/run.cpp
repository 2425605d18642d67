// Common flags, timing, and the end of a run.
// SPDX-License-Identifier: Apache-2.0
#include "run.hpp"

#include <espalier/core/error.hpp>

#include "cost_model.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace espalier::tools {

namespace {

nlohmann::json number_or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

nlohmann::json certificate_json(const Certificate& c) {
  nlohmann::json j;
  j["row"] = number_or_null(c.row);
  j["entry"] = number_or_null(c.entry);
  j["pointwise"] = number_or_null(c.pointwise);
  j["norm"] = number_or_null(c.norm);
  return j;
}

}  // namespace

int available_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(CPU_COUNT(&set), 1) : 1;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void take_bounds(const std::vector<Report>& engines, Report& chosen) {
  if (!chosen.certificate) return;
  for (const Report& r : engines) {
    if (r.engine != chosen.engine) continue;
    chosen.certificate = r.certificate;
    chosen.warnings = r.warnings;
  }
}

std::string certificate_text(const Report& report) {
  if (!report.certificate) return "exact";
  const Certificate& c = *report.certificate;
  char text[80];
  const auto say = [&](const char* kind, double value) {
    std::snprintf(text, sizeof(text), "%s error %.2g (%s)", c.estimated ? "estimated" : "certified", value, kind);
    return std::string(text);
  };
  if (c.row) return say("row", *c.row);
  if (c.norm) return say("norm", *c.norm);
  if (c.entry) return say("entry", *c.entry);
  return "no certificate";
}

void add_common_flags(Flags& flags) {
  const std::string group = "Everywhere";
  flags.value("engine", "NAME", "engine of the mask, or auto (default)", group);
  flags.value("tolerance", "E", "bound on the mask's row error (default 1e-6 float, 1e-12 double; 0: exact engines only)",
              group);
  flags.value("tolerance-kind", "KIND", "what the tolerance bounds: row (default), entry or pointwise", group);
  flags.value("cost-model", "COSTS.json", "measured speeds (espalier info --calibrate) that engines are chosen by", group);
  flags.value("threads", "N", "threads (default: the cores this process may use)", group);
  flags.value("type", "TYPE", "float or double (default: the input's)", group);
  flags.value("repeat", "N", "run N times, report median and least time (default 1)", group);
  flags.value("seed", "S", "seed of random numbers (default 0)", group);
  flags.toggle("progress", "progress on standard error also where it is no terminal", group);
  flags.toggle("no-progress", "no progress", group);
  flags.toggle("quiet", "nothing on standard output", group);
  flags.value("report", "FILE|-", "write a report as JSON", group);
  flags.later("check", "it comes with the adoption issue");
  flags.later("dry-run", "it comes with the adoption issue");
  flags.later("parameter", "it comes with the adoption issue");
}

Run::Run(std::string command, Flags& f, Interrupts& interrupts)
    : flags(f), outputs(interrupts), inputs(outputs), command_(std::move(command)) {
  flags.refuse_later();
  engine_ = flags.text("engine").value_or("auto");
  if (const auto tolerance = flags.number("tolerance")) {
    if (!(*tolerance >= 0 && *tolerance < 1)) throw FlagError("tolerance", *flags.text("tolerance") + " (expected 0 <= E < 1)");
    tolerance_ = *tolerance;
  }
  if (const auto kind = flags.text("tolerance-kind"); kind && *kind != "row") {
    if (*kind != "entry" && *kind != "pointwise") {
      throw FlagError("tolerance-kind", "'" + *kind + "' (expected row, entry or pointwise)");
    }
    tolerance_kind_ = *kind == "entry" ? ToleranceKind::entry : ToleranceKind::pointwise;
  }
  if (const auto path = flags.text("cost-model")) cost_ = cost_model_from(inputs.text("cost-model", *path), *path);
  threads_ = static_cast<int>(flags.integer("threads", 1, 4096).value_or(available_cores()));
  repeat_ = flags.integer("repeat", 1).value_or(1);
  type_ = flags.text("type").value_or("");
  if (!type_.empty() && type_ != "float" && type_ != "double") {
    throw FlagError("type", "'" + type_ + "' (expected float or double)");
  }
  (void)flags.integer("seed", 0);
  const bool always = flags.on("progress"), never = flags.on("no-progress");
  if (always && never) throw FlagError("no-progress", "contradicts --progress (give one of them)");
  quiet_ = flags.on("quiet");
  report_path_ = flags.text("report").value_or("");
  if (!report_path_.empty() && report_path_ != "-") outputs.reserve("report", report_path_);
  using When = ProgressLine::When;
  line_ = std::make_unique<ProgressLine>(always ? When::always : never || quiet_ ? When::never : When::terminal);
  progress_.callback = [this](std::string_view phase, double fraction) { line_->show(phase, fraction); };
  progress_.stop = interrupts.token();
  // Every key of the report is there in every run; null where it has no meaning.
  for (const char* key : {"mask", "size", "columns", "type", "engine", "reason", "certified_error", "seconds_set_up",
                          "seconds_apply", "seconds_apply_min", "seconds_backward", "seconds_backward_min", "flops", "bytes",
                          "extra_bytes", "floored_rows", "rounding_estimate"}) {
    report[key] = nullptr;
  }
  report["command"] = command_;
  report["engines"] = nlohmann::json::array();
  report["terms"] = 0;
  report["floored_rows"] = 0;
  report["fitted_negative"] = 0;
  report["threads"] = threads_;
}

MaskOptions Run::mask_options() const {
  MaskOptions options;
  options.engine = engine_;
  options.tolerance = tolerance_;
  options.tolerance_kind = tolerance_kind_;
  options.cost = cost_;
  return options;
}

double Run::tolerance(Precision precision) const {
  return tolerance_ >= 0 ? tolerance_ : precision == Precision::single ? 1e-6 : 1e-12;
}

Context<Cpu> Run::context() {
  Context<Cpu> context;
  context.threads = threads_;
  context.progress = &progress_;
  return context;
}

Precision Run::precision(std::initializer_list<const NpyArray*> arrays) const {
  if (!type_.empty()) return type_ == "double" ? Precision::twofold : Precision::single;
  for (const NpyArray* a : arrays) {
    if (a->type == NpyType::float64) return Precision::twofold;
  }
  return Precision::single;
}

FlagError Run::with_flag(const FunctionError& error) const {
  const auto found = function_flags_.find(error.function());
  return FlagError(found != function_flags_.end() ? found->second : "function", error.what());
}

void Run::timed(const std::string& name, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (Index r = 0; r < repeat_; ++r) seconds.push_back(seconds_of(work));
  std::sort(seconds.begin(), seconds.end());
  const std::size_t n = seconds.size();
  report["seconds_" + name] = n % 2 == 1 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  report["seconds_" + name + "_min"] = seconds[0];
}

void Run::describe(const Report& chosen, const std::vector<Report>& engines, Index heads) {
  report["engine"] = chosen.engine;
  report["reason"] = chosen.reason;
  for (const Report& e : engines) {
    report["engines"].push_back(
        {{"name", e.engine}, {"predicted_seconds", e.predicted_seconds * static_cast<double>(heads)}, {"reason", e.reason}});
  }
  report["certified_error"] = nullptr;
  if (chosen.certificate && !chosen.certificate->estimated) report["certified_error"] = certificate_json(*chosen.certificate);
  if (chosen.certificate && chosen.certificate->estimated) {
    report["estimated_error"] = certificate_json(*chosen.certificate);
    warnings.emplace_back("the error bound is an estimate, not a certificate");
  }
  report["terms"] = chosen.terms;
  report["fitted_negative"] = chosen.fitted_negative;
  report["rounding_estimate"] = chosen.rounding_estimate;
  report["flops"] = chosen.flops * static_cast<double>(heads);
  report["bytes"] = chosen.bytes * static_cast<double>(heads);
  report["extra_bytes"] = chosen.extra_bytes;
  for (const auto& w : chosen.warnings) warnings.push_back(w);
}

void Run::finish(const std::string& text) {
  report["seconds_set_up"] = set_up_seconds_;
  report["warnings"] = warnings;
  const std::string json = report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (!report_path_.empty() && report_path_ != "-") {
    outputs.fill(report_path_, [&json](WholeFile& file) { file.write(json); });
  }
  outputs.write_all();
  line_->clear();
  // Printed before the files are put in place: where it cannot be, they stay as they were.
  if (report_path_ == "-") {
    std::fputs(json.c_str(), stdout);
  } else if (!quiet_) {
    std::printf("%s\n", text.c_str());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw BackendError("standard output cannot be written (is the disk full?)");
  outputs.commit();
  for (const auto& warning : warnings) std::fprintf(stderr, "espalier: warning: %s\n", warning.c_str());
}

}  // namespace espalier::tools
