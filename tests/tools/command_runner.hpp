// Runs the installed command in a folder of its own, with arrays and texts as files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/io/npy.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace command_tests {

using espalier::Index;
using Shape = std::vector<Index>;

struct Outcome {
  int code;
  std::string out, err;
};

inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// A temporary folder; commands run inside it, so that file names are short in error texts.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "espalier-command-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path(const std::string& name) const { return (path_ / name).string(); }
  void text(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  template <class T>
  void array(const std::string& name, const Shape& shape, const std::vector<T>& values) const {
    espalier::write_npy(path(name), shape, values.data());
  }
  std::vector<double> read(const std::string& name, const Shape& shape) const {
    const auto a = espalier::read_npy(path(name));
    if (a.shape != shape) throw std::runtime_error(name + " has the shape " + espalier::shape_text(a.shape));
    return espalier::convert<double>(a);
  }
  // args: as a shell would take them.
  Outcome run(const std::string& args) const {
    Outcome r = run_into(".stdout", args);
    r.out = text_of(path_ / ".stdout");
    return r;
  }
  // Standard output goes to this file and is not read.
  Outcome run_into(const std::string& file, const std::string& args) const {
    const std::string line = "cd '" + path_.string() + "' && OMP_WAIT_POLICY=passive '" + ESPALIER_COMMAND + "' " + args +
                             " >'" + file + "' 2>.stderr </dev/null";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), "", text_of(path_ / ".stderr")};
  }
  // Names of all files, for "nothing was left behind".
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      const std::string name = entry.path().filename().string();
      if (name != ".stdout" && name != ".stderr") list.push_back(name);
    }
    std::sort(list.begin(), list.end());
    return list;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace command_tests
