// Reading whole files and writing files that appear complete or not at all.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/files.hpp>

#include "io/byte_source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace espalier {

namespace {

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The file behind symbolic links, also where the last one points to nothing yet.
std::string behind_links(std::string path) {
  for (int depth = 0; depth < 40; ++depth) {
    char buffer[PATH_MAX];
    const ssize_t n = readlink(path.c_str(), buffer, sizeof(buffer));
    if (n < 0 || n >= static_cast<ssize_t>(sizeof(buffer))) return path;
    const std::string link(buffer, static_cast<std::size_t>(n));
    path = !link.empty() && link[0] == '/' ? link : folder_of(path).append("/").append(link);
  }
  return path;
}

bool is_special(const std::string& path) {
  struct stat s {};
  return stat(path.c_str(), &s) == 0 && !S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode);
}

void write_all(int descriptor, const char* bytes, std::size_t count, const std::string& path) {
  while (count > 0) {
    const ssize_t n = ::write(descriptor, bytes, std::min<std::size_t>(count, std::size_t{1} << 30));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw BackendError(path + ": cannot be written (" + std::strerror(errno) + ")");
    }
    bytes += n;
    count -= static_cast<std::size_t>(n);
  }
}

void copy_into_special(const std::string& from, const std::string& to) {
  const int in = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  const int out = open(to.c_str(), O_WRONLY | O_CLOEXEC);
  std::string failure;
  if (in < 0 || out < 0) failure = std::strerror(errno);
  std::string buffer(std::size_t{1} << 16, '\0');
  while (failure.empty()) {
    const ssize_t n = read(in, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) failure = std::strerror(errno);
    if (n <= 0) break;
    try {
      write_all(out, buffer.data(), static_cast<std::size_t>(n), to);
    } catch (const BackendError&) {
      failure = "write failed";
    }
  }
  if (in >= 0) close(in);
  if (out >= 0) close(out);
  if (!failure.empty()) throw BackendError(to + ": cannot be written (" + failure + ")");
}

}  // namespace

std::string name_without_gz(const std::string& path) {
  return path.size() > 3 && path.ends_with(".gz") ? path.substr(0, path.size() - 3) : path;
}

std::string read_whole_file(const std::string& path) {
  FileSource source(path);
  std::string text;
  if (source.known_size() > 0) text.reserve(static_cast<std::size_t>(source.known_size()) + 1);
  const std::size_t block = std::size_t{1} << 20;
  for (;;) {
    const std::size_t before = text.size();
    text.resize(before + block);
    const std::size_t n = source.read(text.data() + before, block);
    text.resize(before + n);
    if (n < block) return text;
  }
}

void WholeFile::check_writable(const std::string& path) {
  if (path.empty()) throw ValueError("an empty file name (expected the name of a file to write)");
  if (path.ends_with(".gz")) throw ValueError(path + ": packed files are not written (leave out .gz)");
  const std::string target = behind_links(path);
  struct stat s {};
  if (path.back() == '/' || (stat(target.c_str(), &s) == 0 && S_ISDIR(s.st_mode))) {
    throw ValueError(path + ": is a folder (expected the name of a file to write)");
  }
  if (is_special(target)) {
    if (access(target.c_str(), W_OK) != 0) throw ValueError(path + ": cannot be written (" + std::strerror(errno) + ")");
    return;
  }
  // Of the whole path or of its last part; the system's own word, since the limits are those of the file system.
  if (stat(target.c_str(), &s) != 0 && errno == ENAMETOOLONG) {
    throw ValueError(path + ": the name is too long for the file system (" + std::to_string(target.size()) +
                     " bytes; choose a shorter one)");
  }
  const std::string folder = folder_of(target);
  if (stat(folder.c_str(), &s) != 0) throw ValueError(path + ": the folder " + folder + " does not exist (make it first)");
  if (!S_ISDIR(s.st_mode)) throw ValueError(path + ": " + folder + " is not a folder");
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    throw ValueError(path + ": the folder " + folder + " is not writable (" + std::strerror(errno) + ")");
  }
  // Permission bits are not the whole story (read-only and virtual file systems, root): make a file and take it away.
  std::string probe = folder + "/.espalier-probe-XXXXXX";
  const int descriptor = mkstemp(probe.data());
  if (descriptor < 0) throw ValueError(path + ": no file can be made in " + folder + " (" + std::strerror(errno) + ")");
  close(descriptor);
  unlink(probe.c_str());
}

WholeFile::WholeFile(const std::string& path) : path_(path) {
  check_writable(path);
  target_ = behind_links(path);
  // Unique in the process by the counter, between processes by the number of the process; O_EXCL settles the rest.
  static std::atomic<unsigned> counter{0};
  std::string folder = folder_of(target_);
  if (is_special(target_)) {
    const char* other = std::getenv("TMPDIR");
    folder = other != nullptr && *other != '\0' ? other : "/tmp";
  }
  for (int attempt = 0; attempt < 100; ++attempt) {
    temporary_ = folder + "/.espalier-" + std::to_string(getpid()) + "-" + std::to_string(counter++) + ".part";
    descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0 || errno != EEXIST) break;
  }
  if (descriptor_ < 0) {
    const std::string why = std::strerror(errno);
    temporary_.clear();
    throw BackendError(path + ": no file can be made in " + folder + " (" + why + ")");
  }
  struct stat s {};
  if (stat(target_.c_str(), &s) == 0 && S_ISREG(s.st_mode)) (void)fchmod(descriptor_, s.st_mode & 0777);
}

WholeFile::WholeFile(WholeFile&& other) noexcept
    : path_(std::move(other.path_)),
      target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

WholeFile::~WholeFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void WholeFile::write(const void* bytes, std::size_t count) {
  write_all(descriptor_, static_cast<const char*>(bytes), count, path_);
}

void WholeFile::finish() {
  if (descriptor_ < 0) return;
  const int result = close(std::exchange(descriptor_, -1));
  if (result != 0) throw BackendError(path_ + ": cannot be written (" + std::strerror(errno) + ")");
}

void WholeFile::commit() {
  finish();
  if (temporary_.empty()) return;
  if (is_special(target_)) {
    copy_into_special(temporary_, target_);
    unlink(temporary_.c_str());
  } else if (rename(temporary_.c_str(), target_.c_str()) != 0) {
    throw BackendError(path_ + ": cannot be put in place (" + std::strerror(errno) + ")");
  }
  temporary_.clear();
}

}  // namespace espalier
