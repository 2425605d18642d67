// NumPy's .npy arrays: reader (versions 1.0 and 2.0, every order and byte order) and writer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/export.hpp>
#include <espalier/io/files.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace espalier {

// Element types that are read: f2 (kept as float), f4, f8, b1 (kept as bytes 0 and 1), i4 (kept as 64 bits), i8.
enum class NpyType : std::uint8_t { float16, float32, float64, boolean, int32, int64 };

// "float16", "float32", ...
ESPALIER_EXPORT std::string name_of(NpyType type);
// "[3, 4]"; "[]" for a scalar.
ESPALIER_EXPORT std::string shape_text(const std::vector<Index>& shape);

// An array in C order (last index fastest), native byte order, whatever the file had.
struct NpyArray {
  NpyType type = NpyType::float64;  // as on disk
  std::vector<Index> shape;         // empty: a scalar, one element
  std::variant<std::vector<float>, std::vector<double>, std::vector<std::int64_t>, std::vector<std::uint8_t>> values;

  Index size() const;  // number of elements
  bool is_floating() const { return type <= NpyType::float64; }
  bool is_integer() const { return type >= NpyType::int32; }
};

// The elements converted to T (float, double or std::int64_t; to an integer only from integers and booleans).
// Errors: ValueError for floats asked for as integers.
template <class T>
ESPALIER_EXPORT std::vector<T> convert(const NpyArray& array);

// Reads a file; a name ending in ".gz" is unpacked. Cost: O(size), at most the array once more in memory while it is reordered.
// Errors: FormatError for anything but one well-formed array: other types, structured types, sizes whose product overflows,
// a file that is shorter or longer than its header says.
ESPALIER_EXPORT NpyArray read_npy(const std::string& path);
// The same from memory; `name` stands in error texts.
ESPALIER_EXPORT NpyArray parse_npy(std::string_view bytes, const std::string& name);

// Writes an array in C order as version 1.0, little endian. T: float, double, std::int64_t. values: prod(shape) elements.
// Errors: ValueError and BackendError of WholeFile; ValueError for a negative size.
template <class T>
ESPALIER_EXPORT void write_npy(const std::string& path, const std::vector<Index>& shape, const T* values);
// The same into a file that is not yet committed.
template <class T>
ESPALIER_EXPORT void write_npy(WholeFile& file, const std::vector<Index>& shape, const T* values);

}  // namespace espalier
