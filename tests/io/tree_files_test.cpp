// Newick and parent lists: good and malformed files, deep trees.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/io/tree_files.hpp>

#include <string>

using namespace espalier;

namespace {

using Parents = std::vector<Index>;

template <class F>
std::string error_of(F f) {
  try {
    (void)f();
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("Newick: preorder, lengths, labels, comments, forests") {
  const auto t = parse_newick("((A:1,B:2.5)ab:0.5,'it''s (C)':-1e-2)root:9;\n", "t.nwk");
  CHECK(t.parent == Parents{-1, 0, 1, 1, 0});
  CHECK(t.weights == std::vector<double>{1, 0.5, 1, 2.5, -0.01});
  CHECK(t.names == std::vector<std::string>{"root", "ab", "A", "B", "it's (C)"});
  const auto forest = parse_newick("[one [nested]](,)[x];A;\n(b [c] : [d] 3 ,c) ;", "t.nwk");
  CHECK(forest.parent == Parents{-1, 0, 0, -1, -1, 4, 4});
  CHECK(forest.weights == std::vector<double>{1, 1, 1, 1, 1, 3, 1});
  CHECK(parse_newick("(,(,));", "t").names.empty());
}

TEST_CASE("Newick: malformed files name the line") {
  const std::pair<std::string, std::string> cases[] = {
      {"", "t.nwk:1: no tree (expected Newick, ended by ';')"},
      {"[only a comment]", "t.nwk:1: no tree (expected Newick, ended by ';')"},
      {"(A,B)", "t.nwk:1: a tree is not ended (expected ';')"},
      {"(A,\nB", "t.nwk:2: the file ends inside a tree (expected ')')"},
      {"(A,B));", "t.nwk:1: ')' (expected ;)"},
      {"A,B;", "t.nwk:1: ',' (expected ;)"},
      {"(A B);", "t.nwk:1: 'B' (expected , or ) )"},
      {"(A:x,B);", "t.nwk:1: edge length 'x' (expected a finite number)"},
      {"(A:,B);", "t.nwk:1: edge length '' (expected a finite number)"},
      {"(A:inf,B);", "t.nwk:1: edge length 'inf' (expected a finite number)"},
      {"(A:nan,B);", "t.nwk:1: edge length 'nan' (expected a finite number)"},
      {"(A,\n\n'B);", "t.nwk:3: a quoted label is not closed (expected ')"},
      {"(A,[B);", "t.nwk:1: a comment is not closed (expected ])"},
      {"(A,B)(C);", "t.nwk:1: '(' after a label or subtree (expected , ) : or ;)"},
      {"(A(B));", "t.nwk:1: '(' (expected , or ) )"},
  };
  for (const auto& [text, expected] : cases) {
    CHECK(error_of([&, &input = text] { return parse_newick(input, "t.nwk"); }) == expected);
  }
}

TEST_CASE("Newick: a path of 10^6 nodes needs no stack") {
  const std::size_t n = 1000000;
  const auto t = parse_newick(std::string(n, '(') + std::string(n, ')') + ";", "t.nwk");
  CHECK(t.parent.size() == n + 1);
  CHECK(t.parent[n] == static_cast<Index>(n) - 1);
}

TEST_CASE("parent lists: weights, comments, labels, roots") {
  const auto t = parse_parents("# nodes 4\n-1\n0 2.5 # a comment\n\n3\r\n0\t-1e1\n", "t.txt", false);
  CHECK(t.parent == Parents{-1, 0, 3, 0});
  CHECK(t.weights == std::vector<double>{1, 2.5, 1, -10});
  const auto named = parse_parents("-1 entity\n0 physical entity\n0 2\n0 nan\n", "t.parents", true);
  CHECK(named.weights == std::vector<double>{1, 1, 2, 1});
  CHECK(named.names == std::vector<std::string>{"entity", "physical", "", "nan"});
}

TEST_CASE("parent lists: a number beyond double is no name") {
  for (const std::string word : {"1e400", "-1e999", "+2.5E400"}) {
    CHECK(error_of([&] { return parse_parents("-1 root\n0 " + word + "\n", "t.parents", true); }) ==
          "t.parents:2: weight '" + word + "' (expected a finite number)");
  }
  // Words with digits stay names, and what is too small for a double is 0.
  const auto t = parse_parents("-1 e4\n0 p53\n0 inf\n0 1e-400\n0 1.2.3\n", "t.parents", true);
  CHECK(t.names == std::vector<std::string>{"e4", "p53", "inf", "", "1.2.3"});
  CHECK(t.weights == std::vector<double>{1, 1, 1, 0, 1});
}

TEST_CASE("parent lists: malformed files name the line") {
  const std::pair<std::string, std::string> cases[] = {
      {"", "t.txt: no node (expected a line a node: parent [weight])"},
      {"# only a comment\n", "t.txt: no node (expected a line a node: parent [weight])"},
      {"-1\nx\n", "t.txt:2: 'x' (expected a parent's number, -1 for a root)"},
      {"-1\n0.5\n", "t.txt:2: '0.5' (expected a parent's number, -1 for a root)"},
      {"-1\n2\n", "t.txt:2: node 1 has the parent 2 (expected -1 .. 1)"},
      {"-1\n\n-2\n", "t.txt:3: node 1 has the parent -2 (expected -1 .. 1)"},
      {"1\n0\n", "t.txt:1: node 0 is its own ancestor (expected a forest)"},
      {"-1\n1\n", "t.txt:2: node 1 is its own ancestor (expected a forest)"},
      {"-1\n0 w\n", "t.txt:2: weight 'w' (expected a finite number)"},
      {"-1\n0 inf\n", "t.txt:2: weight 'inf' (expected a finite number)"},
      {"-1\n0 1e999\n", "t.txt:2: weight '1e999' (expected a finite number)"},
      {"-1\n0 1 2\n", "t.txt:2: extra '2' (expected `parent [weight]`)"},
      {"99999999999999999999\n", "t.txt:1: '99999999999999999999' (expected a parent's number, -1 for a root)"},
  };
  for (const auto& [text, expected] : cases) {
    CHECK(error_of([&, &input = text] { return parse_parents(input, "t.txt", false); }) == expected);
  }
}
