// Flags over CLI11: text in, checked numbers out.
// SPDX-License-Identifier: Apache-2.0
#include "flags.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>

namespace espalier::tools {

namespace {

std::string_view without_plus(std::string_view t) {
  if (t.size() > 1 && t[0] == '+' && t[1] != '-') t.remove_prefix(1);
  return t;
}

}  // namespace

std::string shortened(const std::string& text) {
  constexpr std::size_t most = 80;
  if (text.size() <= most) return text;
  std::size_t end = most - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character of several bytes
  return text.substr(0, end) + "...";
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

double number_from(const std::string& text, const std::string& flag) {
  const std::string_view t = without_plus(text);
  double value = 0;
  const auto [end, code] = std::from_chars(t.data(), t.data() + t.size(), value);
  if (code != std::errc() || end != t.data() + t.size() || !std::isfinite(value)) {
    throw FlagError(flag, "'" + shortened(text) + "' (expected a finite number)");
  }
  return value;
}

Index integer_from(const std::string& text, const std::string& flag) {
  const std::string_view t = without_plus(text);
  Index value = 0;
  const auto [end, code] = std::from_chars(t.data(), t.data() + t.size(), value);
  const bool whole = end == t.data() + t.size();
  if (code == std::errc::result_out_of_range && whole) {
    throw FlagError(flag, shortened(text) + (t[0] == '-' ? " is too small" : " is too large"));
  }
  if (code != std::errc() || !whole) throw FlagError(flag, "'" + shortened(text) + "' (expected an integer)");
  return value;
}

void Flags::value(const std::string& name, const std::string& placeholder, const std::string& help, const std::string& group) {
  if (app_->get_option_no_throw("--" + name) != nullptr) return;
  auto* option = app_->add_option("--" + name)->description(help)->type_name(placeholder)->expected(1);
  if (!group.empty()) option->group(group);
}

void Flags::toggle(const std::string& name, const std::string& help, const std::string& group) {
  if (app_->get_option_no_throw("--" + name) != nullptr) return;
  auto* option = app_->add_flag("--" + name)->description(help)->disable_flag_override();
  if (!group.empty()) option->group(group);
}

void Flags::optional_value(const std::string& name, const std::string& default_text, const std::string& help) {
  app_->add_flag("--" + name + "{" + default_text + "}")->description(help);
}

void Flags::later(const std::string& name, const std::string& what) {
  if (app_->get_option_no_throw("--" + name) != nullptr) return;
  app_->add_option("--" + name)->expected(0, 1)->group("");  // an empty group hides it from --help
  later_[name] = what;
}

bool Flags::given(const std::string& name) const {
  const auto* option = app_->get_option_no_throw("--" + name);
  return option != nullptr && option->count() > 0;
}

std::optional<std::string> Flags::text(const std::string& name) {
  used_.insert(name);
  if (!given(name)) return std::nullopt;
  const auto& results = app_->get_option_no_throw("--" + name)->results();
  const std::string value = results.empty() ? std::string() : results.back();
  if (value.empty() || value.rfind("--", 0) == 0) throw FlagError(name, "a value is missing");
  return value;
}

std::string Flags::required(const std::string& name, const std::string& what) {
  const auto value = text(name);
  if (!value) throw FlagError(name, "is missing (expected " + what + ")");
  return *value;
}

std::optional<double> Flags::number(const std::string& name) {
  const auto value = text(name);
  if (!value) return std::nullopt;
  return number_from(*value, name);
}

std::optional<Index> Flags::integer(const std::string& name, Index least, Index most) {
  const auto value = text(name);
  if (!value) return std::nullopt;
  const Index n = integer_from(*value, name);
  if (n < least) throw FlagError(name, *value + " (expected at least " + std::to_string(least) + ")");
  if (n > most) throw FlagError(name, *value + " (expected at most " + std::to_string(most) + ")");
  return n;
}

bool Flags::on(const std::string& name) {
  used_.insert(name);
  return given(name);
}

void Flags::refuse_later() const {
  for (const auto& [name, what] : later_) {
    if (given(name)) throw FlagError(name, "is not available yet (" + what + ")");
  }
}

void Flags::check_all_used() const {
  for (const CLI::Option* option : app_->get_options()) {
    if (option->count() == 0) continue;
    std::string name = option->get_name();
    name.erase(0, name.find_first_not_of('-'));
    if (name != "help" && !used_.contains(name)) {
      throw FlagError(name, "means nothing here (see espalier " + app_->get_name() + " --help for what uses it)");
    }
  }
}

}  // namespace espalier::tools
