// Host versions of the transfers: copies, and no order to keep, since a call's work is done when it returns.
// SPDX-License-Identifier: Apache-2.0
#include "backend/transfers.hpp"

#include <algorithm>

namespace espalier::backend {

template <class T, class B>
void upload(const T* from, T* to, Index size) {
  std::copy_n(from, size, to);
}
template <class T, class B>
void upload(const T* from, T* to, Index size, const Context<B>&) {
  std::copy_n(from, size, to);
}

template <class B>
Mark<B>::Mark() = default;
template <class B>
Mark<B>::~Mark() = default;
template <class B>
void Mark<B>::record(const Context<B>&) {}
template <class B>
void Mark<B>::wait(const Context<B>&) const {}

template <class B>
PlacedRows<B>::PlacedRows(const SumRows& host, const Context<B>&)
    : rows(host.rows()),
      start(uploaded<std::int32_t, B>(host.start)),
      index(uploaded<std::int32_t, B>(host.index)),
      weight(uploaded<double, B>(host.weight)) {}

template <class In, class Out, class B>
void sum_rows(const PlacedRows<B>& rows, const In* x, Out* out, bool add, const Context<B>&) {
  const bool weighted = rows.weight.size() > 0;
  for (Index r = 0; r < rows.rows; ++r) {
    double sum = 0;
    for (std::int32_t p = rows.start.data()[r]; p < rows.start.data()[r + 1]; ++p) {
      sum += (weighted ? rows.weight.data()[p] : 1.0) * static_cast<double>(x[rows.index.data()[p]]);
    }
    out[r] = (add ? out[r] : Out(0)) + static_cast<Out>(sum);
  }
}

#define ESPALIER_INSTANTIATE(T)                      \
  template void upload<T, Cpu>(const T*, T*, Index); \
  template void upload<T, Cpu>(const T*, T*, Index, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
ESPALIER_INSTANTIATE(std::int32_t)
#undef ESPALIER_INSTANTIATE
template class Mark<Cpu>;
template struct PlacedRows<Cpu>;
template void sum_rows(const PlacedRows<Cpu>&, const float*, double*, bool, const Context<Cpu>&);
template void sum_rows(const PlacedRows<Cpu>&, const double*, double*, bool, const Context<Cpu>&);
template void sum_rows(const PlacedRows<Cpu>&, const double*, float*, bool, const Context<Cpu>&);

}  // namespace espalier::backend
