// --engine over masks with borders and causal orders: what a report names can be forced, and what an error advises works.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "tools/command_runner.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace command_tests;
using nlohmann::json;

namespace {

struct EngineCase {
  std::string args;
  std::string engine;  // part of what runs when nothing is forced; empty: whatever is cheapest
  bool everywhere;     // multiply, row and info take it too
};

const std::string multiply = "multiply --input x.npy --output o.npy ";
const std::string attend =
    "attend --attention linear --feature-map elu --query q.npy --key k.npy --value v.npy --output o.npy ";

// 9 rows each.
const std::vector<EngineCase> cases = {
    {"--mask graph:path9.txt --time 1 --causal", "dense", true},
    {"--mask graph:path7.txt --time 1 --border 2 --causal", "dense", true},
    {"--mask graph:path7.txt --time 1 --border 2", "", true},
    {"--mask dense:m.npy --causal", "direct", true},
    {"--mask ones --border 2", "", false},  // its size is that of q
    {"--mask dense:m7.npy --border 2", "dense", true},
    {"--mask low-rank:f7.npy --border 2", "", true},
    {"--mask grid:7 --table table7.npy --border 2", "", true},
    {"--mask grid:7 --function '1/(1+d)' --border 2", "", true},
    {"--mask tree:tree3.txt --function 'exp(-0.3*d)' --border 6 --border-weight 2", "", true},
    {"--mask tree:tree9.txt --function 'exp(-d)' --causal", "direct", true},
    {"--mask tree:tree6.txt --function 'exp(-d)' --border 3", "", true},
    {"--mask tree:tree6.txt --function '1/(1+d)' --border 3", "", true},
    {"--mask tree:tree6.txt --function 'exp(-d)' --border 3 --causal", "direct", true},
    {"--mask grid:7 --function 'exp(-d/5)' --border 2", "", true},
    {"--mask grid:9 --function 'exp(-d/5)' --causal", "", true},
    {"--mask grid:3x3 --function '1/(1+d)' --causal", "", true},
    {"--mask grid:7 --function 'exp(-d/5)' --border 2 --causal", "direct", true},
    {"--causal --weight-epsilon 0.1", "direct", false},
    {"--causal --weight-epsilon 0.1 --mask graph:path9.txt --time 1", "direct", false},
};

std::vector<double> ramp(std::size_t count, double step) {
  std::vector<double> values(count);
  for (std::size_t k = 0; k < count; ++k) values[k] = std::sin(1 + step * static_cast<double>(k));
  return values;
}

std::string path_graph(int nodes) {
  std::string text;
  for (int v = 1; v < nodes; ++v) text += std::to_string(v - 1) + " " + std::to_string(v) + "\n";
  return text;
}

void write_inputs(const Folder& folder) {
  folder.array("x.npy", {9, 2}, ramp(18, 0.7));
  folder.array("q.npy", {9, 2}, ramp(18, 0.9));
  folder.array("k.npy", {9, 2}, ramp(18, 1.1));
  folder.array("v.npy", {9, 2}, ramp(18, 1.3));
  std::vector<double> m = ramp(81, 0.3);
  for (double& entry : m) entry = 1.5 + entry;
  folder.array("m.npy", {9, 9}, m);
  folder.array("m7.npy", {7, 7}, std::vector<double>(m.begin(), m.begin() + 49));
  folder.array("f7.npy", {7, 2}, ramp(14, 0.5));
  folder.array("table7.npy", {13}, ramp(13, 0.4));
  folder.text("tree3.txt", "-1\n0\n0\n");
  folder.text("path9.txt", path_graph(9));
  folder.text("path7.txt", path_graph(7));
  folder.text("tree9.txt", "-1\n0\n0\n1\n1\n2\n2\n3\n3\n");
  folder.text("tree6.txt", "-1\n0\n0\n1\n1\n2\n");
}

// "..., engines that would: a, b" or "... (expected direct)".
std::vector<std::string> advised(const std::string& error) {
  for (const std::string start : {"would: ", "(expected "}) {
    const auto at = error.find(start);
    if (at == std::string::npos) continue;
    std::vector<std::string> names{""};
    for (const char c : error.substr(at + start.size())) {
      if (c == '\n' || c == ')') break;
      if (c == ',') names.emplace_back();
      if (c != ',' && c != ' ') names.back() += c;
    }
    return names;
  }
  return {};
}

void check_forced(const Folder& folder, const std::string& line) {
  const Outcome free = folder.run(line + " --report -");
  REQUIRE_MESSAGE(free.code == 0, free.err);
  const json report = json::parse(free.out);
  const std::vector<double> want = folder.read("o.npy", {9, 2});
  for (const json& e : report.at("engines")) {
    const auto name = e.at("name").get<std::string>();
    CAPTURE(name);
    const Outcome r = folder.run(line + " --engine " + name + " --report -");
    REQUIRE_MESSAGE(r.code == 0, r.err);
    CHECK(json::parse(r.out).at("engine") == name);
  }
  const Outcome wrong = folder.run(line + " --engine warp");
  CHECK(wrong.code == 2);
  CHECK(wrong.err.rfind("espalier: --engine: ", 0) == 0);
  const auto names = advised(wrong.err);
  CHECK(names.size() >= report.at("engines").size());
  for (const std::string& name : names) {
    CAPTURE(name);
    // A causal order runs on tiles, which engines inside may be asked for; a border stands beside an engine, which is listed.
    const auto same = [&](const json& e) { return e.at("name") == name; };
    const json& listed = report.at("engines");
    if (line.find("--causal") == std::string::npos) CHECK(std::any_of(listed.begin(), listed.end(), same));
    const Outcome r = folder.run(line + " --engine " + name + " --report -");
    REQUIRE_MESSAGE(r.code == 0, r.err);
    const json forced = json::parse(r.out);
    const bool named = forced.at("engine") == name || forced.at("reason").get<std::string>().find(name) != std::string::npos;
    CHECK(named);
    // Double inputs: engines are certified to 1e-12 of a row or exact up to rounding.
    const std::vector<double> got = folder.read("o.npy", {9, 2});
    for (std::size_t p = 0; p < want.size(); ++p) CHECK(got[p] == doctest::Approx(want[p]).epsilon(1e-9));
  }
}

}  // namespace

