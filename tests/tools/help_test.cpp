// What --help prints: examples, and that each of them runs as it stands.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "tools/command_runner.hpp"

using namespace command_tests;

namespace {

// The command lines under "Examples:", without the program's name.
std::vector<std::string> examples_of(const std::string& help) {
  std::string text = help.substr(help.find("Examples:"));
  for (auto at = text.find("\\\n"); at != std::string::npos; at = text.find("\\\n")) text.replace(at, 2, " ");
  std::istringstream lines(text);
  std::vector<std::string> examples;
  const std::string start = "  espalier ";
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(start)) examples.push_back(line.substr(start.size()));
  }
  return examples;
}

// Files of the names that examples use, with the L that this one's mask has.
void write_files(const Folder& folder, Index length) {
  const auto matrix = [&](const std::string& name, Index columns) {
    folder.array(name, {length, columns}, std::vector<double>(static_cast<std::size_t>(length * columns), 0.5));
  };
  for (const char* name : {"x.npy", "q.npy", "k.npy", "v.npy", "g.npy"}) matrix(name, 2);
  folder.array("bias.npy", {2 * length - 1}, std::vector<double>(static_cast<std::size_t>(2 * length - 1), 0.5));
  std::vector<double> weights;
  for (int d = 0; d < 4096; ++d) weights.push_back(std::exp(-0.01 * d));
  folder.array("weights.npy", {4096}, weights);
  folder.text("taxa.nwk", "(((A,B),C),(D,(E,F)),G);");
  const std::string graph =
      "%%MatrixMarket matrix coordinate pattern symmetric\n12 12 11\n2 1\n3 2\n4 3\n5 4\n6 5\n7 6\n8 7\n9 8\n10 9\n11 10\n12 "
      "11\n";
  folder.text("roads.mtx", graph);
  std::string places = "%%MatrixMarket matrix array real general\n12 2\n";
  for (int k = 0; k < 24; ++k) places += std::to_string(k % 7) + "\n";
  folder.text("xy.mtx", places);
  REQUIRE(std::system(("gzip -kf '" + folder.path("roads.mtx") + "'").c_str()) == 0);
}

Index length_of(const std::string& example) {
  if (example.find("14x14") != std::string::npos) return 14 * 14 + 1;  // with its border
  if (example.find("4096") != std::string::npos || example.find("64x64") != std::string::npos) return 4096;
  return 12;
}

}  // namespace

TEST_CASE("every example of a command's help runs") {
  const Folder folder;
  for (const std::string command : {"multiply", "attend", "top-k", "row", "fit", "info"}) {
    const auto examples = examples_of(folder.run(command + " --help").out);
    CHECK(examples.size() >= 2);
    for (const std::string& example : examples) {
      if (example.find("--calibrate") != std::string::npos) continue;  // seconds of measuring
      CAPTURE(example);
      write_files(folder, length_of(example));
      const Outcome r = folder.run(example);
      CHECK_MESSAGE(r.code == 0, r.err);
    }
  }
}

TEST_CASE("help of every command shows examples") {
  const Folder folder;
  for (const char* command : {"multiply", "attend", "top-k", "row", "fit", "info"}) {
    const Outcome r = folder.run(std::string(command) + " --help");
    CHECK(r.code == 0);
    CHECK(r.err.empty());
    CHECK(r.out.find("Examples:\n  espalier " + std::string(command)) != std::string::npos);
  }
  CHECK(folder.run("--version").out.rfind("espalier ", 0) == 0);
}
