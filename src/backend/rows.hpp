// Backend primitives by rows: what linear attention does around its products. The division by row sums, its cotangents, and the
// sums over visible keys that a weight added to every pair multiplies.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cmath>

namespace espalier::backend {

// Whether a row with this denominator becomes 0 rather than being divided.
template <class T>
bool is_floored(T denominator, double floor) {
  return std::abs(static_cast<double>(denominator)) <= floor;
}

// y_i /= d_i; rows with |d_i| <= floor become 0. Returns how many rows those are, or -1 on a device, where the call returns
// before they are known.  y: rows x c, d: rows x 1.
template <class T, class B>
Index divide_rows(MatrixView<T, B> y, MatrixView<const T, B> d, double floor, const Context<B>& context);

// Cotangents of y and d for out_i = y_i / d_i: y_bar_i = out_bar_i / d_i, d_bar_i = -y_bar_i . out_i. Not normalised (out = y):
// y_bar = out_bar, d_bar = 0. Rows from `used` on and, where normalised, those with |d_i| <= floor: both 0.
template <class T, class B>
struct DividedRows {
  MatrixView<const T, B> out, out_bar, d;
  Index used = 0;
  bool normalize = true;
  double floor = 0;
};
template <class T, class B>
void divide_rows_vjp(const DividedRows<T, B>& in, MatrixView<T, B> y_bar, VectorView<T, B> d_bar, const Context<B>& context);

// Which keys query i sees: 0 .. count - 1, count = keys, with causal order min(keys, max(0, i + shift + 1)).
struct Visible {
  bool causal = false;
  Index shift = 0, keys = 0;
};
// y_i += epsilon sum v_j and d_i += epsilon count over the keys j that query i sees; sums in double.  v: at least `keys` rows.
template <class T, class B>
void add_visible_sums(double epsilon, const Visible& visible, MatrixView<const T, B> v, MatrixView<T, B> y, MatrixView<T, B> d,
                      const Context<B>& context);
// v_bar_j += epsilon sum over the queries i that see key j of y_bar_i, j < keys.
template <class T, class B>
void add_visible_sums_vjp(double epsilon, const Visible& visible, MatrixView<const T, B> y_bar, MatrixView<T, B> v_bar,
                          const Context<B>& context);

}  // namespace espalier::backend
