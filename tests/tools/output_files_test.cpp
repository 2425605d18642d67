// Outputs never replace what the run reads, and are put in place only after everything has been said.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tools/command_runner.hpp"

using namespace command_tests;

namespace {

// A run that reads `file` by `flag` and is asked to write to it by `output`; FILE stands for the output's name.
struct OverwriteCase {
  std::string args, output, flag, file;
};

const std::string multiply = "multiply --input x.npy ";
const std::string attend = "attend --query q.npy --key k.npy --value v.npy ";
const std::string softmax = attend + "--attention softmax ";
const std::string linear = attend + "--attention linear --feature-map positive-softmax ";

const std::vector<OverwriteCase> cases = {
    // every output of a run, over one input
    {multiply + "--mask ones --output FILE", "output", "input", "x.npy"},
    {multiply + "--mask ones --output y.npy --report FILE", "report", "input", "x.npy"},
    {softmax + "--output FILE", "output", "value", "v.npy"},
    {softmax + "--output o.npy --report FILE", "report", "key", "k.npy"},
    {softmax + "--output o.npy --log-sum-exp FILE", "log-sum-exp", "query", "q.npy"},
    {linear + "--output o.npy --normalizer FILE", "normalizer", "query", "q.npy"},
    {attend + "--attention top-k --k 2 --output o.npy --indices FILE", "indices", "key", "k.npy"},
    {attend + "--attention top-k --k 2 --output o.npy --scores FILE", "scores", "key", "k.npy"},
    {softmax + "--output o.npy --output-gradient g.npy --query-gradient FILE", "query-gradient", "output-gradient", "g.npy"},
    {softmax + "--output o.npy --output-gradient g.npy --key-gradient FILE", "key-gradient", "output-gradient", "g.npy"},
    {softmax + "--output o.npy --output-gradient g.npy --value-gradient FILE", "value-gradient", "output-gradient", "g.npy"},
    {softmax + "--bias grid:5 --table table.npy --output o.npy --output-gradient g.npy --table-gradient FILE", "table-gradient",
     "table", "table.npy"},
    {softmax + "--mask ones --bias grid:5 --bias-table table.npy --output o.npy --output-gradient g.npy "
               "--bias-table-gradient FILE",
     "bias-table-gradient", "bias-table", "table.npy"},
    {"top-k --query q.npy --key k.npy --k 2 --scores FILE", "scores", "key", "k.npy"},
    {"top-k --query q.npy --key k.npy --k 2 --indices FILE", "indices", "query", "q.npy"},
    {"row --mask dense:m.npy --row 1 --output FILE", "output", "mask", "m.npy"},
    {"fit --function table:f.npy --distances 0:9 --tolerance 0.5 --output FILE", "output", "function", "f.npy"},
    {"info --mask tree:t.txt --nodes-output FILE", "nodes-output", "mask", "t.txt"},
    {"info --mask tree:t.txt --function 'exp(-d)' --nodes-output FILE", "nodes-output", "mask", "t.txt"},
    // every file that is read
    {multiply + "--mask dense:m.npy --output FILE", "output", "mask", "m.npy"},
    {multiply + "--mask low-rank:f2.npy,g2.npy --output FILE", "output", "mask", "f2.npy"},
    {multiply + "--mask low-rank:f2.npy,g2.npy --output FILE", "output", "mask", "g2.npy"},
    {multiply + "--mask grid:5 --table table.npy --output FILE", "output", "table", "table.npy"},
    {multiply + "--mask grid:5 --function table:f.npy --output FILE", "output", "function", "f.npy"},
    {multiply + "--mask tree:t.txt --function 'exp(-d)' --output FILE", "output", "mask", "t.txt"},
    {multiply + "--mask tree:parents.npy --weights x.npy --function 'exp(-d)' --output FILE", "output", "mask", "parents.npy"},
    {multiply + "--mask tree:parents.npy --weights w.npy --function 'exp(-d)' --output FILE", "output", "weights", "w.npy"},
    {multiply + "--mask graph:g.edges --time 1 --output FILE", "output", "mask", "g.edges"},
    {multiply + "--mask ones --cost-model costs.json --output FILE", "output", "cost-model", "costs.json"},
    {multiply + "--mask ones --cost-model costs.json --output y.npy --report FILE", "report", "cost-model", "costs.json"},
    {softmax + "--bias dense:m.npy --output FILE", "output", "bias", "m.npy"},
    {softmax + "--mask ones --bias grid:5 --bias-function table:f.npy --output FILE", "output", "bias-function", "f.npy"},
    {softmax + "--key-count n.npy --output FILE", "output", "key-count", "n.npy"},
    {linear + "--projection p.npy --output FILE", "output", "projection", "p.npy"},
    {"row --mask graph:g.edges --time 1 --row 0 --coordinates xy.npy --output row.png --report FILE", "report", "coordinates",
     "xy.npy"},
};

void write_inputs(const Folder& folder) {
  const std::vector<double> many(40, 0.5);
  const auto array = [&](const std::string& name, const Shape& shape) { folder.array(name, shape, many); };
  array("x.npy", {5}), array("w.npy", {5}), array("q.npy", {5, 2}), array("k.npy", {5, 2}), array("v.npy", {5, 2});
  array("g.npy", {5, 2}), array("m.npy", {5, 5}), array("f2.npy", {5, 2}), array("g2.npy", {5, 2}), array("xy.npy", {5, 2});
  array("table.npy", {9}), array("f.npy", {9}), array("p.npy", {3, 2});
  folder.array<std::int64_t>("n.npy", {1}, {4});
  folder.array<std::int64_t>("parents.npy", {5}, {-1, 0, 0, 1, 1});
  folder.text("t.txt", "-1\n0\n0\n1\n1\n");
  folder.text("g.edges", "0 1\n3 4\n");
  folder.text("costs.json", "{\"tile_flops\": 1e9}\n");
}

std::string with_file(std::string args, const std::string& name) {
  return args.replace(args.find("FILE"), 4, name);
}

std::vector<std::string> contents(const Folder& folder) {
  std::vector<std::string> all;
  for (const auto& name : folder.names()) all.push_back(name + ": " + text_of(folder.path(name)));
  return all;
}

}  // namespace

