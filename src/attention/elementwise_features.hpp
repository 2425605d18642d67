// The elementwise feature maps as the backends name them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>

#include "backend/elementwise.hpp"

namespace espalier {

// kind: not positive_softmax.
inline backend::Elementwise elementwise(FeatureKind kind) {
  switch (kind) {
    case FeatureKind::relu:
      return backend::Elementwise::relu;
    case FeatureKind::elu:
      return backend::Elementwise::elu;
    case FeatureKind::squared:
      return backend::Elementwise::squared;
    case FeatureKind::exp:
      return backend::Elementwise::exp;
    default:
      return backend::Elementwise::identity;
  }
}

}  // namespace espalier
