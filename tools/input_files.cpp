// Readers that note what they read.
// SPDX-License-Identifier: Apache-2.0
#include "input_files.hpp"

namespace espalier::tools {

NpyArray InputFiles::array(const std::string& flag, const std::string& path) const {
  outputs_->keep(flag, path);
  return read_npy(path);
}

NpyArray InputFiles::floats(const std::string& flag, const std::string& path) const {
  NpyArray a = array(flag, path);
  if (!a.is_floating()) {
    throw FormatError(path, 0, "elements of type " + name_of(a.type) + " (expected float16, float32 or float64)");
  }
  return a;
}

std::string InputFiles::text(const std::string& flag, const std::string& path) const {
  outputs_->keep(flag, path);
  return read_whole_file(path);
}

TreeFile InputFiles::tree(const std::string& flag, const std::string& path, const std::string& weights_flag,
                          const std::string& weights) const {
  outputs_->keep(flag, path);
  if (!weights.empty()) outputs_->keep(weights_flag, weights);
  return read_tree_file(path, weights);
}

GraphFile InputFiles::graph(const std::string& flag, const std::string& path, Index nodes) const {
  outputs_->keep(flag, path);
  return read_graph_file(path, nodes);
}

}  // namespace espalier::tools
