// Outputs that appear together or not at all.
// SPDX-License-Identifier: Apache-2.0
#include "output_files.hpp"

#include <espalier/io/npy.hpp>

#include <cstdint>
#include <filesystem>
#include <utility>

namespace espalier::tools {

void OutputFiles::reserve(const std::string& flag, const std::string& path) {
  try {
    WholeFile::check_writable(path);
  } catch (const ValueError& error) {
    throw FlagError(flag, error.what());
  }
  std::error_code ignored;
  // Absolute first: of a relative name without an existing part, weakly_canonical gives back the text as it is.
  const auto canonical = [&](const std::string& p) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(p, ignored), ignored);
  };
  const auto place = canonical(path);
  for (const Output& other : outputs_) {
    const bool device = std::filesystem::exists(place, ignored) && !std::filesystem::is_regular_file(place, ignored);
    if (!device && canonical(other.path) == place) {
      throw FlagError(flag, path + " is the output of --" + other.flag + " too");
    }
  }
  for (const Input& input : inputs_) check_apart(flag, path, input);
  outputs_.push_back({flag, path, {}});
}

void OutputFiles::keep(const std::string& flag, const std::string& path) {
  const Input input{flag, path};
  for (const Output& output : outputs_) check_apart(output.flag, output.path, input);
  inputs_.push_back(input);
}

// One file may have many names (./, symbolic and hard links): the system says whether two are the same. Devices and pipes are
// written to and read from at once without loss.
void OutputFiles::check_apart(const std::string& output_flag, const std::string& output, const Input& input) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(input.path, ignored)) return;
  if (!std::filesystem::equivalent(output, input.path, ignored)) return;
  throw FlagError(output_flag, (output == input.path ? "" : output + " ") + "would overwrite " + input.path + ", which --" +
                                   input.flag + " reads; choose another name");
}

void OutputFiles::fill(const std::string& path, std::function<void(WholeFile&)> writer) {
  for (Output& output : outputs_) {
    if (output.path == path && !output.writer) {
      output.writer = std::move(writer);
      return;
    }
  }
  throw ValueError(path + ": not reserved as an output");
}

template <class T>
void OutputFiles::fill_npy(const std::string& path, std::vector<Index> shape, const T* values) {
  fill(path, [shape = std::move(shape), values](WholeFile& file) { write_npy(file, shape, values); });
}
template void OutputFiles::fill_npy(const std::string&, std::vector<Index>, const float*);
template void OutputFiles::fill_npy(const std::string&, std::vector<Index>, const double*);
template void OutputFiles::fill_npy(const std::string&, std::vector<Index>, const std::int64_t*);

void OutputFiles::write_all() {
  for (const Output& output : outputs_) {
    if (!output.writer) continue;
    if (interrupts_->requested()) throw Cancelled();
    written_.emplace_back(output.path);
    interrupts_->add_temporary(written_.back().temporary());
    output.writer(written_.back());
    written_.back().finish();
  }
  if (interrupts_->requested()) throw Cancelled();
}

void OutputFiles::commit() {
  const auto hold = interrupts_->hold();
  for (WholeFile& file : written_) file.commit();
  written_.clear();
}

}  // namespace espalier::tools
