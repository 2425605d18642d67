// Bytes from a file, a gzip file or memory, read in order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace espalier {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Reads up to count bytes; fewer only at the end.
  virtual std::size_t read(char* out, std::size_t count) = 0;
  // Total size where it is known before reading (a plain regular file, memory); otherwise -1.
  virtual Index known_size() const = 0;
};

// A file by name; packed where the name ends in ".gz". Errors (also of read): FormatError.
class FileSource final : public ByteSource {
 public:
  explicit FileSource(const std::string& path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  std::size_t read(char* out, std::size_t count) override;
  Index known_size() const override { return size_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  void* packed_ = nullptr;  // a gzFile
  Index size_ = -1;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::string_view bytes) : bytes_(bytes) {}
  std::size_t read(char* out, std::size_t count) override {
    const std::size_t n = count < bytes_.size() ? count : bytes_.size();
    bytes_.copy(out, n);
    bytes_.remove_prefix(n);
    return n;
  }
  Index known_size() const override { return static_cast<Index>(bytes_.size()); }

 private:
  std::string_view bytes_;
};

}  // namespace espalier
