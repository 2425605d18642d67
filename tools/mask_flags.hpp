// Masks from the command line: any form that the library registers, its flags, border and causal order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "run.hpp"

#include <espalier/core/mask.hpp>
#include <espalier/io/graph_files.hpp>
#include <espalier/io/tree_files.hpp>
#include <espalier/masks/form.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace espalier::tools {

// The largest L of a mask whose size is given by --size: what grids, trees and graphs can have.
inline constexpr Index kMostSize = std::numeric_limits<std::int32_t>::max();

// Declares --mask with the flags of all forms; with_bias: --bias and the flags with the prefix too.
void add_mask_flags(Flags& flags, bool with_bias);

// The engines that a mask and what is put around it are asked for.
struct LayerEngines {
  std::string inner = "auto";  // the form's own mask
  std::string outer = "auto";  // the outermost of border and causal order
};

// Which mask to build, and what is known of it before.
struct MaskRequest {
  std::string role = "mask";           // the flag: "mask" or "bias"
  bool prefixed = false;               // its flags are written --bias-...
  std::pair<Index, Index> size{0, 0};  // of the whole mask, border counted in; {0, 0}: unknown
  std::string size_file;               // whose rows the size is; empty: --size gives it
  bool square = false;                 // other matrices are refused
  std::optional<Index> causal_shift;   // wanted causal order; see BuiltMask::causal
  bool wrapped = false;                // make_causal may follow
  bool describe_only = false;
  std::optional<MaskOptions> options;  // instead of the run's
  // Nothing: the options' engine where the form's mask stands alone; with layers around it auto, until chosen_engine decides.
  std::optional<LayerEngines> engines;
};

// What files a mask came from: pictures and node lists need them.
struct MaskSources {
  std::optional<TreeFile> tree;
  std::optional<GraphFile> graph;
  // Files and shapes of a dense or low-rank mask.
  std::vector<std::pair<std::string, std::vector<Index>>> matrices;
  std::vector<Index> grid;         // sizes of the grid, where rows have one
  std::vector<Index> table_shape;  // of a learnable table; empty: none
  std::string table_file;          // of --table
};

template <class T>
struct BuiltMask {
  std::string text;  // as written: "grid:14x14"
  std::vector<MaskPointer<T>> heads;
  MaskSources sources;
  Index border = 0;
  bool causal = false;                 // the form itself took care of the causal order
  MaskRequest request;                 // what it was built from
  std::vector<MaskPointer<T>> layers;  // of the first head: the form's mask, then what is put around it
  std::vector<MaskPointer<T>> inside;  // of every head, the form's mask
  std::optional<Index> wrapped_shift;  // of the order that make_causal put around it
  double entry_error = 0;              // of entries of a graph's kernel, relative to its norm; known after need_entries
  Index rows() const { return heads.front()->rows(); }
  Index cols() const { return heads.front()->cols(); }
};

// Builds the mask of `--mask` or `--bias`; seconds go to the run's set-up time. Errors: FlagError, FormatError, ValueError with
// the flag in front.
template <class T>
BuiltMask<T> build_mask(Run& run, const MaskRequest& request);

// Wraps every mask of `m` in a causal order, unless the form took care of it.
template <class T>
void make_causal(Run& run, BuiltMask<T>& m, Index shift);

// Masks whose entries cannot be had by tile are formed as matrices (up to 8192 columns): softmax needs entries.
template <class T>
void need_entries(Run& run, BuiltMask<T>& m, const std::string& flag);

// Softmax multiplies by its mask: FlagError where an entry is below 0 by more than its engine's error; within that error it
// becomes 0. Cost: the table's size, or all entries where there is none.
template <class T>
void need_non_negative(Run& run, BuiltMask<T>& m);

// The engine that will run, with the flag in front of its error text.
template <class T>
Report chosen_engine(Run& run, const Mask<T>& mask, Shape shape);

// The same for a mask with its border and causal order. A forced engine is a name that the whole can run or, where it forms
// the matrix of what is inside, the inside can: the mask is built again with that name at its place. Errors: FlagError with
// the names that work.
template <class T>
Report chosen_engine(Run& run, BuiltMask<T>& mask, Shape shape);

// Every engine that could run the product: the mask's own report names those of what is around the form's mask and the one
// that this chooses; a border may stand beside any that it has.
template <class T>
std::vector<Report> listed_engines(Run& run, const BuiltMask<T>& mask, Shape shape);

// Why a mask has several heads: "t.npy has shape [3, 19], one table a head of grid:10".
std::string heads_text(const MaskSources& sources, const std::string& mask);

// "GridMask: ..." -> "...": behind a flag's name the class says nothing to whoever wrote the flag.
std::string without_class(const std::string& text);

// "x.npy: 197 rows (expected 196 from grid:14x14; one extra token? add --border 1)".
[[noreturn]] void refuse_size(const std::string& file, const std::string& what, Index got, Index expected,
                              const std::string& mask, Index border, const std::string& prefix = "");

}  // namespace espalier::tools
