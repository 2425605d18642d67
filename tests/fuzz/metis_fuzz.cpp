// Fuzzes the reader of METIS files: any bytes give a result or a FormatError.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/graph_files.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    (void)espalier::parse_metis(text, "fuzz");
  } catch (const espalier::FormatError&) {
  }
  return 0;
}
