// Wrong input: exit code, the one line on standard error, and outputs that stay as they were.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>

#include "tools/command_runner.hpp"

using namespace command_tests;

namespace {

struct BadCase {
  std::string args, text;  // text: part of standard error
};

const std::string multiply = "multiply --input x.npy --output old.npy ";
const std::string attend = "attend --query q.npy --key k.npy --value v.npy --output old.npy ";
const std::string linear = attend + "--attention linear --feature-map relu ";
const std::string softmax = attend + "--attention softmax ";

const std::string fit = "fit --output old.npy --tolerance 1e-5 ";

// An expression of 10,000 characters.
const std::string long_sum = [] {
  std::string text = "d";
  while (text.size() < 10000) text += "+d";
  return text;
}();

const std::vector<BadCase> cases = {
    // the parser
    {"", "command"},
    {"frobnicate", "frobnicate: no command"},
    {"multiply --no-such-flag", "--no-such-flag: unknown flag"},
    {multiply + "--mask", "--mask"},
    {multiply + "--mask ones --input x.npy", "--input"},
    {multiply + "--mask ones extra", "'extra': unexpected argument"},
    {"multiply --input x.npy --mask ones --output --quiet", "--output: a value is missing"},
    {"multiply --output old.npy --mask ones", "--input: is missing"},
    {"multiply --input x.npy --mask ones", "--output: is missing"},
    {multiply, "--mask: is missing"},
    // later issues
    {"entries --mask ones", "entries: is not available yet"},
    {multiply + "--mask ones --check 3", "--check: is not available yet"},
    {multiply + "--mask ones --dry-run", "--dry-run: is not available yet"},
    {multiply + "--mask ones --cost-model none.json", "none.json: cannot be opened"},
    {multiply + "--mask ones --cost-model x.npy", "--cost-model: x.npy: expected a JSON object"},
    {multiply + "--mask ones --tolerance-kind norm", "--tolerance-kind: 'norm' (expected row, entry or pointwise)"},
    {linear + "--layout BLHD", "--layout: is not available yet"},
    {linear + "--window 3,3", "--window: is not available yet"},
    {linear + "--offsets n.npy", "--offsets: is not available yet"},
    {attend + "--attention knn", "--attention: 'knn' is not available yet"},
    {multiply + "--mask tree:t.nwk --function 'exp(-d)' --leaves", "--leaves: is not available yet"},
    // common flags
    {multiply + "--mask ones --threads 0", "--threads: 0 (expected at least 1)"},
    {multiply + "--mask ones --threads two", "--threads: 'two' (expected an integer)"},
    {multiply + "--mask ones --tolerance -1", "--tolerance: -1 (expected 0 <= E < 1)"},
    {multiply + "--mask ones --tolerance nan", "--tolerance: 'nan' (expected a finite number)"},
    {multiply + "--mask ones --type half", "--type: 'half' (expected float or double)"},
    {multiply + "--mask ones --repeat 0", "--repeat: 0 (expected at least 1)"},
    {multiply + "--mask ones --progress --no-progress", "--no-progress: contradicts --progress"},
    {multiply + "--mask grid:5 --function 'exp(-d)' --engine warp", "--engine: "},
    {multiply + "--mask ones --report no_folder/r.json", "--report: no_folder/r.json: the folder no_folder does not exist"},
    // input and output files
    {"multiply --mask ones --input none.npy --output old.npy", "none.npy: cannot be opened"},
    {"multiply --mask ones --input . --output old.npy", ".: is a folder"},
    {"multiply --mask ones --input t.nwk --output old.npy", "t.nwk: is not a .npy file"},
    {"multiply --mask ones --input cut.npy --output old.npy",
     "cut.npy: 12 bytes of elements (expected 40 for shape [5] of float64)"},
    {"multiply --mask ones --input integers.npy --output old.npy", "integers.npy: elements of type int64 (expected float16"},
    {"multiply --mask ones --input x.npy --output no_folder/y.npy",
     "--output: no_folder/y.npy: the folder no_folder does not exist"},
    {"multiply --mask ones --input x.npy --output .", "--output: .: is a folder"},
    {"multiply --mask ones --input x.npy --output y.npy.gz", "--output: y.npy.gz: packed files are not written"},
    {multiply + "--mask ones --report old.npy", "old.npy is the output of --report too"},
    // masks
    {multiply + "--mask ones:5", "--mask: 'ones:5': ones takes nothing after its name (expected ones)"},
    {multiply + "--mask ones:", "--mask: 'ones:': ones takes nothing after its name"},
    {multiply + "--mask grib:5", "--mask: 'grib:5' is no form of a mask"},
    {multiply + "--mask grid:4 --function 'exp(-d)'",
     "x.npy: 5 rows (expected 4 from grid:4; one extra token? add --border 1)"},
    {multiply + "--mask grid:2 --function 'exp(-d)' --border 1",
     "x.npy: 5 rows (expected 3 from grid:2 with --border 1; 2 more extra tokens? set --border 3)"},
    {multiply + "--mask grid:2x --function d", "--mask: "},
    {multiply + "--mask grid:0 --function d", "--mask: "},
    {multiply + "--mask grid:5", "--function"},
    {multiply + "--mask grid:5 --function 'exp(-d)' --table table.npy", "--table: excludes --function (give one of them)"},
    {multiply + "--mask grid:5 --table x.npy", "--table: x.npy: 5 (expected 9 for grid:5, or one table a head: H x 9)"},
    {multiply + "--mask grid:5 --table v.npy", "--table: v.npy: 5 x 3 (expected 9 for grid:5, or one table a head: H x 9)"},
    {multiply + "--mask grid:5 --table infinite.npy", "infinite.npy: element 1 is not finite"},
    {multiply + "--mask grid:5 --table none.npy", "none.npy: cannot be opened"},
    {multiply + "--mask grid:5 --function 'exp(-d'", "--function: 'exp(-d'"},
    {multiply + "--mask grid:5 --function 'exp(-x)'", "--function: 'exp(-x)'"},
    {multiply + "--mask grid:5 --function '1/d'", "--function: 1/d: not finite at the distance 0"},
    {multiply + "--mask grid:5 --function 'd,d'", "--function: 'd,d' has several values"},
    {multiply + "--mask grid:5 --function table:short.npy",
     "--function: short.npy: no value at d = 4, expected an integer from 0 to 1"},
    {multiply + "--mask grid:5 --function table:", "--function: a file's name is missing after 'table:'"},
    {multiply + "--mask grid:5 --distance offset --function table:table.npy", "--function: table.npy: no value at d = -4"},
    {multiply + "--mask grid:5 --border 2 --function table:short.npy", "--function: short.npy: no value at d = 4"},
    {multiply + "--mask grid:2x2 --border 1 --distance offset --function 'exp(-d)'",
     "--distance: 'offset' is for one axis (expected l1, l2 or max for grid:2x2, or --table)"},
    {multiply + "--mask grid:5 --function '" + long_sum + "+x'", "--function: 'd" + long_sum.substr(1, 76) + "...': "},
    {multiply + "--mask grid:5 --function '" + long_sum + "/0'", "--function: d" + long_sum.substr(1, 76) + "...: not finite"},
    {multiply + "--mask grid:5 --function 'exp(-d)' --distance l3", "--distance: 'l3' (expected l1, l2, max or offset)"},
    {"multiply --mask ones --input cube.npy --output old.npy",
     "cube.npy: shape [1, 1, 2, 2] (expected [1] or [1, c] for ones)"},
    {multiply + "--mask ones --time 3", "--time: means nothing here"},
    {multiply + "--mask ones --border -1", "--border: -1 (expected at least 0)"},
    {multiply + "--mask ones --border 9223372036854775807", "--border: 9223372036854775807 (expected at most 1099511627776)"},
    {softmax + "--mask ones --bias grid:5 --bias-function d --bias-border 9223372036854775807", "--bias-border: 922337203685"},
    {multiply + "--mask ones --border 1 --border-weight 1,2",
     "--border-weight: 2 numbers (expected one, or row,column,corner)"},
    {multiply + "--mask ones --causal=bottom-right", "--causal: 'bottom-right'"},
    {multiply + "--mask dense:x.npy", "espalier: x.npy: 1 dimensions (expected 2, a matrix)"},
    {multiply + "--mask low-rank:x.npy", "espalier: x.npy: 1 dimensions (expected 2, L x r)"},
    {multiply + "--mask low-rank:q.npy,v.npy", "espalier: v.npy: 3 columns (expected 2 as q.npy has)"},
    {multiply + "--mask grid:5 --table cube3.npy",
     "(expected [3, 5, c]: cube3.npy has shape [3, 9], one table a head of grid:5)"},
    {multiply + "--mask grid:100000x100000x100000 --function d", "--mask: the table of offsets would have more than"},
    {multiply + "--mask graph:g.txt --time 1 --border 5 --kernel heat", "--kernel: 'heat' is not available yet"},
    {multiply + "--mask dense:infinite.npy", "infinite.npy: element 1 is not finite"},
    {multiply + "--mask dense:", "--mask: a file's name is missing after the colon"},
    {multiply + "--mask tree:t.nwk", "--function"},
    {multiply + "--mask tree:bad.nwk --function 'exp(-d)'", "bad.nwk:2: the file ends inside a tree (expected ')')"},
    {multiply + "--mask tree:cycle.txt --function 'exp(-d)'", "cycle.txt:1: node 0 is its own ancestor (expected a forest)"},
    {multiply + "--mask tree:x.npy --function 'exp(-d)'", "x.npy: parents of type float64 (expected int32 or int64)"},
    {multiply + "--mask tree:t.csv --function 'exp(-d)'", "t.csv: unknown kind of tree file"},
    {multiply + "--mask graph:g.txt", "--time"},
    {multiply + "--mask graph:g.txt --time -1", "--time: -1 (expected >= 0)"},
    {multiply + "--mask graph:g.txt --time 1e300", "--time: 1e+300: time times half the spectrum's width is "},
    {multiply + "--mask graph:g.txt --operator adjacency --time 1e4",
     "--time: 10000: exp(tA) overflows: t times the largest eigenvalue is at least 10000 (expected at most 700)"},
    {softmax + "--mask ones --bias graph:g.txt --bias-time -2", "--bias-time: -2 (expected >= 0)"},
    {multiply + "--mask graph:g.txt --time 1 --nodes 2", "--nodes: 2 nodes (expected at least the 5 of g.txt)"},
    {multiply + "--mask graph:g.txt --time 1 --operator heat", "--operator: 'heat'"},
    {multiply + "--mask graph:two.txt --time 1", "two.txt:2: the edge between 1 and 0 (0-based) has the weight 2 (expected 1"},
    {multiply + "--mask graph:bad.mtx --time 1", "bad.mtx:3: index 9 (expected 1 .. 5)"},
    {multiply + "--mask graph:negative.txt --time 1",
     "negative.txt:2: the edge between 0 and 1 (0-based) has the weight -0.5 (expected >= 0 for a Laplacian; --operator "
     "adjacency takes any sign)"},
    {multiply + "--mask graph:negative.mtx --time 1 --operator random-walk",
     "negative.mtx:4: the edge between 2 and 0 (0-based) has the weight -1 (expected >= 0 for a Laplacian"},
    {softmax + "--mask ones --bias graph:negative.graph --bias-time 1",
     "has the weight -5 (expected >= 0 for a Laplacian; --bias-operator adjacency takes any sign)"},
    {multiply + "--mask tree:five.txt --function '1/d'", "--function: 1/d: not finite at the distance of nodes "},
    {multiply + "--mask tree:five.txt --function 'exp(-1e6*d)'", "--function: exp(-1e6*d): "},
    {multiply + "--mask tree:five.txt --function table:short.npy", "--function: short.npy: no value at d = "},
    {multiply + "--mask tree:large.txt --function '1/(1+d)'",
     "--function: 1/(1+d): is no exponential, and the tree has 9000 nodes; trees with more than 8192 nodes take f = c exp(a "
     "d)"},
    // square masks
    {multiply + "--mask dense:wide.npy", "wide.npy: 5 x 6 (expected a square matrix; only attend takes masks of Lq x Lk)"},
    {multiply + "--transpose --mask dense:wide.npy", "wide.npy: 5 x 6 (expected a square matrix"},
    {multiply + "--mask low-rank:q.npy,tall.npy", "tall.npy: 6 rows (expected 5 as q.npy has, for a square mask"},
    {"row --mask dense:wide.npy --row 1 --output old.npy", "wide.npy: 5 x 6 (expected a square matrix"},
    {"info --mask low-rank:q.npy,tall.npy", "tall.npy: 6 rows (expected 5 as q.npy has"},
    // sizes
    {"row --mask ones --row 0 --output old.npy", "--size: is missing ('ones' has no size of its own; add --size L)"},
    {"info --mask ones", "--size: is missing ('ones' has no size of its own; add --size L)"},
    {"info --mask ones --size 9223372036854775807", "--size: 9223372036854775807 (expected at most 2147483647)"},
    {"info --mask grid:10 --function d --columns 9223372036854775807",
     "--columns: 9223372036854775807 (expected at most 1048576)"},
    {"info --mask grid:10 --function d --rank 1000000000000", "--rank: 1000000000000 (expected at most 1048576)"},
    {"multiply --mask ones --input empty.npy --output old.npy", "empty.npy: 0 rows (expected at least 1, the size of 'ones')"},
    {multiply + "--mask ones --repeat 99999999999999999999999", "--repeat: 99999999999999999999999 is too large"},
    // tolerance 0
    {"multiply --mask graph:path9000.edges --time 1 --input x9000.npy --output old.npy --tolerance 0",
     "--tolerance: no exact engine can run this product; 'chebyshev' would, with a tolerance above 0"},
    {"info --mask graph:path9000.edges --time 1 --tolerance 0 --border 2",
     "--tolerance: no exact engine can run this product; 'chebyshev' would, with a tolerance above 0"},
    {"multiply --mask graph:path9000.edges --time 1 --input x9000.npy --output old.npy --tolerance 0 --engine chebyshev",
     "--tolerance: no exact engine can run this product; 'chebyshev' would, with a tolerance above 0"},
    {"info --mask graph:path2000.edges --time 1 --causal --tolerance 0", "--tolerance: no exact engine can run this product"},
    {"attend --attention softmax --query q2000.npy --key q2000.npy --value q2000.npy --output old.npy --tolerance 0 "
     "--mask graph:path2000.edges --time 1",
     "--tolerance: no exact engine can run this product"},
    // rows
    {"row --mask grid:5 --function d --output old.npy", "--row: is missing"},
    {"row --mask grid:5 --function d --row 5 --output old.npy", "--row: 5 (expected 0 .. 4 for grid:5)"},
    {"row --mask grid:5 --function d --row 1,1 --output old.npy", "--row: 1,1: 2 numbers (expected one or 1 for grid:5)"},
    {"row --mask grid:5 --function d --row 1 --output row.jpg", "--output: row.jpg: unknown kind of file"},
    {"row --mask graph:g.txt --time 1 --row 1 --output row.png", "--coordinates: is missing"},
    {"info --mask ones --nodes-output n.tsv --size 4", "--nodes-output: ones has no tree"},
    // attention
    {attend, "--attention: is missing"},
    {attend + "--attention warp", "--attention: 'warp' (expected linear, softmax or top-k)"},
    {attend + "--attention linear", "--feature-map: is missing"},
    {attend + "--attention linear --feature-map gelu", "--feature-map: 'gelu' (expected identity"},
    {linear + "--bias ones", "--bias: goes with --attention softmax"},
    {linear + "--scale 2", "--scale: means nothing here"},
    {linear + "--k 2", "--k: means nothing here"},
    {linear + "--weight-epsilon -1", "--weight-epsilon: -1 (expected >= 0)"},
    {linear + "--log-sum-exp e.npy", "--log-sum-exp: goes with --attention softmax"},
    {linear + "--mask grid:4 --function 'exp(-d)'", "q.npy: 5 rows (expected 4 from grid:4; one extra token? add --border 1)"},
    {linear + "--query-gradient qg.npy", "--query-gradient: needs --output-gradient"},
    {linear + "--output-gradient v.npy", "--output-gradient: no gradient is asked for"},
    {linear + "--output-gradient x.npy --query-gradient qg.npy", "x.npy: shape [5] (expected [5, 3], the output's)"},
    {linear + "--output-gradient v.npy --table-gradient tg.npy", "--table-gradient: there is no mask"},
    {linear + "--output-gradient v.npy --table-gradient tg.npy --mask ones", "--table-gradient: ones has no table"},
    {linear + "--key-count x.npy", "x.npy: counts of type float64 (expected int32 or int64)"},
    {linear + "--key-count integers.npy", "integers.npy: shape [5] (expected [1], a count a batch entry)"},
    {linear + "--causal=sideways", "--causal: 'sideways' (expected top-left or bottom-right)"},
    {attend + "--attention linear --feature-map positive-softmax --projection v.npy", "v.npy: shape [5, 3] (expected [m, 2]"},
    {softmax + "--feature-map relu", "--feature-map: means nothing here"},
    {softmax + "--mask dense:negative.npy",
     "--mask: dense:negative.npy: entry (0, 0) is -1 (expected entries >= 0 under softmax)"},
    {softmax + "--mask grid:5 --function 'cos(d)'",
     "--mask: grid:5: an entry is -0.989992 (expected entries >= 0 under softmax)"},
    {softmax + "--mask grid:4 --function 'exp(-d)' --border 1 --border-weight=-1", "--mask: grid:4: an entry is -1 "},
    {softmax + "--bias dense:infinite.npy",
     "infinite.npy: element 1 is not finite (expected finite entries, or -inf for pairs left out)"},
    {attend + "--attention linear --feature-map positive-softmax --scale 0", "--scale: 0 (expected > 0: its root is taken)"},
    {"top-k --query q.npy --key k.npy --k 2 --indices old.npy --mask ones", "--mask: unknown flag"},
    {multiply + "--mask ones --in x.npy", "--in: unknown flag"},
    {multiply + "--mask ones --transpose=maybe", "--transpose: takes no value"},
    {multiply + "--mask sparse:m.mtx", "--mask: 'sparse:m.mtx' is not available yet (it comes with the graph issue)"},
    {multiply + "--mask spanning-tree:g.txt", "--mask: 'spanning-tree:g.txt' is not available yet"},
    {"multiply --mask dense:infinite.npy --input long.npy --output old.npy", "infinite.npy: element 1 is not finite"},
    {"multiply --mask tree:t.nwk --function 'exp(-d)' --input x9000.npy --output old.npy",
     "x9000.npy: 9000 rows (expected 5 from tree:t.nwk; check that the file belongs to the mask)"},
    // flags of a bias beside a mask carry its name
    {softmax + "--mask ones --bias grid:5", "--bias-function: is missing (expected --bias-function F or --bias-table T.npy"},
    {softmax + "--mask ones --bias grid:4 --bias-table my--table.npy",
     "--bias-table: my--table.npy: 9 (expected 7 for grid:4, or one table a head: H x 7)"},
    {multiply + "--mask '" + long_sum + "'", "...' is no form of a mask"},
    {softmax + "--mask ones --bias tree:five.txt", "--bias-function: is missing (expected a function of the path length d)"},
    {softmax + "--mask ones --bias grid:5 --bias-function d --bias-table table.npy", "--bias-table: excludes --bias-function"},
    {softmax + "--mask ones --bias grid:5 --bias-function '1/d'", "--bias-function: 1/d: not finite at the distance 0"},
    {softmax + "--mask ones --bias graph:g.txt", "--bias-time: a graph mask needs a diffusion time (add --bias-time t)"},
    {softmax + "--output-gradient v.npy --bias-table-gradient tg.npy", "--bias-table-gradient: there is no --bias"},
    {softmax + "--mask ones --bias grid:5 --bias-function d --bias-distance l3", "--bias-distance: 'l3' (expected l1"},
    {softmax + "--mask ones --bias grid:5 --bias-table x.npy", "--bias-table: x.npy: 5 (expected 9 for grid:5"},
    {softmax + "--mask ones --bias graph:g.txt --bias-time 1 --bias-operator heat", "--bias-operator: 'heat' (expected"},
    {softmax + "--mask ones --bias grid:5 --bias-function 'exp(-x)'", "--bias-function: 'exp(-x)'"},
    {softmax + "--mask ones --bias grid:5 --bias-function d --bias-border x", "--bias-border: 'x' (expected an integer)"},
    {softmax + "--mask ones --bias grid:4 --bias-function d", "one extra token? add --bias-border 1)"},
    {softmax + "--engine fft", "--engine: 'fft' (expected direct"},
    {"attend --attention softmax --query q.npy --key long.npy --value longv.npy --output old.npy --causal",
     "--causal: q.npy has 5 rows, long.npy 7: say the alignment"},
    {"attend --attention softmax --query q.npy --key v.npy --value v.npy --output old.npy",
     "v.npy: 3 columns (expected 2 as q.npy has)"},
    {"attend --attention softmax --query q.npy --key long.npy --value v.npy --output old.npy",
     "v.npy: 5 rows (expected 7 as long.npy has)"},
    {"attend --attention softmax --query x.npy --key k.npy --value v.npy --output old.npy",
     "x.npy: shape [5] (expected [L, d]"},
    {attend + "--attention top-k", "--k: is missing"},
    {attend + "--attention top-k --k 0", "--k: 0 (expected at least 1)"},
    {attend + "--attention top-k --k 2 --mask ones", "--mask: does not go with --attention top-k"},
    {attend + "--attention top-k --k 2 --bias ones", "--bias: does not go with --attention top-k"},
    {"top-k --query q.npy --key k.npy --indices old.npy", "--k: is missing"},
    {"top-k --query q.npy --key k.npy --k 2", "--indices: is missing"},
    {"attend --attention softmax --query q.npy --key k.npy --value v.npy --output new.npy --log-sum-exp ./new.npy",
     "is the output of --"},
    {"top-k --query q.npy --key v.npy --k 2 --indices old.npy", "v.npy: 3 columns (expected 2 as q.npy has)"},
    // fit
    {fit + "--distances 0:10", "--function: is missing"},
    {fit + "--function 'exp(-d)'", "--distances: is missing"},
    {"fit --function 'floor(d/100)' --distances 0:5000 --max-slots 8 --output old.npy",
     "--tolerance: 1e-12 (the default for double) cannot be met: "},
    {"fit --function 'exp(-d)' --distances 0:10 --tolerance 1e-5", "--output: is missing"},
    {fit + "--function 'exp(-d)' --distances 10", "--distances: '10' (expected 0:N"},
    {fit + "--function 'exp(-d)' --distances 0:0", "--distances: '0:0' (expected 0 <= a < N"},
    {fit + "--function 'exp(-d)' --distances 7:5", "--distances: '7:5' (expected 0 <= a < N"},
    {fit + "--function 'exp(-d)' --distances -1:5", "--distances: '-1:5' (expected 0 <= a < N"},
    {fit + "--function 'exp(-d)' --distances 0:1e9", "--distances: '1e9' (expected an integer)"},
    {fit + "--function 'exp(-d)' --distances 0:10000000000", "(expected 0 <= a < N <= 268435456 in a:N)"},
    {fit + "--function 'exp(-d)' --distances 0:10 --max-slots 0", "--max-slots: 0 (expected at least 1)"},
    {fit + "--function 'exp(-d)' --distances 0:10 --tolerance-kind norm",
     "--tolerance-kind: 'norm' (expected row, entry or pointwise)"},
    {fit + "--function 'exp(-' --distances 0:10", "--function: 'exp(-': "},
    {fit + "--function '1/d' --distances 0:10", "--function: 1/d: is inf at d = 0, expected a finite number"},
    {fit + "--function table:x.npy --distances 0:6",
     "--function: table:x.npy: 5 values (expected at least 6 for --distances 0:6)"},
    {fit + "--function table:none.npy --distances 0:6", "none.npy: cannot be opened"},
    {fit + "--function table:infinite.npy --distances 0:6", "infinite.npy: shape [2, 2] (expected [n]"},
    {fit + "--function 'floor(d/100)' --distances 0:5000 --max-slots 8",
     "--tolerance: 1e-5 cannot be met: floor(d/100) is no short sum of exponentials: "},
    {"fit --output old.npy --tolerance 0 --function '1/(1+d)' --distances 0:50",
     "--tolerance: 0 cannot be met: 1/(1+d) is no finite sum"},
    {fit + "--function 'exp(-d)' --distances 0:500 --engine fft", "--engine: 'fft' (expected auto or exponentials)"},
};

}  // namespace