TEST_CASE("no output replaces a file that the run reads") {
  const Folder folder;
  write_inputs(folder);
  const auto before = contents(folder);
  for (const OverwriteCase& c : cases) {
    CAPTURE(c.args);
    const Outcome r = folder.run(with_file(c.args, c.file));
    CHECK(r.code == 2);
    CHECK(r.out.empty());
    CHECK(r.err ==
          "espalier: --" + c.output + ": would overwrite " + c.file + ", which --" + c.flag + " reads; choose another name\n");
    CHECK(contents(folder) == before);
    // The same run with another name is legal: it is the name that is refused.
    const Outcome legal = folder.run(with_file(c.args, "fresh." + c.file.substr(c.file.rfind('.') + 1)));
    CHECK_MESSAGE(legal.code == 0, legal.err);
    for (const auto& name : folder.names()) {
      if (std::find_if(before.begin(), before.end(), [&](const auto& b) { return b.starts_with(name + ": "); }) == before.end())
        std::filesystem::remove(folder.path(name));
    }
  }
}

TEST_CASE("a file is known under its other names") {
  const Folder folder;
  write_inputs(folder);
  std::filesystem::create_directory(folder.path("sub"));
  std::filesystem::create_symlink("x.npy", folder.path("link.npy"));
  std::filesystem::create_hard_link(folder.path("x.npy"), folder.path("hard.npy"));
  const std::string old = text_of(folder.path("x.npy"));
  for (const std::string name : {"./x.npy", "sub/../x.npy", "link.npy", "hard.npy"}) {
    CAPTURE(name);
    const Outcome r = folder.run("multiply --mask ones --input x.npy --output " + name);
    CHECK(r.code == 2);
    CHECK(r.err == "espalier: --output: " + name + " would overwrite x.npy, which --input reads; choose another name\n");
    CHECK(text_of(folder.path("x.npy")) == old);
  }
  // A device is both read and written without loss.
  CHECK(folder.run("multiply --mask ones --input x.npy --output /dev/null --report /dev/null").code == 0);
}

TEST_CASE("outputs stay as they were when standard output cannot be written") {
  if (!std::filesystem::exists("/dev/full")) return;
  const Folder folder;
  write_inputs(folder);
  folder.text("old.npy", "old");
  const auto before = contents(folder);
  const std::string line = "multiply --mask ones --input x.npy --output old.npy ";
  for (const std::string& args : {line, line + "--report -", line + "--report new.json", softmax + "--output new.npy",
                                  std::string("info --mask tree:t.txt --nodes-output new.tsv"),
                                  std::string("fit --function 'exp(-d)' --distances 0:9 --output new.json"),
                                  std::string("row --mask dense:m.npy --row 1 --output old.npy")}) {
    CAPTURE(args);
    const Outcome r = folder.run_into("/dev/full", args);
    CHECK(r.code == 1);
    CHECK(r.err == "espalier: standard output cannot be written (is the disk full?)\n");
    CHECK(contents(folder) == before);
  }
}

TEST_CASE("an output's name that is too long is found before the work") {
  const Folder folder;
  write_inputs(folder);
  const auto before = contents(folder);
  for (const std::string& name : {std::string(300, 'a') + ".npy", std::string(5000, 'a') + ".npy"}) {
    const Outcome r = folder.run("multiply --mask ones --input x.npy --output " + name);
    CHECK(r.code == 2);
    CHECK(r.err.starts_with("espalier: --output: aaaa"));
    CHECK(r.err.find("the name is too long") != std::string::npos);
    CHECK(contents(folder) == before);
  }
}
