// Masked linear attention on a device against the same call on the host in double: values, gradients, layouts, padding, causal
// order. SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/cuda.hpp>
#include <espalier/masks/grid.hpp>

#include <doctest/doctest.h>

#include "support/attention_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

namespace es = espalier;
using es::Cuda;
using es::Index;
using namespace es::test;

namespace {

// A stored tensor's memory on the device, gaps included.
template <class T>
struct OnDevice {
  Stored<T>& host;
  es::DeviceBuffer<T> memory;
  explicit OnDevice(Stored<T>& from) : host(from), memory(std::span<const T>(from.memory)) {}
  es::TensorView<T, Cuda> view() const {
    es::TensorView<T, Cuda> v(memory.data(), host.view.batch(), host.view.heads(), host.view.length(), host.view.width());
    for (int k = 0; k < 4; ++k) v.strides[k] = host.view.strides[k];
    return v;
  }
  // In place: the host's view points into its memory.
  void copy_back() {
    const std::vector<T> values = memory.to_host();
    std::copy(values.begin(), values.end(), host.memory.begin());
  }
};

// One setting of the call.
struct Setting {
  Index batch, heads, key_heads, length, width, values;
  bool blhd = false;
  int masks = 1;  // 0: none
  es::LinearOptions options{};
  std::string engine = "auto";
  std::vector<std::int64_t> counts{};
  std::size_t scratch_bytes = es::Context<Cuda>{}.scratch_bytes;
};

template <class T, class B>
std::vector<es::MaskPointer<T, B>> masks_of(const Setting& s) {
  std::vector<es::MaskPointer<T, B>> masks;
  for (int k = 0; k < s.masks; ++k) {
    es::GridOptions options;
    options.engine = s.engine;
    options.cost = {};
    masks.push_back(std::make_shared<es::GridMask<T, B>>(std::vector<Index>{s.length}, es::Exponential{.rate = 0.1 + 0.05 * k},
                                                         es::Distance::l1, options));
  }
  return masks;
}

// What attention gives, flattened, host in double.
struct Results {
  std::vector<double> out, normaliser, q, k, v, parameters;
};

Results on_host(const Setting& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out_bar) {
  Stored<double> sq(q), sk(k), sv(v), bar(out_bar), out(s.batch, s.heads, s.length, s.values), d(s.batch, s.heads, s.length, 1);
  Stored<double> gq(q), gk(k), gv(v);
  es::LinearOptions options = s.options;
  if (!s.counts.empty()) options.key_counts = {s.counts.data(), static_cast<Index>(s.counts.size())};
  Setting plain = s;
  plain.engine = "direct";
  const auto masks = masks_of<double, es::Cpu>(plain);
  es::masked_linear_attention(sq.view, sk.view, sv.view, masks, out.view, d.view, options);
  std::vector<double> p(static_cast<std::size_t>(2 * s.masks));
  es::AttentionGradients<double> g{.q = gq.view, .k = gk.view, .v = gv.view};
  if (s.masks > 0) g.parameters = {p.data(), s.masks, 2};
  es::masked_linear_attention_vjp(sq.view, sk.view, sv.view, masks, out.view, d.view, bar.view, g, options);
  return {out.flat(), d.flat(), gq.flat(), gk.flat(), gv.flat(), p};
}

template <class T>
std::vector<double> doubles(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}

// Gaps of inputs hold NaN, gaps of outputs a guard that must survive.
template <class T>
Results on_device(const Setting& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out_bar) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const auto output = [&](Index heads, Index width) { return Stored<T>(s.batch, heads, s.length, width, 2, s.blhd, T(77)); };
  Stored<T> hq(q, 3, s.blhd, nan), hk(k, 2, s.blhd, nan), hv(v, 1, s.blhd, nan), hbar(out_bar, 1, s.blhd, nan);
  Stored<T> hout = output(s.heads, s.values), hd = output(s.heads, 1), hgq = output(s.heads, s.width),
            hgk = output(s.key_heads, s.width), hgv = output(s.key_heads, s.values);
  OnDevice<T> dq(hq), dk(hk), dv(hv), bar(hbar), out(hout), d(hd), gq(hgq), gk(hgk), gv(hgv);
  es::LinearOptions options = s.options;
  if (!s.counts.empty()) options.key_counts = {s.counts.data(), static_cast<Index>(s.counts.size())};
  const auto masks = masks_of<T, Cuda>(s);
  const es::Context<Cuda> context = es::on_stream(nullptr, s.scratch_bytes);
  const auto result =
      es::masked_linear_attention(dq.view(), dk.view(), dv.view(), masks, out.view(), d.view(), options, context);
  if (options.normalize) CHECK(result.floored_rows == -1);
  es::DeviceBuffer<T> p(static_cast<Index>(2 * s.masks));
  es::AttentionGradients<T, Cuda> g{.q = gq.view(), .k = gk.view(), .v = gv.view()};
  if (s.masks > 0) g.parameters = p.matrix(s.masks, 2);
  es::masked_linear_attention_vjp(dq.view(), dk.view(), dv.view(), masks, out.view(), d.view(), bar.view(), g, options,
                                  context);
  for (OnDevice<T>* o : {&out, &d, &gq, &gk, &gv}) {
    o->copy_back();
    CHECK(o->host.gaps_untouched(2));
  }
  return {doubles(hout.flat()), doubles(hd.flat()),  doubles(hgq.flat()),
          doubles(hgk.flat()),  doubles(hgv.flat()), doubles(p.to_host())};
}

