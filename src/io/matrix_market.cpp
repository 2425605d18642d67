// The Matrix Market exchange format (NIST): coordinate files as graphs, array files as point coordinates.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/io/graph_files.hpp>

#include "io/arcs.hpp"
#include "io/lines.hpp"

#include <algorithm>
#include <cctype>

namespace espalier {

namespace {

std::string lower(std::string_view w) {
  std::string s(w);
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

struct Banner {
  std::string field, symmetry;
};

// Reads the first line, then steps to the size line.
Banner read_banner(Lines& lines, const std::string& format, const std::vector<std::string>& fields,
                   const std::vector<std::string>& symmetries) {
  if (!lines.next() || lower(lines.word()) != "%%matrixmarket") lines.fail("no Matrix Market file (expected %%MatrixMarket)");
  const auto one_of = [&](const char* what, const std::vector<std::string>& allowed) {
    std::string w = lower(lines.word());
    if (std::find(allowed.begin(), allowed.end(), w) == allowed.end()) {
      std::string list;
      for (const auto& a : allowed) list += (list.empty() ? "" : " or ") + a;
      lines.fail(std::string(what) + " " + shown(w) + " (expected " + list + ")");
    }
    return w;
  };
  one_of("object", {"matrix"});
  one_of("format", {format});
  Banner banner;
  banner.field = one_of("field", fields);
  banner.symmetry = one_of("symmetry", symmetries);
  lines.expect_end("five words");
  while (lines.next()) {
    if (!lines.blank() && lines.line()[0] != '%') return banner;
  }
  lines.fail("the file ends before the sizes");
}

bool next_entry(Lines& lines) {
  while (lines.next()) {
    if (!lines.blank() && lines.line()[0] != '%') return true;
  }
  return false;
}

}  // namespace

GraphFile parse_matrix_market(std::string_view text, const std::string& file) {
  Lines lines(text, file);
  const Banner banner = read_banner(lines, "coordinate", {"real", "integer", "pattern"}, {"general", "symmetric"});
  const Index rows = lines.integer("the number of rows");
  const Index cols = lines.integer("the number of columns");
  const Index entries = lines.integer("the number of entries");
  lines.expect_end("rows columns entries");
  if (rows != cols) {
    lines.fail("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) + " (expected a square one for a graph)");
  }
  if (rows < 0 || rows > most_nodes) lines.fail(std::to_string(rows) + " nodes (expected 0 .. 2147483647)");
  if (entries < 0) lines.fail(std::to_string(entries) + " entries (expected >= 0)");
  std::vector<Arc> arcs;
  // A line of an entry has at least 4 characters: a false header cannot claim memory.
  arcs.reserve(std::min(static_cast<std::size_t>(entries), text.size() / 4 + 1));
  while (next_entry(lines)) {
    if (static_cast<Index>(arcs.size()) == entries)
      lines.fail("more than the " + std::to_string(entries) + " entries of the header");
    Arc arc{lines.integer("a row"), lines.integer("a column"), 1.0, lines.number()};
    for (const Index v : {arc.u, arc.v}) {
      if (v < 1 || v > rows) lines.fail("index " + std::to_string(v) + " (expected 1 .. " + std::to_string(rows) + ")");
    }
    if (banner.field == "integer") arc.weight = static_cast<double>(lines.integer("an integer weight"));
    if (banner.field == "real") arc.weight = lines.number("a finite weight");
    lines.expect_end(banner.field == "pattern" ? "`row column`" : "`row column weight`");
    --arc.u;
    --arc.v;
    arcs.push_back(arc);
  }
  if (static_cast<Index>(arcs.size()) != entries) {
    throw FormatError(file, 0,
                      std::to_string(arcs.size()) + " entries (expected " + std::to_string(entries) + " by the header)");
  }
  return merge_arcs(rows, std::move(arcs), file);
}

MatrixFile parse_matrix_market_array(std::string_view text, const std::string& file) {
  Lines lines(text, file);
  read_banner(lines, "array", {"real", "integer"}, {"general"});
  MatrixFile m;
  m.rows = lines.integer("the number of rows");
  m.cols = lines.integer("the number of columns");
  lines.expect_end("rows columns");
  // A number takes at least 2 characters of the file.
  const auto most = static_cast<Index>(text.size() / 2 + 1);
  if (m.rows < 0 || m.cols < 0 || (m.cols > 0 && m.rows > most / m.cols)) {
    lines.fail("sizes " + std::to_string(m.rows) + " x " + std::to_string(m.cols) + " (more than the file can hold)");
  }
  const Index count = m.rows * m.cols;
  m.values.resize(static_cast<std::size_t>(count));
  Index done = 0;
  while (next_entry(lines)) {
    for (; !lines.blank(); ++done) {
      if (done == count) lines.fail("more than the " + std::to_string(count) + " values of the header");
      m.values[static_cast<std::size_t>((done % m.rows) * m.cols + done / m.rows)] = lines.number("a finite number");
    }
  }
  if (done != count) {
    throw FormatError(file, 0, std::to_string(done) + " values (expected " + std::to_string(count) + " by the header)");
  }
  return m;
}

}  // namespace espalier
