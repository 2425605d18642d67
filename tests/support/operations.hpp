// Every computing call of a mask in one shape: operands in, outputs out, so that a law is a loop over operations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/mask.hpp>

#include "support/inputs.hpp"

#include <string>
#include <vector>

namespace espalier::test {

enum class Operation { product, transpose, product_vjp, low_rank, low_rank_transpose, low_rank_vjp };
inline constexpr Operation operations[] = {Operation::product,  Operation::transpose,          Operation::product_vjp,
                                           Operation::low_rank, Operation::low_rank_transpose, Operation::low_rank_vjp};
std::string name_of(Operation operation);
constexpr bool is_transposed(Operation o) {
  return o == Operation::transpose || o == Operation::low_rank_transpose;
}
constexpr bool is_low_rank(Operation o) {
  return o >= Operation::low_rank;
}

// Inputs of an operation with M of size rows x cols (already exchanged where the operation is transposed):
//   a: rows x m   b: cols x m   x: cols x c   y_bar: rows x c   row_sum_bar: 1 x rows (a vector)
// Kind `spike` puts the spike into x alone and `alternating` the signs into x and y_bar; the others stay smooth, so that the
// masked product keeps the character.
template <class T>
struct Operands {
  Guarded<T> a, b, x, y_bar, row_sum_bar;

  Operands(Index rows, Index cols, Shape shape, InputKind kind, std::uint64_t seed, Index gap = 0);
  LowRankInputs<T> inputs() const { return {a.view(), b.view(), x.view()}; }
  void poison();
};

// The outputs of one call, in the order: y, row_sum | x_bar, parameter_bar | a_bar, b_bar, x_bar, parameter_bar.
template <class T>
using Outputs = std::vector<Guarded<T>>;

template <class T>
Operands<T> operands_for(const Mask<T>& mask, Operation o, Shape shape, InputKind kind, std::uint64_t seed, Index gap = 0);
template <class T>
Outputs<T> perform(const Mask<T>& mask, Operation o, const Operands<T>& in, const Context<Cpu>& context = {.threads = 1},
                   Index gap = 0);

}  // namespace espalier::test
