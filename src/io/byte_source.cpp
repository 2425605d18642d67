// Bytes from plain files by read(2), from gzip files by zlib.
// SPDX-License-Identifier: Apache-2.0
#include "io/byte_source.hpp"

#include <espalier/core/error.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <zlib.h>

namespace espalier {

FileSource::FileSource(const std::string& path) : path_(path) {
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw FormatError(path, 0, std::string("cannot be opened (") + std::strerror(errno) + ")");
  struct stat s {};
  if (fstat(descriptor_, &s) == 0 && S_ISDIR(s.st_mode)) {
    close(descriptor_);
    throw FormatError(path, 0, "is a folder (expected a file)");
  }
  if (!path.ends_with(".gz")) {
    if (S_ISREG(s.st_mode)) size_ = static_cast<Index>(s.st_size);
    return;
  }
  unsigned char magic[2] = {0, 0};
  const ssize_t n = pread(descriptor_, magic, 2, 0);
  if (n >= 0 && (n < 2 || magic[0] != 0x1f || magic[1] != 0x8b)) {
    close(descriptor_);
    throw FormatError(path, 0, "is not gzip data (expected by its name)");
  }
  packed_ = gzdopen(descriptor_, "rb");
  if (packed_ == nullptr) {
    close(descriptor_);
    throw BackendError(path + ": zlib has no memory for it");
  }
  gzbuffer(static_cast<gzFile>(packed_), 1u << 18);
}

FileSource::~FileSource() {
  if (packed_ != nullptr) {
    gzclose(static_cast<gzFile>(packed_));
    return;
  }
  close(descriptor_);
}

std::size_t FileSource::read(char* out, std::size_t count) {
  std::size_t done = 0;
  while (done < count) {
    const std::size_t want = std::min<std::size_t>(count - done, std::size_t{1} << 30);
    Index got = 0;
    if (packed_ != nullptr) {
      auto* file = static_cast<gzFile>(packed_);
      got = gzread(file, out + done, static_cast<unsigned>(want));
      int code = Z_OK;
      const char* words = gzerror(file, &code);
      if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) {
        throw FormatError(path_, 0, std::string("damaged or cut off gzip data (") + (words != nullptr ? words : "zlib") + ")");
      }
    } else {
      got = ::read(descriptor_, out + done, want);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw FormatError(path_, 0, std::string("cannot be read (") + std::strerror(errno) + ")");
    }
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

}  // namespace espalier
