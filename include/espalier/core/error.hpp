// The exceptions of the library: one class per kind of mistake.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>

#include <stdexcept>
#include <string>

namespace espalier {

// Base of everything the library throws on purpose.
class ESPALIER_EXPORT Error : public std::runtime_error {
 public:
  explicit Error(const std::string& text);
  ~Error() override;
};

// A size, rank or stride does not fit. The text names the argument, what came and what was expected.
class ESPALIER_EXPORT ShapeError : public Error {
 public:
  ShapeError(const std::string& what, const std::string& got, const std::string& expected);
  ShapeError(const std::string& what, Index got, Index expected);
  ~ShapeError() override;
};

// A value is illegal: NaN in a parameter, a negative size, outputs that overlap inputs, an unknown engine.
class ESPALIER_EXPORT ValueError : public Error {
 public:
  explicit ValueError(const std::string& text);
  ~ValueError() override;
};

// A function of a distance has no finite value at a distance that a mask has. The text begins with the function's name.
class ESPALIER_EXPORT FunctionError : public ValueError {
 public:
  FunctionError(const std::string& function, const std::string& what);
  ~FunctionError() override;
  const std::string& function() const noexcept { return function_; }

 private:
  std::string function_;
};

// A file is malformed. line is 1-based; 0 where the format has no lines (binary files).
class ESPALIER_EXPORT FormatError : public Error {
 public:
  FormatError(const std::string& file, Index line, const std::string& what);
  ~FormatError() override;
  const std::string& file() const noexcept { return file_; }
  Index line() const noexcept { return line_; }

 private:
  std::string file_;
  Index line_;
};

// A library below us or the machine failed (memory, FFTW, CUDA, disk). The text carries the other library's own words.
class ESPALIER_EXPORT BackendError : public Error {
 public:
  explicit BackendError(const std::string& text);
  ~BackendError() override;
};

// The caller's stop token asked for an end. Outputs are unspecified, objects are as before the call.
class ESPALIER_EXPORT Cancelled : public Error {
 public:
  Cancelled();
  ~Cancelled() override;
};

}  // namespace espalier
