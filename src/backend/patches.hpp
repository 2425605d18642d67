// Backend primitive: products with a block-Toeplitz matrix on a grid whose far entries have nested bases on patches.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/views.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier::backend {

// A place or a size on a grid of at most three axes; grids of fewer have leading axes of size 1.
using Axes = std::array<Index, 3>;
inline Index count(const Axes& sizes) {
  return sizes[0] * sizes[1] * sizes[2];
}
inline Index flat(const Axes& at, const Axes& sizes) {
  return (at[0] * sizes[1] + at[1]) * sizes[2] + at[2];
}
inline Axes place(Index flat_index, const Axes& sizes) {
  return {flat_index / (sizes[1] * sizes[2]), flat_index / sizes[2] % sizes[1], flat_index % sizes[2]};
}

// Patches of one level. Level 0 are the leaves; a patch of level l is made of `split` patches of level l - 1 along each axis.
template <class T>
struct PatchLevel {
  Axes patches{1, 1, 1}, split{1, 1, 1};
  Index basis = 0;            // R
  std::vector<T> transfer;    // [children, R below, R]: the basis vectors on each child in those of the child; leaves: empty
  std::vector<Axes> offsets;  // of patches (row's minus source's) that may meet on this level
  std::vector<T> coupling;    // [offsets, R, R], row's basis vector first
};

// M_ij = t[i - j] on a grid cut into leaf patches (those at the upper ends may be smaller). Pairs of leaves with offsets of at
// most 1 along every axis are near, and with `cross` those with offset 0 along one of the last two: exact tiles. Others meet on
// the highest level where their ancestors are not near, and there
//   M_ij ≈ sum_qr row_q(i) K_qr source_r(j).
// Row position a of a leaf reads basis vector q at leaf[a, q], source position b at leaf[P - 1 - b, q]: since M depends on i -
// j, sources have the rows' bases mirrored, and so have their transfers.
template <class T>
struct PatchedGrid {
  Axes sizes{1, 1, 1}, patch{1, 1, 1};
  bool cross = false;
  // t[o] and t[-o] for the offsets of near pairs, |o_t| < 2 patch_t, with cross all; row-major.
  std::vector<T> near, near_mirrored;
  std::vector<PatchLevel<T>> levels;       // from the leaves up; none: nothing is far
  std::vector<T> leaf;                     // [P, R of the leaves], P = count(patch)
  std::vector<Index> start;                // [leaves + 1]: where each leaf's points begin in patch order
  std::vector<std::int32_t> index;         // [L]: the row-major index of the points in patch order
  std::vector<std::int32_t> row_key, key;  // [L]: row_key[i] - key[j] = position of i - j in `near`, in patch order

  // Leaves, and where the points of one begin in patch order.
  Index leaves() const { return static_cast<Index>(start.size()) - 1; }
  Index begin(Index p) const { return start[static_cast<std::size_t>(p)]; }
  Index points(Index p) const { return begin(p + 1) - begin(p); }
};

// Fills what follows from sizes, patch, cross and t (double, the whole table prod (2 sizes_t - 1)): near, start, index and
// keys.
template <class T>
void lay_out_patches(const std::vector<double>& table, PatchedGrid<T>& grid);

// Whether patches at this offset may meet; otherwise they are left to the level below, or, as leaves, to the tiles.
inline bool apart(const Axes& o, bool cross) {
  const bool far = o[0] > 1 || o[0] < -1 || o[1] > 1 || o[1] < -1 || o[2] > 1 || o[2] < -1;
  return far && !(cross && (o[1] == 0 || o[2] == 0));
}
// How patches at offset `o` (row's minus source's, apart) of patch `at` meet: calls visit(source) if the source is on the grid
// and their parents are not apart or do not exist.
template <class T, class F>
void visit_source(const PatchLevel<T>& level, const PatchLevel<T>* parent, bool cross, const Axes& at, const Axes& o,
                  const F& visit) {
  Axes source{}, above{};
  for (std::size_t t = 0; t < 3; ++t) {
    source[t] = at[t] - o[t];
    if (source[t] < 0 || source[t] >= level.patches[t]) return;
    if (parent != nullptr) above[t] = at[t] / parent->split[t] - source[t] / parent->split[t];
  }
  if (parent == nullptr || !apart(above, cross)) visit(source);
}

// y = M x, or Mᵀ x.
template <class T, class B>
void patch_multiply(const PatchedGrid<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                    const Context<B>& context);
// Y = (M ∘ A Bᵀ) X and its row sums. Features go in panels whose moments fit in cache and in half of context.scratch_bytes.
// Cost: near 2 (m + c) flops a near pair of points; far 4 R m c a point and 2 R^2 m c a meeting pair of patches.
template <class T, class B>
void patch_low_rank(const PatchedGrid<T>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                    const Context<B>& context);
// Its gradients (core/mask.hpp has the formulas) in one pass: near scores computed once, the far field gone through once each
// way; gradients.parameters is not used.
template <class T, class B>
void patch_low_rank_vjp(const PatchedGrid<T>& m, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                        const LowRankGradients<T, B>& gradients, const Context<B>& context);
// Bound on the memory that the products above take with the default scratch memory; rank 0: the plain product.
template <class T>
std::size_t patch_bytes(const PatchedGrid<T>& m, Index rank, Index columns);

}  // namespace espalier::backend
