// How a mask is written on the command line: each mask registers its form beside itself, tools read them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/graphs/graph.hpp>
#include <espalier/graphs/tree.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier {

// An array read for a mask, in double, C order.
struct FormArray {
  std::vector<Index> shape;
  std::vector<double> values;
};

// What a form's builder may ask for. Tools implement it over flags and files: files are opened there, never here. A flag that
// no builder asked for is reported as unused. Every function throws the library's errors with file or flag in the text.
class ESPALIER_EXPORT FormArguments {
 public:
  virtual ~FormArguments();
  // The text after "kind:" ("14x14", a file name); empty where there is none.
  virtual std::string operand() const = 0;
  // L where the caller knows it from other input (rows of X, queries x keys of attention): forms without a size of their own
  // ("ones") use it. Throws where nothing gives it.
  virtual std::pair<Index, Index> size() const = 0;
  virtual std::optional<std::string> text(const std::string& flag) = 0;  // value of --flag
  virtual std::optional<double> number(const std::string& flag) = 0;
  virtual bool flag(const std::string& flag) = 0;                            // a switch without value
  virtual std::optional<DistanceFunction> function() = 0;                    // --function
  virtual std::optional<FormArray> array_flag(const std::string& flag) = 0;  // --flag FILE.npy
  virtual FormArray array_file(const std::string& file) = 0;
  virtual std::shared_ptr<const Tree> tree_file(const std::string& file) = 0;  // reads --weights too, where the format needs it
  virtual std::shared_ptr<const Graph> graph_file(const std::string& file) = 0;  // reads --nodes too
  // FormatError with the edge's line in front of `why` ("expected >= 0 ...") where an edge of that file has a negative weight.
  virtual void require_weights_not_negative(const std::string& file, const std::string& why) = 0;
  virtual MaskOptions mask_options() = 0;  // --engine, --tolerance, ...
  // True while only `info` looks: builders may skip work that no report needs.
  virtual bool describe_only() const = 0;
  // True where the mask is added to scores (--bias): an entry of -inf then leaves the pair out; elsewhere entries are finite.
  virtual bool additive() const { return false; }
  // The shift s of a causal order that the caller wants (M_ij = 0 where j - i > s), or nothing. A form whose masks can build
  // this in (at less than the cost of CausalMask) asks here and does so; where no form asks, the caller wraps the mask.
  virtual std::optional<Index> causal_shift() { return std::nullopt; }
};

// One way to write a mask: `--mask kind` or `--mask kind:operand`.
struct MaskForm {
  struct Flag {
    std::string name;   // without dashes
    std::string value;  // placeholder; empty for a switch
    std::string help;
  };
  std::string kind;     // "grid"
  std::string operand;  // placeholder for help: "N1xN2x..."
  std::string help;
  std::vector<Flag> flags;
  // One mask, or one a head.
  std::function<std::vector<MaskPointer<float>>(FormArguments&)> build_float;
  std::function<std::vector<MaskPointer<double>>(FormArguments&)> build_double;
  // The grid's sizes where rows have a grid (pictures, X given as [N1, ..., Nd]); empty otherwise.
  std::function<std::vector<Index>(FormArguments&)> grid_sizes;
};

// All forms of the library, in the order of their source files. A source src/masks/<name>_setup.cpp (or <name>.cpp) takes part
// by defining `MaskForm <name>_form()` in namespace espalier::forms with the line
//   ESPALIER_MASK_FORM(<name>)
// in front of it; the build collects these lines, no list is kept by hand.
ESPALIER_EXPORT std::vector<MaskForm> mask_forms();

}  // namespace espalier

// Declares the form function of a mask; found by cmake/MaskForms.cmake.
#define ESPALIER_MASK_FORM(name)      \
  namespace espalier::forms {         \
  ::espalier::MaskForm name##_form(); \
  }
