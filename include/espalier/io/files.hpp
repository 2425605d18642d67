// Whole files: read at once (unpacked where the name ends in .gz), written beside their place and renamed when complete.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>

#include <cstddef>
#include <string>

namespace espalier {

// The bytes of a file; a name ending in ".gz" is unpacked. Memory: the unpacked size.
// Errors: FormatError when the file is missing, no file, unreadable, or its gzip data is damaged or cut off.
ESPALIER_EXPORT std::string read_whole_file(const std::string& path);

// The name without a trailing ".gz": what decides a file's format.
ESPALIER_EXPORT std::string name_without_gz(const std::string& path);

// A file that appears complete or not at all. Written to a temporary name in the target's folder; `commit` renames it over the
// target; without `commit` nothing is left. A target that is a symbolic link keeps the link and replaces what it points to; one
// that is a device or a pipe is written to directly (at `commit`, when all bytes are known to exist).
// Not copyable; not for use from several threads.
class ESPALIER_EXPORT WholeFile {
 public:
  // Throws ValueError when the target could not be written: a missing or unwritable folder, a folder in its place, a name
  // ending in ".gz" (packed output is not written). Creates nothing. The text starts with the path.
  static void check_writable(const std::string& path);

  // Opens the temporary file. Errors: as check_writable; BackendError when it cannot be created.
  explicit WholeFile(const std::string& path);
  ~WholeFile();
  WholeFile(WholeFile&& other) noexcept;
  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;
  WholeFile& operator=(WholeFile&&) = delete;

  // Errors: BackendError with the system's words (disk full).
  void write(const void* bytes, std::size_t count);
  void write(const std::string& text) { write(text.data(), text.size()); }
  // Closes the temporary file; all bytes are with the system afterwards. Errors: BackendError.
  void finish();
  // Puts the file in its place (finishes it first). Errors: BackendError.
  void commit();
  // Name of the temporary file; empty after commit.
  const std::string& temporary() const noexcept { return temporary_; }

 private:
  std::string path_, target_, temporary_;
  int descriptor_ = -1;
};

}  // namespace espalier