TEST_CASE("every engine that a report lists can be forced, and every one that an error advises") {
  const Folder folder;
  write_inputs(folder);
  for (const EngineCase& c : cases) {
    CAPTURE(c.args);
    const Outcome free = folder.run(attend + c.args + " --report -");
    REQUIRE_MESSAGE(free.code == 0, free.err);
    if (!c.engine.empty()) CHECK(json::parse(free.out).at("engine") == c.engine);
    check_forced(folder, attend + c.args);
    if (c.everywhere) check_forced(folder, multiply + c.args);
  }
}

TEST_CASE("every engine that info lists can be forced in info and row") {
  const Folder folder;
  write_inputs(folder);
  for (const EngineCase& c : cases) {
    if (!c.everywhere) continue;
    CAPTURE(c.args);
    for (const std::string rank : {"0", "4"}) {
      const std::string line = "info --type double --columns 2 --rank " + rank + " " + c.args;
      const Outcome free = folder.run(line);
      REQUIRE_MESSAGE(free.code == 0, free.err);
      for (const json& e : json::parse(free.out).at("mask").at("engines")) {
        const auto name = e.at("name").get<std::string>();
        CAPTURE(name);
        const Outcome r = folder.run(line + " --engine " + name);
        REQUIRE_MESSAGE(r.code == 0, r.err);
        CHECK(json::parse(r.out).at("mask").at("engine") == name);
      }
    }
    const Outcome row = folder.run("row --row 4 --output r.npy " + c.args + " --report -");
    REQUIRE_MESSAGE(row.code == 0, row.err);
    const std::string name = json::parse(row.out).at("engine");
    CHECK(folder.run("row --row 4 --output r.npy " + c.args + " --engine " + name).code == 0);
  }
}

TEST_CASE("an engine that only an inner mask without a part in the product has is refused") {
  const Folder folder;
  write_inputs(folder);
  // A causal order over a border takes tiles of the entries: the transform never runs.
  const Outcome r = folder.run(multiply + "--mask grid:7 --function 'exp(-d/5)' --border 2 --causal --engine fft");
  CHECK(r.code == 2);
  CHECK(r.err == "espalier: --engine: engine 'fft' cannot run this product; engines that would: direct\n");
  const Outcome exact = folder.run(multiply + "--mask graph:path7.txt --time 1 --border 2 --engine chebyshev --tolerance 0");
  CHECK(exact.code == 2);
  CHECK(exact.err.find("at tolerance 0 (exact engines only); engines that would: ") != std::string::npos);
}

TEST_CASE("one table a head: only engines that every head has are listed") {
  const Folder folder;
  std::vector<double> table = ramp(2 * 47, 0.4);  // of 24 tokens; the first head's is made of two pieces
  for (std::size_t o = 0; o < 47; ++o) table[o] = o < 20 ? 1.0 : 2.0;
  folder.array("table.npy", {2, 47}, table);
  folder.array("x.npy", {2, 24, 3}, ramp(144, 0.7));
  for (const char* name : {"q.npy", "k.npy", "v.npy"}) folder.array(name, {2, 24, 2}, ramp(96, 0.9));
  for (const std::string border : {"", " --border 2"}) {
    if (!border.empty()) {
      folder.array("x.npy", {2, 26, 3}, ramp(156, 0.7));
      for (const char* name : {"q.npy", "k.npy", "v.npy"}) folder.array(name, {2, 26, 2}, ramp(104, 0.9));
    }
    for (const std::string& line :
         {multiply + "--mask grid:24 --table table.npy" + border, attend + "--mask grid:24 --table table.npy" + border}) {
      CAPTURE(line);
      const Outcome free = folder.run(line + " --report -");
      REQUIRE_MESSAGE(free.code == 0, free.err);
      const json listed = json::parse(free.out).at("engines");
      CHECK(!listed.empty());
      for (const json& e : listed) {
        const auto name = e.at("name").get<std::string>();
        CAPTURE(name);
        CHECK(name != "piecewise");
        const Outcome r = folder.run(line + " --engine " + name + " --report -");
        REQUIRE_MESSAGE(r.code == 0, r.err);
      }
    }
  }
}
