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

  // Notes and checks an output before the work. Errors: FlagError where it cannot be written, is another output's file or one
  // that is read.
  void reserve(const std::string& flag, const std::string& path);
  // Notes a file that the run reads. Errors: FlagError where an output would replace it, under whatever name.
  void keep(const std::string& flag, const std::string& path);
  // What is to be written to a reserved path; runs in write_all.
  void fill(const std::string& path, std::function<void(WholeFile&)> writer);
  // T: float, double, std::int64_t. values must live until write_all.
  template <class T>
  void fill_npy(const std::string& path, std::vector<Index> shape, const T* values);

  // Writes every file to its temporary name. Errors: BackendError, Cancelled (nothing changed).
  void write_all();
  // Puts all in place. Errors: BackendError.
  void commit();

 private:
  struct Output {
    std::string flag, path;
    std::function<void(WholeFile&)> writer;
  };
  struct Input {
    std::string flag, path;
  };
  static void check_apart(const std::string& output_flag, const std::string& output, const Input& input);

  Interrupts* interrupts_;
  std::vector<Output> outputs_;
  std::vector<Input> inputs_;
  std::vector<WholeFile> written_;
};

}  // namespace espalier::tools
