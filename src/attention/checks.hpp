// Argument checks shared by the attention functions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>
#include <espalier/core/error.hpp>

#include "core/checks.hpp"

#include <string>

namespace espalier {

inline std::string shape_text(Index b, Index h, Index l, Index d) {
  return std::string("[") + std::to_string(b) + ", " + std::to_string(h) + ", " + std::to_string(l) + ", " + std::to_string(d) +
         "]";
}

template <class T, class B>
void check_tensor(const std::string& name, TensorView<T, B> t, Index b, Index h, Index l, Index d) {
  if (t.sizes[0] != b || t.sizes[1] != h || t.sizes[2] != l || t.sizes[3] != d) {
    throw ShapeError(name, shape_text(t.sizes[0], t.sizes[1], t.sizes[2], t.sizes[3]), shape_text(b, h, l, d));
  }
  if (b < 0 || h < 0 || l < 0 || d < 0) throw ShapeError(name, shape_text(b, h, l, d), "sizes >= 0");
  const bool some = b > 0 && h > 0 && l > 0 && d > 0;
  if (some && t.data == nullptr) throw ValueError(name + ": null data for a non-empty tensor");
  if (d > 1 && t.strides[3] != 1) throw ShapeError(name + ".strides[3]", t.strides[3], 1);
  if (some && l > 1 && t.strides[2] < d) {
    throw ShapeError(name + ".strides[2]", std::to_string(t.strides[2]), "at least " + std::to_string(d));
  }
  if (some && ((b > 1 && t.strides[0] < 0) || (h > 1 && t.strides[1] < 0)))
    throw ShapeError(name, "a negative stride", "strides >= 0");
}

template <class T, class B>
std::size_t tensor_bytes(TensorView<T, B> t) {
  for (const Index n : t.sizes) {
    if (n <= 0) return 0;
  }
  Index last = 0;
  for (int i = 0; i < 4; ++i) last += (t.sizes[i] - 1) * t.strides[i];
  return static_cast<std::size_t>(last + 1) * sizeof(T);
}

// Whether two tensors share an element: by their address ranges, and where these meet by each pair of matrices (q, k, v and
// out may be slices of one array).
template <class T, class U, class B>
bool tensors_overlap(TensorView<T, B> p, TensorView<U, B> q) {
  if (p.data == nullptr || q.data == nullptr) return false;
  if (!ranges_overlap(p.data, tensor_bytes(p), q.data, tensor_bytes(q))) return false;
  for (Index b = 0; b < p.batch(); ++b) {
    for (Index h = 0; h < p.heads(); ++h) {
      for (Index b2 = 0; b2 < q.batch(); ++b2) {
        for (Index h2 = 0; h2 < q.heads(); ++h2) {
          if (overlaps(p.matrix(b, h), q.matrix(b2, h2))) return true;
        }
      }
    }
  }
  return false;
}

template <class T, class U, class B>
void check_tensor_overlap(const std::string& output, TensorView<T, B> y, const std::string& input, TensorView<U, B> x) {
  if (tensors_overlap(y, x)) throw ValueError(output + " overlaps " + input + ": outputs need memory of their own");
}

// The sizes of one attention call.
struct AttentionSizes {
  Index batch, heads, key_heads, queries, keys, width, values;
  Index group() const { return key_heads > 0 ? heads / key_heads : 1; }
};

// Checks q, k, v against each other and gives the sizes.
template <class T, class B>
AttentionSizes check_qkv(TensorView<const T, B> q, TensorView<const T, B> k, TensorView<const T, B> v) {
  const AttentionSizes s{q.batch(), q.heads(), k.heads(), q.length(), k.length(), q.width(), v.width()};
  check_tensor("q", q, s.batch, s.heads, s.queries, s.width);
  check_tensor("k", k, s.batch, s.key_heads, s.keys, s.width);
  check_tensor("v", v, s.batch, s.key_heads, s.keys, s.values);
  if (s.heads > 0 && (s.key_heads < 1 || s.heads % s.key_heads != 0)) {
    throw ShapeError("heads of k and v", std::to_string(s.key_heads), "a divisor of q's " + std::to_string(s.heads));
  }
  return s;
}

template <class T, class B>
void check_head_masks(const std::string& name, const HeadMasks<T, B>& masks, const AttentionSizes& s) {
  const Index n = masks.count();
  if (n != 0 && n != 1 && n != s.heads && n != s.batch * s.heads) {
    throw ShapeError(name, std::to_string(n) + " masks",
                     "none, 1, " + std::to_string(s.heads) + " (one a head) or " + std::to_string(s.batch * s.heads));
  }
  for (Index i = 0; i < n; ++i) {
    if (masks[i].rows() != s.queries || masks[i].cols() != s.keys) {
      throw ShapeError(name + " " + std::to_string(i),
                       std::to_string(masks[i].rows()) + " x " + std::to_string(masks[i].cols()),
                       std::to_string(s.queries) + " x " + std::to_string(s.keys) + " (queries x keys)");
    }
  }
}

// The shift of a causal call: pairs with j - i > shift take no part.
inline Index causal_shift(Causal causal, const AttentionSizes& s) {
  return causal == Causal::bottom_right ? s.keys - s.queries : 0;
}

inline void check_key_counts(KeyCounts counts, const AttentionSizes& s) {
  if (!counts) return;
  if (counts.size != s.batch) throw ShapeError("key_counts", counts.size, s.batch);
  for (Index b = 0; b < s.batch; ++b) {
    if (counts[b] < 0 || counts[b] > s.keys) {
      throw ValueError("key_counts[" + std::to_string(b) + "]: " + std::to_string(counts[b]) + " is outside 0 .. " +
                       std::to_string(s.keys));
    }
  }
}

inline Index keys_of(KeyCounts counts, Index b, const AttentionSizes& s) {
  return counts ? static_cast<Index>(counts[b]) : s.keys;
}
// Query rows that count: with as many queries as keys, rows beyond the key count are padding too.
inline Index queries_of(KeyCounts counts, Index b, const AttentionSizes& s) {
  return counts && s.queries == s.keys ? static_cast<Index>(counts[b]) : s.queries;
}

// Checks the gradients wanted against the inputs' shapes and every other argument's memory.
template <class T, class B, std::size_t N>
void check_gradients(const AttentionGradients<T, B>& g, const AttentionSizes& s, const HeadMasks<T, B>& masks,
                     const HeadMasks<T, B>& bias, const std::pair<const char*, TensorView<const T, B>> (&inputs)[N]) {
  if (g.q) check_tensor("q_bar", g.q, s.batch, s.heads, s.queries, s.width);
  if (g.k) check_tensor("k_bar", g.k, s.batch, s.key_heads, s.keys, s.width);
  if (g.v) check_tensor("v_bar", g.v, s.batch, s.key_heads, s.keys, s.values);
  const std::pair<const char*, TensorView<T, B>> outputs[] = {{"q_bar", g.q}, {"k_bar", g.k}, {"v_bar", g.v}};
  for (const auto& [name, y] : outputs) {
    for (const auto& [input, x] : inputs) check_tensor_overlap(name, y, input, x);
  }
  check_tensor_overlap("q_bar", g.q, "k_bar", g.k);
  check_tensor_overlap("q_bar", g.q, "v_bar", g.v);
  check_tensor_overlap("k_bar", g.k, "v_bar", g.v);
  const auto check_parameters = [&](const char* name, MatrixView<T, B> p, const HeadMasks<T, B>& of) {
    if (!p) return;
    if (of.empty()) throw ValueError(std::string(name) + ": there is no mask whose parameters could have a gradient");
    const auto width = static_cast<Index>(of[0].parameters().size());
    for (Index i = 1; i < of.count(); ++i) {
      if (static_cast<Index>(of[i].parameters().size()) != width) {
        throw ValueError(std::string(name) + ": masks with different numbers of parameters have no common gradient matrix");
      }
    }
    check_matrix<T, B>(name, p, of.count(), width);
    for (const auto& [input, x] : inputs) {
      if (ranges_overlap(p.data, span_bytes<T>(p.rows, p.cols, p.row_stride), x.data, tensor_bytes(x))) {
        throw ValueError(std::string(name) + " overlaps " + input + ": outputs need memory of their own");
      }
    }
  };
  check_parameters("parameters", g.parameters, masks);
  check_parameters("bias_parameters", g.bias_parameters, bias);
}

}  // namespace espalier