// Positive scores: no row cancels, so relative to the largest value the error is that of the products (1e-6 and 1e-12 of the
// laws) and of the division, whose derivative adds a few times as much to the gradients.
template <class T>
void compare(const Setting& s) {
  const Tensor q = random_tensor(s.batch, s.heads, s.length, s.width, 1, true);
  const Tensor k = random_tensor(s.batch, s.key_heads, s.length, s.width, 2, true);
  const Tensor v = random_tensor(s.batch, s.key_heads, s.length, s.values, 3);
  const Tensor out_bar = random_tensor(s.batch, s.heads, s.length, s.values, 4);
  const double bound = sizeof(T) == 4 ? 2e-6 : 1e-12;
  const Results want = on_host(s, q, k, v, out_bar), got = on_device<T>(s, q, k, v, out_bar);
  CAPTURE(s.length);
  CAPTURE(s.engine);
  CHECK(relative_to_max(got.out, want.out) < bound);
  CHECK(relative_to_max(got.normaliser, want.normaliser) < bound);
  CHECK(relative_to_max(got.q, want.q) < 5 * bound);
  CHECK(relative_to_max(got.k, want.k) < 5 * bound);
  CHECK(relative_to_max(got.v, want.v) < 5 * bound);
  CHECK(relative_to_max(got.parameters, want.parameters) < 5 * bound);
}

}  // namespace

TEST_CASE_TEMPLATE("values and gradients equal the host's", T, float, double) {
  for (const std::string engine : {"direct", "fft"}) {
    compare<T>({.batch = 1, .heads = 2, .key_heads = 2, .length = 37, .width = 5, .values = 4, .masks = 2, .engine = engine});
    // Grouped heads, positions before heads in memory.
    compare<T>({.batch = 2, .heads = 4, .key_heads = 2, .length = 9, .width = 3, .values = 7, .blhd = true, .engine = engine});
  }
  compare<T>({.batch = 1, .heads = 1, .key_heads = 1, .length = 150, .width = 70, .values = 66, .engine = "direct"});
  // Long enough that the sources are split among blocks (tiles), and that transforms come in several chunks (below).
  compare<T>({.batch = 1, .heads = 1, .key_heads = 1, .length = 700, .width = 2, .values = 3, .engine = "direct"});
}

TEST_CASE_TEMPLATE("little scratch memory: chunks of features, of columns, heads one by one", T, float, double) {
  Setting s{.batch = 1, .heads = 2, .key_heads = 1, .length = 37, .width = 5, .values = 6, .engine = "fft"};
  for (const std::size_t arrays : {1, 3, 5, 9}) {
    // The arrays of a product (74 rounded up to 80 points) take a quarter.
    s.scratch_bytes = 4 * arrays * 80 * 2 * sizeof(T);
    compare<T>(s);
  }
  s.engine = "direct";
  s.scratch_bytes = 0;
  compare<T>(s);
}

