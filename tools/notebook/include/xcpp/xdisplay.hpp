// xcpp::display under the path and with the meaning that it has in xeus-cpp, for the notebook kernel beside it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "cell.hpp"

namespace nl = nlohmann;

namespace xcpp {

// value's type has nl::json mime_bundle_repr(const T&) in its namespace.
template <class T>
void display(const T& value) {
  espalier_cell::display(mime_bundle_repr(value).dump().c_str());
}

}  // namespace xcpp
