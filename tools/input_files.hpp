// The files that one run reads: every one is opened here, so that no output can replace one of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "output_files.hpp"

#include <espalier/io/graph_files.hpp>
#include <espalier/io/npy.hpp>
#include <espalier/io/tree_files.hpp>

#include <string>

namespace espalier::tools {

// `flag`, without dashes, is the one that names the file. Errors of every function: FlagError where an output would replace the
// file, and those of the library's readers. A house test keeps the other sources of tools from calling the readers themselves.
class InputFiles {
 public:
  explicit InputFiles(OutputFiles& outputs) : outputs_(&outputs) {}

  NpyArray array(const std::string& flag, const std::string& path) const;
  // Of floats only; FormatError for others.
  NpyArray floats(const std::string& flag, const std::string& path) const;
  std::string text(const std::string& flag, const std::string& path) const;
  // weights: the name of the file of --weights, empty where there is none.
  TreeFile tree(const std::string& flag, const std::string& path, const std::string& weights_flag,
                const std::string& weights) const;
  // nodes < 0: those of the file.
  GraphFile graph(const std::string& flag, const std::string& path, Index nodes) const;

 private:
  OutputFiles* outputs_;
};

}  // namespace espalier::tools
