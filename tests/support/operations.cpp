// The calls.
// SPDX-License-Identifier: Apache-2.0
#include "support/operations.hpp"

namespace espalier::test {

std::string name_of(Operation operation) {
  switch (operation) {
    case Operation::product:
      return "multiply";
    case Operation::transpose:
      return "multiply_transpose";
    case Operation::product_vjp:
      return "multiply_vjp";
    case Operation::low_rank:
      return "multiply_low_rank";
    case Operation::low_rank_transpose:
      return "multiply_low_rank_transpose";
    case Operation::low_rank_vjp:
      return "multiply_low_rank_vjp";
  }
  return "?";
}

namespace {

InputKind kind_of_features(InputKind kind) {
  return kind == InputKind::positive || kind == InputKind::alternating ? InputKind::positive : InputKind::with_signs;
}
InputKind kind_of_cotangents(InputKind kind) {
  return kind == InputKind::spike || kind == InputKind::log_normal ? InputKind::with_signs : kind;
}

}  // namespace

template <class T>
Operands<T>::Operands(Index rows, Index cols, Shape shape, InputKind kind, std::uint64_t seed, Index gap)
    : a(make_input<T>(rows, shape.rank, kind_of_features(kind), seed, gap)),
      b(make_input<T>(cols, shape.rank, kind_of_features(kind), seed + 1, gap)),
      x(make_input<T>(cols, shape.columns, kind, seed + 2, gap)),
      y_bar(make_input<T>(rows, shape.columns, kind_of_cotangents(kind), seed + 3, gap)),
      row_sum_bar(make_input<T>(1, rows, kind_of_features(kind), seed + 4)) {}

template <class T>
void Operands<T>::poison() {
  for (Guarded<T>* m : {&a, &b, &x, &y_bar, &row_sum_bar}) m->poison();
}

template <class T>
Operands<T> operands_for(const Mask<T>& mask, Operation o, Shape shape, InputKind kind, std::uint64_t seed, Index gap) {
  return is_transposed(o) ? Operands<T>(mask.cols(), mask.rows(), shape, kind, seed, gap)
                          : Operands<T>(mask.rows(), mask.cols(), shape, kind, seed, gap);
}

template <class T>
Outputs<T> perform(const Mask<T>& mask, Operation o, const Operands<T>& in, const Context<Cpu>& context, Index gap) {
  const Index m = in.a.view().cols, c = in.x.view().cols;
  const Index rows = in.a.view().rows, cols = in.b.view().rows, parameters = static_cast<Index>(mask.parameters().size());
  Outputs<T> out;
  switch (o) {
    case Operation::product:
      out.emplace_back(rows, c, gap);
      mask.multiply(in.x.view(), out[0].view(), context);
      break;
    case Operation::transpose:
      out.emplace_back(rows, c, gap);
      mask.multiply_transpose(in.x.view(), out[0].view(), context);
      break;
    case Operation::product_vjp:
      out.emplace_back(cols, c, gap);
      out.emplace_back(1, parameters);
      mask.multiply_vjp(in.x.view(), in.y_bar.view(), out[0].view(), out[1].vector(), context);
      break;
    case Operation::low_rank:
    case Operation::low_rank_transpose:
      out.emplace_back(rows, c, gap);
      out.emplace_back(1, rows);
      if (o == Operation::low_rank) {
        mask.multiply_low_rank(in.inputs(), {out[0].view(), out[1].vector()}, context);
      } else {
        mask.multiply_low_rank_transpose(in.inputs(), {out[0].view(), out[1].vector()}, context);
      }
      break;
    case Operation::low_rank_vjp:
      out.emplace_back(rows, m, gap);
      out.emplace_back(cols, m, gap);
      out.emplace_back(cols, c, gap);
      out.emplace_back(1, parameters);
      mask.multiply_low_rank_vjp(in.inputs(), {in.y_bar.view(), in.row_sum_bar.vector()},
                                 {out[0].view(), out[1].view(), out[2].view(), out[3].vector()}, context);
      break;
  }
  return out;
}

#define ESPALIER_INSTANTIATE(T)                                                                         \
  template struct Operands<T>;                                                                          \
  template Operands<T> operands_for(const Mask<T>&, Operation, Shape, InputKind, std::uint64_t, Index); \
  template Outputs<T> perform(const Mask<T>&, Operation, const Operands<T>&, const Context<Cpu>&, Index);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::test