TEST_CASE_TEMPLATE("weight epsilon, causal order, padding", T, float, double) {
  Setting s{.batch = 2, .heads = 2, .key_heads = 1, .length = 70, .width = 4, .values = 3, .engine = "direct"};
  s.options.weight_epsilon = 0.05;
  compare<T>(s);
  s.options.causal = es::Causal::top_left;
  compare<T>(s);
  s.counts = {70, 41};
  compare<T>(s);
  s.options.normalize = false;
  compare<T>(s);
}

TEST_CASE_TEMPLATE("elementwise features", T, float, double) {
  Setting s{.batch = 2, .heads = 2, .key_heads = 1, .length = 40, .width = 4, .values = 3, .engine = "direct"};
  for (const auto kind : {es::FeatureKind::relu, es::FeatureKind::elu, es::FeatureKind::squared, es::FeatureKind::exp}) {
    s.options.features = kind;
    s.options.feature_epsilon = 0.01;
    s.counts = kind == es::FeatureKind::elu ? std::vector<std::int64_t>{40, 31} : std::vector<std::int64_t>{};
    compare<T>(s);
  }
}

TEST_CASE_TEMPLATE("attention without a mask", T, float, double) {
  Setting s{.batch = 1, .heads = 2, .key_heads = 2, .length = 33, .width = 4, .values = 3, .masks = 0};
  compare<T>(s);
  s.options.causal = es::Causal::top_left;
  compare<T>(s);
}

TEST_CASE("floored rows give 0 and zero gradients") {
  const Index n = 6;
  Tensor q = random_tensor(1, 1, n, 2, 1, true);
  const Tensor k = random_tensor(1, 1, n, 2, 2, true), v = random_tensor(1, 1, n, 3, 3), bar = random_tensor(1, 1, n, 3, 4);
  q(0, 0, 2, 0) = q(0, 0, 2, 1) = 0;  // this row's denominator is 0
  const Setting s{.batch = 1, .heads = 1, .key_heads = 1, .length = n, .width = 2, .values = 3};
  const Results got = on_device<double>(s, q, k, v, bar), want = on_host(s, q, k, v, bar);
  for (std::size_t c = 0; c < 3; ++c) CHECK(got.out[2 * 3 + c] == 0);
  for (std::size_t c = 0; c < 2; ++c) CHECK(got.q[2 * 2 + c] == 0);
  CHECK(relative_to_max(got.v, want.v) < 1e-12);
  CHECK(relative_to_max(got.k, want.k) < 1e-12);
}

// The transforms leave their rounding where a row has no weight; it must not be divided by.
TEST_CASE_TEMPLATE("rows that the mask gives no weight are 0 by fft too", T, float, double) {
  const Index n = 200;
  std::vector<double> table(2 * n - 1, 0.0);
  for (Index o = 3; o <= 8; ++o) table[static_cast<std::size_t>(n - 1 + o)] = 0.2 * static_cast<double>(o);
  const Tensor q = random_tensor(1, 1, n, 6, 1, true), k = random_tensor(1, 1, n, 6, 2, true), v = random_tensor(1, 1, n, 4, 3);
  std::vector<std::vector<T>> results;
  for (const char* engine : {"direct", "fft"}) {
    es::GridOptions options;
    options.engine = engine;
    const es::GridMask<T, Cuda> mask({n}, table, options);
    Stored<T> hq(q), hk(k), hv(v), hout(1, 1, n, 4), hd(1, 1, n, 1);
    OnDevice<T> dq(hq), dk(hk), dv(hv), out(hout), d(hd);
    es::masked_linear_attention(dq.view(), dk.view(), dv.view(), mask, out.view(), d.view(), {}, es::on_stream(nullptr));
    out.copy_back();
    d.copy_back();
    for (Index i = 0; i < 3; ++i) {
      CHECK(hd.view.matrix(0, 0)(i, 0) == 0);
      for (Index c = 0; c < 4; ++c) CHECK(hout.view.matrix(0, 0)(i, c) == 0);
    }
    CHECK(hd.view.matrix(0, 0)(3, 0) > 0);
    results.push_back(hout.memory);
  }
  const double bound = sizeof(T) == 4 ? 1e-4 : 1e-12;
  for (std::size_t p = 0; p < results[0].size(); ++p)
    CHECK(std::abs(static_cast<double>(results[0][p] - results[1][p])) < bound);
}
