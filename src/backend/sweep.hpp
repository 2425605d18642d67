// Backend primitive: the two sweeps over a forest that integrate exp(affine) of the path length, and their gradient.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>
#include <cstdint>

namespace espalier::backend {

// A forest in sweep order (graphs/tree.hpp): parents before children, subtrees contiguous, the heavy child last. A *light*
// child is any that is not its parent's last. level counts the light edges above a node: at most log2(size) <= 31.
// The pointers are the caller's, in memory of the backend.
enum SweepShape : std::uint8_t { sweep_level = 31, sweep_last_child = 32, sweep_leaf = 64 };
template <class B>
struct SweepForest {
  Index size = 0, trees = 0, light = 0;
  const std::int32_t* node = nullptr;   // [size] node at a position
  const std::uint8_t* shape = nullptr;  // [size] level, with the bits above
  const Index* tree_start = nullptr;    // [trees + 1] first position of a tree
  const Index* light_start = nullptr;   // [trees + 1] light children before a tree
  const Index* chunk_start = nullptr;   // [chunks + 1] trees in groups large enough to be a task
  Index chunks = 0;
};

// The factor e_p on the edge from the node at position p to its parent: factor[p] if near_one[p] is 0, else 1 + factor[p]
// (factor = expm1 of the logarithm), so that slow decays do not compound a rounding error. Entries of roots are not read.
template <class B>
struct SweepFactors {
  const double* factor = nullptr;          // [size]
  const std::uint8_t* near_one = nullptr;  // [size]
  double scale = 1;                        // of entries inside a tree, any sign
  double between = 0;                      // M_ij for nodes of different trees
};

// y = M x, M_ij = scale * product of e over the path from i to j; `between` across trees.  x, y: size x c.
//   up:    u(p) = x(p) + sum over children e u                      children before parents
//   down:  z(child) = x(p) + sum over the other children e u + e_p z(p),   y = u + e z;   y(root) = u(root)
// The sums over the other children are a suffix (stored by the up sweep) plus a prefix (run by the down sweep), those over
// other trees likewise: nothing is ever subtracted. Cost: about 12 flops a node and column. States are double; u and the
// suffixes are rounded to T once where they are stored (u in y itself), so errors do not grow along a path.
template <class T, class B>
void tree_sweep(const SweepForest<B>& forest, const SweepFactors<B>& factors, MatrixView<const T, B> x, MatrixView<T, B> y,
                const Context<B>& context);
// Bound on the scratch memory of tree_sweep: suffixes of light children for panels of at most 32 columns.
template <class T, class B>
std::size_t tree_sweep_bytes(const SweepForest<B>& forest, bool between, Index columns, std::size_t scratch_bytes);

// Gradient of s = sum_ic y_bar_ic (M x)_ic, without `between`: with U, Z the sums u and z above for x and U', Z' those for
// y_bar,
//   edge_bar[p] += scale * e_p sum_c (U'_c Z_c + U_c Z'_c)  = ds / d log e_p     [size, double; roots untouched]
// and the return value is s itself. M is symmetric, so the sum covers both directions of every path through the edge.
template <class T, class B>
double tree_sweep_gradient(const SweepForest<B>& forest, const SweepFactors<B>& factors, MatrixView<const T, B> x,
                           MatrixView<const T, B> y_bar, double* edge_bar, const Context<B>& context);
template <class T, class B>
std::size_t tree_sweep_gradient_bytes(const SweepForest<B>& forest, Index columns, std::size_t scratch_bytes);

}  // namespace espalier::backend
