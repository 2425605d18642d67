// Backend primitive: products with a Toeplitz matrix whose far entries are short sums of exponentials, in chunk-basis form.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/views.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace espalier::backend {

// Chunks that are `first` to `last` apart, over which every entry of M is `weight`: they enter by the sum of their moments,
// made by additions alone, so that a row is as accurate as its own entries.
template <class T>
struct ChunkWindow {
  Index first = 1, last = 1;  // last: at most kOpenWindow, which stands for as far as there are chunks
  T weight = 0;
  Index parameter = 0;  // for gradients: the p with dM/dp = 1 here
};
inline constexpr Index kOpenWindow = std::numeric_limits<Index>::max();

// Rows and sources are cut into chunks of C = `chunk`. Chunks closer than `gap` are served by exact tiles. Beyond, with row
// IC + a, source JC + b and n = |I - J| - gap >= 0,
//   M ≈ sum_p row_p(a) [ out D^n in ]_pq source_q(b),    D = diag of exp(-log_decay_s), pairs (s, s + 1) turned by `angle_s`:
//   D applied to a pair (x, y) is exp(-log_decay) (x cos t - y sin t, x sin t + y cos t), t = angle.
// R = `basis` products of the register tile go through a chunk, r = `states` m x c matrices move from chunk to chunk.
template <class T>
struct ChunkSide {
  Index basis = 0, states = 0;           // R and r; R = 0: every far entry of this side is 0
  std::vector<T> row, source;            // [R, C]
  std::vector<double> in, out;           // [r, R], [R, r]
  std::vector<double> log_decay, angle;  // [r]; log_decay >= 0; angle 0 for real states and for the second of a pair
  // Powers of the distance: after D, state s also gets weight * exp(-log_decay_s) times what these later states held before.
  // Empty, or [r + 1] starts into the other two; pairs couple with pairs of the same angle, member with member.
  std::vector<Index> couple_start, couple_state;
  std::vector<double> couple_weight;
  // For gradients: rows read the first `reads` basis vectors ([reads, C] in `row` then); the others belong to the derivatives
  // of M by its parameters, whose far entries have derivative_out ([P] of [R, r]) in the place of `out` and derivative_row in
  // that of `row`. The products use none of this: there reads = R.
  Index reads = 0;
  std::vector<std::vector<double>> derivative_out;
  std::vector<T> derivative_row;  // [R, C]; empty: see rows_below
  // Instead, where R = r and basis vectors are the terms c exp(-s |i - j|) themselves, real or (Re, Im) of a pair, term_turns 1
  // at a pair's first: a parameter changes a term's entries Z by (value + slope |i - j|) Z, [P, R], complex as the pairs are.
  std::vector<double> term_value, term_slope;
  std::vector<unsigned char> term_turns;  // [R]
  // In the place of states, which then are none: far entries are constant over these, disjoint and rising; entries of other
  // chunks are 0 or exact tiles. R = 1, row and source are ones.
  std::vector<ChunkWindow<T>> windows;
};

// L x L. Rows below 2^31.
template <class T>
struct ChunkedToeplitz {
  Index length = 0, chunk = 0, gap = 1;  // chunk: a multiple of 32
  // [2 gap C - 1]: the entry of offset i - j at near[i - j + gap C - 1]; behind them 2 C - 1 for each of the tiles in `exact`,
  // whose offset is n C in the middle.
  std::vector<T> near;
  std::vector<Index> exact;                 // n = I - J of further exact tiles, |n| >= gap, in no window and not smooth
  bool has_lower = true, has_upper = true;  // false: every entry with i > j (j > i) is 0, near ones too
  ChunkSide<T> lower, upper;                // sources before their rows (j < i), after them (j > i)
  // With derivatives on both sides: the transpose's `lower`, whose sources are rows. It and `lower` have all derivatives then,
  // `upper` none: derivative_row of one is `source` of the other, since either's moments go into states of their own anyway.
  ChunkSide<T> rows_below;
};

// How a state of this log-decay moves: S := keep S + decay S. Slow ones by S + expm1(-s) S, since rounding exp(-s) would
// compound over the sequence; fast ones by exp(-s) S, since 1 + expm1(-s) would lose its digits.
inline std::pair<double, double> chunk_move(double log_decay) {
  return log_decay < 0.7 ? std::pair{1.0, std::expm1(-log_decay)} : std::pair{0.0, std::exp(-log_decay)};
}
// States that live over more chunks than this are carried with what rounding leaves out of them (twice the numbers).
inline constexpr double kSlowLogDecay = 0.05;

template <class T>
ChunkedToeplitz<T> transposed(const ChunkedToeplitz<T>& m);

// Where near[o] is found in the transpose's `near`.
template <class T>
Index transposed_near(const ChunkedToeplitz<T>& m, Index o);

// y = M x.
template <class T, class B>
void chunked_multiply(const ChunkedToeplitz<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context);
// Y = (M ∘ A Bᵀ) X and its row sums. Cost, flops a token: near 2 (2 gap - 1) C (m + c), far 8 R m c + 8 R r m c / C (two
// sides). States are carried in T, slow ones compensated (chunk_move, kSlowLogDecay); the rotation of pairs is kept apart in
// double: neither rounded decays nor rounded angles nor long sums compound over the sequence.
template <class T, class B>
void chunked_low_rank(const ChunkedToeplitz<T>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                      const Context<B>& context);
// Where the gradient by the mask's parameters goes, added: near by offset (as ChunkedToeplitz::near), far by parameter.
struct ChunkedParameterGradient {
  std::vector<double> near, far;
};
// All gradients of the masked product in one sweep a side (core/mask.hpp has the formulas): states of sources and states of
// rows go over the chunks together. gradients.parameters is not used. learning: null, or the same mask on the same chunks with
// derivatives; then the gradient of the near entries and that of the far ones by the sides' derivatives are added to
// `parameters`. Cost, in products of 2 C m c flops a chunk, two sides, C = m = c: far 10 R where the product has 4 R, with
// derivatives 2 (N - R) more for N moments (none where they act on terms); near 5 for the own chunk and 6 for every other tile
// where the product has 2. Measured: 2.1 to 2.5 times the product's time, with derivatives 2.3 to 2.9.
template <class T, class B>
void chunked_low_rank_vjp(const ChunkedToeplitz<T>& product, const ChunkedToeplitz<T>* learning, const LowRankInputs<T, B>& in,
                          const LowRankCotangents<T, B>& cotangents, const LowRankGradients<T, B>& gradients,
                          ChunkedParameterGradient* parameters, const Context<B>& context);
// Bound on the memory that the calls above take, with the default Context::scratch_bytes; columns: c; rank 0: the plain
// product. Windows keep moments back to the furthest one's end, in panels of features that fit in the context's scratch memory.
template <class T>
std::size_t chunked_bytes(const ChunkedToeplitz<T>& m, Index rank, Index columns);

}  // namespace espalier::backend
