// Backend primitives by tile: products and gradients over a mask's entries, fused; nothing of size rows x cols is formed.
// SPDX-License-Identifier: Apache-2.0
//
// On Cpu entries of every kind; on Cuda ones, dense and offset_table, with border, scale and causal order (others: ValueError).
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/entries.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/views.hpp>

#include <atomic>
#include <cstddef>

namespace espalier::backend {

// y = M x or Mᵀ x.
template <class T, class B>
void tile_multiply(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                   const Context<B>& context);
// sink += gradient of sum_ij M_ij (y_bar_i . x_j) with respect to the entries.
template <class T, class B>
void tile_multiply_entries_gradient(const Entries<T, B>& m, MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                    const EntriesGradient<T, B>& sink, Index sink_size, const Context<B>& context);
// Y = (M ∘ A Bᵀ) X and its row sums (transpose: with Mᵀ).
template <class T, class B>
void tile_low_rank(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                   const Context<B>& context);
// One of many products, a head each. Only where `tiles_by_head`.
template <class B>
inline constexpr bool tiles_by_head = false;
template <>
inline constexpr bool tiles_by_head<Cpu> = true;
template <class T, class B>
struct HeadTiles {
  bool transpose = false;
  // a and b stand for max(a, 0) + epsilon and max(b, 0) + epsilon (NaN passes through): the features that map_elements would
  // give, made while rows are packed, without copies.
  bool relu = false;
  T epsilon = T(0);
  // Each row of y is divided by its row sum in the same pass, or set to 0, as divide_rows would with this floor; how many rows
  // are set to 0 is added to *floored.
  bool divide = false;
  double floor = 0;
  std::atomic<Index>* floored = nullptr;
  // What this thread will read and write in its next product, as far as it can be told: asked for during this one.
  LowRankInputs<T, B> next{};
  MatrixView<T, B> next_y{};
};
template <class T, class B>
void tile_low_rank(const Entries<T, B>& m, const HeadTiles<T, B>& head, const LowRankInputs<T, B>& in,
                   const LowRankOutputs<T, B>& out, const Context<B>& context);
// Writes M of a small mask out to `memory`, written_entries_size elements, and describes it as Mᵀ: tile products over that,
// transposed, are products with M to the bit, and read tiles where they would make them, 2 to 7 % of a product of 197 tokens.
// Only where `tiles_by_head`, for masks whose written_entries_size is above 0.
template <class T, class B>
Entries<T, B> write_entries(const Entries<T, B>& m, T* memory, const Context<B>& context);
// 0 where nothing is gained: ones, causal masks and sparse ones (their order and empty tiles would be lost), lines.
template <class T, class B>
Index written_entries_size(const Entries<T, B>& m);

// All gradients in one pass over the tiles: scores and W computed once. gradients.parameters is not used: the entries'
// gradient goes to `sink`, whose pointers lie in one block of `sink_size` elements starting at the lowest of them.
template <class T, class B>
void tile_low_rank_vjp(const Entries<T, B>& m, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                       const LowRankGradients<T, B>& gradients, const EntriesGradient<T, B>& sink, Index sink_size,
                       const Context<B>& context);
// Bounds on the memory that the calls above take.
template <class B>
std::size_t tile_low_rank_bytes(Index rows, Index cols, Index rank, Index columns, std::size_t element);

// Speeds of the machine behind a backend, for masks that were not told others.
template <class B>
CostModel cost_model();

}  // namespace espalier::backend
