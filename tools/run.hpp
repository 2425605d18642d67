// What all commands share: the flags that exist everywhere, the context of the library's calls, files, times, the report.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flags.hpp"
#include "input_files.hpp"
#include "interrupts.hpp"
#include "output_files.hpp"
#include "progress_line.hpp"

#include <espalier/core/context.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/io/npy.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace espalier::tools {

enum class Precision { single, twofold };

// One run of a command. Made after parsing, before any work.
class Run {
 public:
  // Reads the flags of every command and checks them. Errors: FlagError.
  Run(std::string command, Flags& flags, Interrupts& interrupts);

  Flags& flags;
  OutputFiles outputs;
  InputFiles inputs;
  std::vector<std::string> warnings;

  const std::string& command() const { return command_; }
  const std::string& engine() const { return engine_; }
  Index repeat() const { return repeat_; }
  MaskOptions mask_options() const;
  double tolerance(Precision precision) const;
  ToleranceKind tolerance_kind() const { return tolerance_kind_; }
  Context<Cpu> context();

  // The precision to compute in: --type, otherwise the widest of the inputs (f2 counts as float).
  Precision precision(std::initializer_list<const NpyArray*> arrays) const;

  // Notes by which flag a function came: masks know it by its name only.
  void note_function(const std::string& name, const std::string& flag) { function_flags_[name] = flag; }
  // The library's complaint about a function, with the flag in front.
  FlagError with_flag(const FunctionError& error) const;

  // Runs `work` --repeat times and notes median and least seconds under seconds_<name>.
  void timed(const std::string& name, const std::function<void()>& work);
  void set_up_seconds(double seconds) { set_up_seconds_ += seconds; }

  // The report, filled by the command; `finish` adds times and writes outputs, report and the line on standard output.
  nlohmann::json report = nlohmann::json::object();
  void describe(const Report& chosen, const std::vector<Report>& engines, Index heads);
  void finish(const std::string& line);

 private:
  std::string command_;
  std::string engine_ = "auto";
  double tolerance_ = -1;
  ToleranceKind tolerance_kind_ = ToleranceKind::row;
  CostModel cost_{};
  int threads_ = 0;
  Index repeat_ = 1;
  std::string type_, report_path_;
  bool quiet_ = false;
  double set_up_seconds_ = 0;
  std::map<std::string, std::string> function_flags_;
  std::unique_ptr<ProgressLine> line_;
  Progress progress_;
};

// Declares the flags that Run reads.
void add_common_flags(Flags& flags);

// Bounds that an engine knows only after a product: from what it says of itself now.
void take_bounds(const std::vector<Report>& engines, Report& chosen);

// "exact", or the bound that counts.
std::string certificate_text(const Report& report);

// The cores this process may use.
int available_cores();

// Seconds of one piece of work.
double seconds_of(const std::function<void()>& work);

}  // namespace espalier::tools
