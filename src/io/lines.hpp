// Text split into lines and words, and numbers read strictly: what the line-based readers share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/error.hpp>

#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

// The whole of `word` as an integer; a leading + is allowed.
inline std::optional<Index> integer_of(std::string_view word) {
  if (word.size() > 1 && word[0] == '+' && word[1] != '-') word.remove_prefix(1);
  Index value = 0;
  const auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (code != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

// The whole of `word` as a finite number; numbers beyond the range of double are none.
inline std::optional<double> number_of(std::string_view word) {
  if (word.size() > 1 && word[0] == '+' && word[1] != '-') word.remove_prefix(1);
  double value = 0;
  const auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (end != word.data() + word.size() || word.empty()) return std::nullopt;
  if (code == std::errc::result_out_of_range) {
    // Too small is as good as 0; too large is not a number that can be used.
    const bool small = word.find("e-") != std::string_view::npos || word.find("E-") != std::string_view::npos;
    return small ? std::optional<double>(0.0) : std::nullopt;
  }
  if (code != std::errc() || !std::isfinite(value)) return std::nullopt;
  return value;
}

// Whether the whole of `word` is a number, but one that no double can hold: 1e400.
inline bool beyond_double(std::string_view word) {
  if (number_of(word)) return false;
  if (word.size() > 1 && word[0] == '+' && word[1] != '-') word.remove_prefix(1);
  double value = 0;
  const auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), value);
  return code == std::errc::result_out_of_range && end == word.data() + word.size();
}

// A word as it may stand in an error text: short, printable.
inline std::string shown(std::string_view word) {
  std::string text = "'";
  for (const char c : word.substr(0, 40)) text += c < ' ' || c > '~' ? '?' : c;
  return text + (word.size() > 40 ? "...'" : "'");
}

// Lines of a text, ended by \n or \r\n, one at a time.
class Lines {
 public:
  Lines(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  bool next() {
    if (at_ >= text_.size()) return false;
    const auto end = text_.find('\n', at_);
    line_ = text_.substr(at_, end == std::string_view::npos ? end : end - at_);
    at_ = end == std::string_view::npos ? text_.size() : end + 1;
    if (!line_.empty() && line_.back() == '\r') line_.remove_suffix(1);
    ++number_;
    return true;
  }
  // The rest of the line up to one of these characters.
  void drop_comment(const char* characters) { line_ = line_.substr(0, line_.find_first_of(characters)); }
  // The next word of the line; empty at its end.
  std::string_view word() {
    const auto begin = line_.find_first_not_of(" \t\v\f");
    if (begin == std::string_view::npos) {
      line_ = {};
      return {};
    }
    const auto end = line_.find_first_of(" \t\v\f", begin);
    const auto w = line_.substr(begin, end == std::string_view::npos ? end : end - begin);
    line_ = end == std::string_view::npos ? std::string_view() : line_.substr(end);
    return w;
  }
  bool blank() const { return line_.find_first_not_of(" \t\v\f") == std::string_view::npos; }
  std::string_view line() const { return line_; }
  Index number() const { return number_; }
  [[noreturn]] void fail(const std::string& what) const { throw FormatError(file_, number_, what); }

  // Words that must be numbers.
  Index integer(const char* what) {
    const auto w = word();
    if (w.empty()) fail(std::string("the line ends early (expected ") + what + ")");
    const auto value = integer_of(w);
    if (!value) fail(shown(w) + " (expected " + what + ")");
    return *value;
  }
  double number(const char* what) {
    const auto w = word();
    if (w.empty()) fail(std::string("the line ends early (expected ") + what + ")");
    const auto value = number_of(w);
    if (!value) fail(shown(w) + " (expected " + what + ")");
    return *value;
  }
  void expect_end(const char* expected) {
    const auto w = word();
    if (!w.empty()) fail("extra " + shown(w) + " (expected " + expected + ")");
  }

 private:
  std::string_view text_;
  const std::string& file_;
  std::string_view line_;
  std::size_t at_ = 0;
  Index number_ = 0;
};

}  // namespace espalier
