// Flags of one command: declared once, asked for by name, and known to be used or not.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/error.hpp>

#include <CLI/CLI.hpp>

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace espalier::tools {

// A flag is wrong, or what it names: `--flag: what`.
class FlagError : public ValueError {
 public:
  FlagError(const std::string& flag, const std::string& what) : ValueError("--" + flag + ": " + what) {}
};

// At most 80 bytes of a text that the user wrote, for error texts: the rest becomes "...".
std::string shortened(const std::string& text);

// "0.5", "-1", "1e+300": as %g prints it.
std::string number_text(double value);

// The text as a number; throws FlagError.
double number_from(const std::string& text, const std::string& flag);
Index integer_from(const std::string& text, const std::string& flag);

// Wraps the parser's options of one subcommand. Names are written without dashes. Every value is text until asked for.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(&app) {}

  // Declarations; a name that exists already is left alone (masks may share flags).
  void value(const std::string& name, const std::string& placeholder, const std::string& help, const std::string& group = "");
  void toggle(const std::string& name, const std::string& help, const std::string& group = "");
  // --name or --name=value
  void optional_value(const std::string& name, const std::string& default_text, const std::string& help);
  // A flag of the contract that a later issue brings: refused, saying what is missing.
  void later(const std::string& name, const std::string& what);

  bool declared(const std::string& name) const { return app_->get_option_no_throw("--" + name) != nullptr; }
  bool given(const std::string& name) const;
  // The value where given. Asking marks the flag as used.
  std::optional<std::string> text(const std::string& name);
  std::string required(const std::string& name, const std::string& what);
  std::optional<double> number(const std::string& name);
  std::optional<Index> integer(const std::string& name, Index least, Index most = std::numeric_limits<Index>::max());
  bool on(const std::string& name);
  void use(const std::string& name) { used_.insert(name); }

  // Throws for a later flag that was given.
  void refuse_later() const;
  // Throws for a given flag that nobody asked for.
  void check_all_used() const;

 private:
  CLI::App* app_;
  std::set<std::string> used_;
  std::map<std::string, std::string> later_;
};

}  // namespace espalier::tools
