// Slow attention in double, written from docs/math.md: the truth for every attention test. Shares no code with the library.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/views.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace espalier::test {

// A contiguous tensor [B, H, L, D] in double.
struct Tensor {
  Index b = 1, h = 1, l = 0, d = 0;
  std::vector<double> values;
  Tensor() = default;
  Tensor(Index b_, Index h_, Index l_, Index d_)
      : b(b_), h(h_), l(l_), d(d_), values(static_cast<std::size_t>(b_ * h_ * l_ * d_)) {}
  double& operator()(Index ib, Index ih, Index il, Index id) {
    return values[static_cast<std::size_t>(((ib * h + ih) * l + il) * d + id)];
  }
  double operator()(Index ib, Index ih, Index il, Index id) const {
    return values[static_cast<std::size_t>(((ib * h + ih) * l + il) * d + id)];
  }
};

// Deterministic numbers in (-1, 1), or (0, 1) when positive; not the library's generator.
inline void fill_pseudo_random(std::vector<double>& v, unsigned seed, bool positive = false) {
  std::uint64_t state = seed * 6364136223846793005ull + 1442695040888963407ull;
  for (double& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const double u = static_cast<double>(state >> 11) * 0x1p-53;
    x = positive ? u + 1e-3 : 2 * u - 1;
  }
}

inline Tensor random_tensor(Index b, Index h, Index l, Index d, unsigned seed, bool positive = false) {
  Tensor t(b, h, l, d);
  fill_pseudo_random(t.values, seed, positive);
  return t;
}

// Entry (i, j) of the mask of batch entry b and head h; 0 for pairs left out.
using MaskFunction = std::function<double(Index b, Index h, Index i, Index j)>;
// Whether a pair takes part at all.
using PairFunction = std::function<bool(Index b, Index i, Index j)>;

struct LinearReference {
  Tensor out, denominator;
};

// out_i = sum_j w_ij v_j / sum_j w_ij, w_ij = M_ij (q_i . k_j) + epsilon over the pairs that take part.
inline LinearReference linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaskFunction& mask,
                                        const PairFunction& pair, double epsilon = 0, bool normalize = true) {
  LinearReference r{Tensor(q.b, q.h, q.l, v.d), Tensor(q.b, q.h, q.l, 1)};
  const Index group = q.h / k.h;
  for (Index b = 0; b < q.b; ++b) {
    for (Index h = 0; h < q.h; ++h) {
      for (Index i = 0; i < q.l; ++i) {
        double total = 0;
        for (Index j = 0; j < k.l; ++j) {
          if (!pair(b, i, j)) continue;
          double dot = 0;
          for (Index c = 0; c < q.d; ++c) dot += q(b, h, i, c) * k(b, h / group, j, c);
          const double w = mask(b, h, i, j) * dot + epsilon;
          total += w;
          for (Index c = 0; c < v.d; ++c) r.out(b, h, i, c) += w * v(b, h / group, j, c);
        }
        r.denominator(b, h, i, 0) = total;
        for (Index c = 0; c < v.d; ++c) {
          if (normalize) r.out(b, h, i, c) = total == 0 ? 0 : r.out(b, h, i, c) / total;
        }
      }
    }
  }
  return r;
}

// Central differences of `loss` in every element of x, step h.
inline std::vector<double> central_differences(std::vector<double>& x, const std::function<double()>& loss, double h = 1e-5) {
  std::vector<double> g(x.size());
  for (std::size_t p = 0; p < x.size(); ++p) {
    const double keep = x[p];
    x[p] = keep + h;
    const double up = loss();
    x[p] = keep - h;
    const double down = loss();
    x[p] = keep;
    g[p] = (up - down) / (2 * h);
  }
  return g;
}

// max |a - b| / max |b|.
template <class T>
double relative_to_max(const std::vector<T>& a, const std::vector<double>& b) {
  double error = 0, scale = 0;
  for (std::size_t p = 0; p < b.size(); ++p) {
    error = std::max(error, std::abs(static_cast<double>(a[p]) - b[p]));
    scale = std::max(scale, std::abs(b[p]));
  }
  return scale == 0 ? error : error / scale;
}

// The same tensor in T in memory of its own, rows padded by `gap` elements that hold `filler`, layout BHLD or BLHD.
template <class T>
struct Stored {
  std::vector<T> memory;
  TensorView<T> view;
  T filler;
  Stored(Index b, Index h, Index l, Index d, Index gap = 0, bool blhd = false, T fill = T(0)) : filler(fill) {
    const Index width = d + gap;
    memory.assign(static_cast<std::size_t>(b * h * l * width), fill);
    view = TensorView<T>(memory.data(), b, h, l, d);
    view.strides[2] = blhd ? h * width : width;
    view.strides[1] = blhd ? width : l * width;
    view.strides[0] = h * l * width;
  }
  Stored(const Tensor& t, Index gap = 0, bool blhd = false, T fill = T(0)) : Stored(t.b, t.h, t.l, t.d, gap, blhd, fill) {
    for (Index b = 0; b < t.b; ++b) {
      for (Index h = 0; h < t.h; ++h) {
        for (Index i = 0; i < t.l; ++i) {
          for (Index c = 0; c < t.d; ++c) view.matrix(b, h)(i, c) = static_cast<T>(t(b, h, i, c));
        }
      }
    }
  }
  std::vector<T> flat() const {
    std::vector<T> r;
    for (Index b = 0; b < view.batch(); ++b) {
      for (Index h = 0; h < view.heads(); ++h) {
        for (Index i = 0; i < view.length(); ++i) {
          for (Index c = 0; c < view.width(); ++c) r.push_back(view.matrix(b, h)(i, c));
        }
      }
    }
    return r;
  }
  // Whether every gap element still holds the filler (not for a NaN filler).
  bool gaps_untouched(Index gap) const {
    for (Index b = 0; b < view.batch(); ++b) {
      for (Index h = 0; h < view.heads(); ++h) {
        for (Index i = 0; i < view.length(); ++i) {
          for (Index c = 0; c < gap; ++c) {
            if (view.matrix(b, h).row(i)[view.width() + c] != filler) return false;
          }
        }
      }
    }
    return true;
  }
};

}  // namespace espalier::test
