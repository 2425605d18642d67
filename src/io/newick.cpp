// Newick trees by one pass over the characters: the parent array itself is the stack, so depth costs nothing.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/io/tree_files.hpp>

#include "io/lines.hpp"

#include <algorithm>

namespace espalier {

namespace {

class NewickParser {
 public:
  NewickParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  TreeFile parse() {
    skip();
    if (at_ >= text_.size()) fail("no tree (expected Newick, ended by ';')");
    while (at_ < text_.size()) {
      tree();
      skip();
    }
    // Root lengths mean nothing; 1 keeps every weight of the forest an ordinary number.
    for (std::size_t v = 0; v < out_.parent.size(); ++v) {
      if (out_.parent[v] < 0) out_.weights[v] = 1;
    }
    if (!named_) out_.names.clear();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const auto end = text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size()));
    throw FormatError(file_, 1 + std::count(text_.begin(), end, '\n'), what);
  }

  void skip() {  // blanks and comments
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '[') {
        const std::size_t begin = at_;
        Index depth = 0;
        for (; at_ < text_.size(); ++at_) {
          if (text_[at_] == '[') ++depth;
          if (text_[at_] == ']' && --depth == 0) break;
        }
        if (at_ >= text_.size()) {
          at_ = begin;
          fail("a comment is not closed (expected ])");
        }
      } else if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
        return;
      }
    }
  }

  Index add_node(Index parent) {
    out_.parent.push_back(parent);
    out_.weights.push_back(1);
    out_.names.emplace_back();
    return static_cast<Index>(out_.parent.size()) - 1;
  }

  // One tree up to its ';'. `open` is the node whose children are being read, `node` the one just read or begun.
  void tree() {
    Index open = -1;
    Index node = add_node(-1);
    bool fresh = true;  // node may still begin with '('
    for (;;) {
      skip();
      if (at_ >= text_.size())
        fail(open >= 0 ? "the file ends inside a tree (expected ')')" : "a tree is not ended (expected ';')");
      const char c = text_[at_];
      if (c == '(') {
        if (!fresh) fail("'(' after a label or subtree (expected , ) : or ;)");
        ++at_;
        open = node;
        node = add_node(open);
        continue;
      }
      label_and_length(node);
      skip();
      const char next = at_ < text_.size() ? text_[at_] : '\0';
      if (next == ',' && open >= 0) {
        ++at_;
        node = add_node(open);
        fresh = true;
      } else if (next == ')' && open >= 0) {
        ++at_;
        node = open;
        open = out_.parent[static_cast<std::size_t>(node)];
        fresh = false;
      } else if (next == ';' && open < 0) {
        ++at_;
        return;
      } else {
        fail(next == '\0' ? (open >= 0 ? "the file ends inside a tree (expected ')')" : "a tree is not ended (expected ';')")
                          : shown(std::string_view(&next, 1)) + (open >= 0 ? " (expected , or ) )" : " (expected ;)"));
      }
    }
  }

  void label_and_length(Index node) {
    std::string& name = out_.names[static_cast<std::size_t>(node)];
    if (at_ < text_.size() && text_[at_] == '\'') {
      const std::size_t begin = at_;
      for (++at_;; ++at_) {
        if (at_ >= text_.size()) {
          at_ = begin;
          fail("a quoted label is not closed (expected ')");
        }
        if (text_[at_] == '\'') {
          if (at_ + 1 >= text_.size() || text_[at_ + 1] != '\'') break;
          ++at_;
        }
        name += text_[at_];
      }
      ++at_;
      named_ = true;
    } else {
      const std::string_view w = plain();
      if (!w.empty()) {
        name = std::string(w);
        named_ = true;
      }
    }
    skip();
    if (at_ >= text_.size() || text_[at_] != ':') return;
    ++at_;
    skip();
    const std::size_t begin = at_;
    const std::string_view w = plain();
    const auto length = number_of(w);
    if (!length) {
      at_ = begin;
      fail("edge length " + shown(w) + " (expected a finite number)");
    }
    out_.weights[static_cast<std::size_t>(node)] = *length;
  }

  std::string_view plain() {
    const auto end = std::min(text_.find_first_of("()[]:;,' \t\r\n", at_), text_.size());
    const auto w = text_.substr(at_, end - at_);
    at_ = end;
    return w;
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  bool named_ = false;
  TreeFile out_;
};

}  // namespace

TreeFile parse_newick(std::string_view text, const std::string& file) {
  return NewickParser(text, file).parse();
}

}  // namespace espalier