TEST_CASE("every mistake has its exit code and text, and changes nothing") {
  const Folder folder;
  const std::vector<double> ten(10, 0.5), fifteen(15, 0.25), five(5, 1.0);
  folder.array("x.npy", {5}, five);
  folder.array("q.npy", {5, 2}, ten);
  folder.array("k.npy", {5, 2}, ten);
  folder.array("v.npy", {5, 3}, fifteen);
  folder.array("long.npy", {7, 2}, std::vector<double>(14, 1));
  folder.array("longv.npy", {7, 3}, std::vector<double>(21, 1));
  folder.array("table.npy", {9}, std::vector<double>(9, 1));
  folder.array("my--table.npy", {9}, std::vector<double>(9, 1));
  folder.array("short.npy", {2}, std::vector<double>(2, 1));
  folder.array("infinite.npy", {2, 2}, std::vector<double>{1, 1.0 / 0.0, 1, 1});
  folder.array("negative.npy", {5, 5}, std::vector<double>(25, -1));
  folder.array("cube3.npy", {3, 9}, std::vector<double>(27, 1));
  folder.array("cube.npy", {1, 1, 2, 2}, std::vector<double>(4, 1));
  folder.array("integers.npy", {5}, std::vector<std::int64_t>(5, 1));
  const std::string whole = text_of(folder.path("x.npy"));
  folder.text("cut.npy", whole.substr(0, whole.size() - 28));
  folder.text("t.nwk", "((A,B),C);");
  folder.text("bad.nwk", "((A,B),\nC");
  folder.text("cycle.txt", "1\n0\n-1\n-1\n-1\n");
  folder.text("t.csv", "1,2\n");
  folder.text("g.txt", "0 1\n3 4\n");
  folder.text("two.txt", "0 1 1\n1 0 2\n");
  folder.text("negative.txt", "3 4\n0 1 -0.5\n");
  folder.text("negative.mtx", "%%MatrixMarket matrix coordinate real symmetric\n5 5 2\n2 1 1\n3 1 -1\n");
  folder.text("negative.graph", "5 1 1\n2 -5\n1 -5\n\n\n\n");
  folder.text("five.txt", "-1\n0\n0\n1\n1\n");
  std::string large = "-1\n", path;
  for (int v = 1; v < 9000; ++v)
    large += std::to_string(v / 2) + "\n", path += std::to_string(v - 1) + " " + std::to_string(v) + "\n";
  folder.text("large.txt", large);
  folder.text("path9000.edges", path);
  folder.array("x9000.npy", {9000}, std::vector<double>(9000, 1));
  path.clear();
  for (int v = 1; v < 2000; ++v) path += std::to_string(v - 1) + " " + std::to_string(v) + "\n";
  folder.text("path2000.edges", path);
  folder.array("q2000.npy", {2000, 1}, std::vector<double>(2000, 1));
  folder.array("empty.npy", {0, 3}, five);
  folder.array("wide.npy", {5, 6}, std::vector<double>(30, 1));
  folder.array("tall.npy", {6, 2}, std::vector<double>(12, 1));
  folder.text("bad.mtx", "%%MatrixMarket matrix coordinate pattern general\n5 5 1\n9 1\n");
  folder.array("old.npy", {1}, std::vector<double>{42});
  const std::string old = text_of(folder.path("old.npy"));
  const auto names = folder.names();
  CHECK(cases.size() >= 60);
  for (const BadCase& c : cases) {
    CAPTURE(c.args);
    const Outcome r = folder.run(c.args);
    CHECK_MESSAGE(r.code == 2, r.code, " ", r.err);
    CHECK(r.out.empty());
    CHECK_MESSAGE(r.err.rfind("espalier: ", 0) == 0, r.err);
    CHECK_MESSAGE(std::count(r.err.begin(), r.err.end(), '\n') == 1, r.err);
    CHECK(r.err.size() < 400);
    CHECK_MESSAGE(r.err.find(c.text) != std::string::npos, r.err, " should contain ", c.text);
    CHECK(text_of(folder.path("old.npy")) == old);
    CHECK(folder.names() == names);
  }
}

TEST_CASE("Ctrl-C: exit code 130, nothing half-written") {
  const Folder folder;
  folder.array("x.npy", {40000, 8}, std::vector<double>(40000 * 8, 1));
  folder.array("old.npy", {1}, std::vector<double>{42});
  const std::string old = text_of(folder.path("old.npy"));
  const auto names = folder.names();
  // Direct tiles of 40,000 x 40,000 take seconds; the signal comes after half of one.
  const std::string line = "cd '" + folder.path("") +
                           "' && timeout --preserve-status -s INT 0.5 '" ESPALIER_COMMAND
                           "' multiply --mask grid:40000 --function 'exp(-0.001*d)' --engine direct --repeat 100 --threads 1 "
                           "--input x.npy --output old.npy >.stdout 2>.stderr";
  const int status = std::system(line.c_str());
  CHECK(WEXITSTATUS(status) == 130);
  CHECK(text_of(folder.path(".stderr")) == "espalier: cancelled\n");
  CHECK(text_of(folder.path(".stdout")).empty());
  CHECK(text_of(folder.path("old.npy")) == old);
  CHECK(folder.names() == names);
}
