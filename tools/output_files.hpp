// The outputs of one run: checked before the work, written beside their places, put in place together.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flags.hpp"
#include "interrupts.hpp"

#include <espalier/core/backend.hpp>
#include <espalier/io/files.hpp>

#include <functional>
#include <string>
#include <vector>

namespace espalier::tools {

class OutputFiles {
 public:
  explicit OutputFiles(Interrupts& interrupts) : interrupts_(&interrupts) {}

  // Notes and checks an output before the work. Errors: FlagError.
  void reserve(const std::string& flag, const std::string& path);
  // What is to be written to a reserved path; runs in write_all.
  void fill(const std::string& path, std::function<void(WholeFile&)> writer);
  // T: float, double, std::int64_t. values must live until write_all.
  template <class T>
  void fill_npy(const std::string& path, std::vector<Index> shape, const T* values);

  // Writes every file to its temporary name, then renames all. Errors: BackendError, Cancelled (nothing changed).
  void write_all();

 private:
  struct Output {
    std::string flag, path;
    std::function<void(WholeFile&)> writer;
  };
  Interrupts* interrupts_;
  std::vector<Output> outputs_;
};

}  // namespace espalier::tools
