// For C++ notebooks, the first cell's only include: loads the shared library, and shows pictures and tables.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/version.hpp>

#include <dlfcn.h>

#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>
#if __has_include(<xcpp/xdisplay.hpp>)
#include <xcpp/xdisplay.hpp>
#endif

// Functions of this header are neither inline nor templates: an interpreter compiles those again in every cell that calls them
// (1.5 s for JSON) and these once. So it is not for programs of several files. It calls nothing of the library: symbols are
// looked up before a cell runs, hence before this one has loaded it; the next cell may call everything.
// docs/notebooks.md: how notebooks run.
namespace espalier::notebook {

struct Svg {
  std::string text;  // as svg_plot makes it
};
struct Png {
  std::string bytes;  // as encode_png makes them
};
struct Table {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;  // cells are text
};

// The shared library of this header's version, with its symbols open to the cells that follow. It is searched as the system
// searches libraries (LD_LIBRARY_PATH). Errors: std::runtime_error.
static bool load() {
  const std::string name =
      "libespalier.so." + std::to_string(ESPALIER_VERSION_MAJOR) + "." + std::to_string(ESPALIER_VERSION_MINOR);
  if (dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  return true;
}
[[maybe_unused]] static const bool loaded = load();

#if __has_include(<xcpp/xdisplay.hpp>)

static std::string base64(const std::string& bytes) {
  const char* letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned group = 0;
    for (std::size_t k = 0; k < 3; ++k) group = group << 8 | (i + k < bytes.size() ? bytes[i + k] & 0xffu : 0u);
    for (std::size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : letters[group >> (18 - 6 * k) & 63];
  }
  return text;
}

static std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return result;
}

// An image element: nbconvert takes the shapes out of image/svg+xml and leaves a blank.
nl::json mime_bundle_repr(const Svg& svg) {
  return {{"text/html", "<img alt=\"plot\" src=\"data:image/svg+xml;base64," + base64(svg.text) + "\"/>"},
          {"text/plain", "plot"}};
}
nl::json mime_bundle_repr(const Png& png) {
  return {{"image/png", base64(png.bytes)}, {"text/plain", "picture"}};
}
nl::json mime_bundle_repr(const Table& table) {
  std::string html = "<table>", plain;
  const auto add = [&](const std::vector<std::string>& cells, const std::string& tag) {
    html += "<tr>";
    for (const std::string& cell : cells) {
      html += "<" + tag + ">" + escaped(cell) + "</" + tag + ">";
      plain += cell + "  ";
    }
    html += "</tr>", plain += '\n';
  };
  add(table.head, "th");
  for (const auto& row : table.rows) add(row, "td");
  return {{"text/html", html + "</table>"}, {"text/plain", plain}};
}

// Displays it below the cell.
void show(const Svg& svg) {
  xcpp::display(svg);
}
void show(const Png& png) {
  xcpp::display(png);
}
void show(const Table& table) {
  xcpp::display(table);
}

#endif

}  // namespace espalier::notebook
