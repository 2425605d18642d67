// The exceptions' texts and their anchors (one home for each vtable, so that catch works across shared objects).
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>

namespace espalier {

Error::Error(const std::string& text) : std::runtime_error(text) {}
Error::~Error() = default;

ShapeError::ShapeError(const std::string& what, const std::string& got, const std::string& expected)
    : Error(what + ": got " + got + ", expected " + expected) {}
ShapeError::ShapeError(const std::string& what, Index got, Index expected)
    : ShapeError(what, std::to_string(got), std::to_string(expected)) {}
ShapeError::~ShapeError() = default;

ValueError::ValueError(const std::string& text) : Error(text) {}
ValueError::~ValueError() = default;

FunctionError::FunctionError(const std::string& function, const std::string& what)
    : ValueError(function + ": " + what), function_(function) {}
FunctionError::~FunctionError() = default;

FormatError::FormatError(const std::string& file, Index line, const std::string& what)
    : Error(line > 0 ? file + ":" + std::to_string(line) + ": " + what : file + ": " + what), file_(file), line_(line) {}
FormatError::~FormatError() = default;

BackendError::BackendError(const std::string& text) : Error(text) {}
BackendError::~BackendError() = default;

Cancelled::Cancelled() : Error("cancelled by the caller") {}
Cancelled::~Cancelled() = default;

}  // namespace espalier
