// Masks made of masks: bordered (extra tokens), sum, scaled, block diagonal, causal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/masks/block_diagonal.hpp>
#include <espalier/masks/bordered.hpp>
#include <espalier/masks/causal.hpp>
#include <espalier/masks/scaled.hpp>
#include <espalier/masks/sum.hpp>
