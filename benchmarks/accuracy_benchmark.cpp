// How well each attention reproduces the softmax attention of a trained transformer: the table of docs/attention.md.
// usage: accuracy_benchmark examples/data/stories260K      SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/attention/softmax.hpp>
#include <espalier/attention/top_k.hpp>
#include <espalier/io/npy.hpp>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace es = espalier;
using es::Index;

namespace {

struct Heads {
  std::vector<double> q, k, v;
  Index layers, heads, key_heads, length, width;
  es::TensorView<const double> queries() const { return {q.data(), layers, heads, length, width}; }
  es::TensorView<const double> keys() const { return {k.data(), layers, key_heads, length, width}; }
  es::TensorView<const double> values() const { return {v.data(), layers, key_heads, length, width}; }
  std::vector<double> output() const { return std::vector<double>(q.size()); }
  es::TensorView<double> view(std::vector<double>& out) const { return {out.data(), layers, heads, length, width}; }
};

double relative(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (std::size_t p = 0; p < a.size(); ++p) error += (a[p] - b[p]) * (a[p] - b[p]), size += b[p] * b[p];
  return std::sqrt(error / size);
}

void row(const std::string& name, double error) {
  std::printf("| %s | %.3f |\n", name.c_str(), error);
}

// Linear attention with a feature map, causal; medians are not needed: seeds are averaged.
double linear_error(const Heads& t, es::FeatureKind kind, Index features, bool absorb, const std::vector<double>& exact) {
  double sum = 0;
  const int seeds = kind == es::FeatureKind::positive_softmax ? 5 : 1;
  for (int seed = 0; seed < seeds; ++seed) {
    const es::FeatureMap<double> map(t.width, {.kind = kind, .features = features, .seed = static_cast<std::uint64_t>(seed)});
    const Index m = map.features();
    std::vector<double> fq(static_cast<std::size_t>(t.layers * t.heads * t.length * m)), fk(fq.size()), shift(fq.size()),
        cq = t.q, ck = t.k, weight(static_cast<std::size_t>(t.layers * t.key_heads * t.length)), out = t.output();
    const es::TensorView<double> vq(fq.data(), t.layers, t.heads, t.length, m),
        vk(fk.data(), t.layers, t.key_heads, t.length, m);
    const es::TensorView<double> sq(shift.data(), t.layers, t.heads, t.length, 1),
        sk(shift.data(), t.layers, t.key_heads, t.length, 1);
    const es::TensorView<double> xq(cq.data(), t.layers, t.heads, t.length, t.width),
        xk(ck.data(), t.layers, t.key_heads, t.length, t.width);
    const es::TensorView<double> w(weight.data(), t.layers, t.key_heads, t.length, 1);
    if (absorb) es::absorb_means(t.queries(), t.keys(), 1 / std::sqrt(static_cast<double>(t.width)), xq, xk, w);
    map.apply(xq, vq, es::FeatureShift::per_row, sq);
    map.apply(xk, vk, es::FeatureShift::per_head, sk, absorb ? w : es::TensorView<double>());
    es::masked_linear_attention(vq, vk, t.values(), {}, t.view(out), {}, {.causal = es::Causal::top_left});
    sum += relative(out, exact);
  }
  return sum / seeds;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: accuracy_benchmark FOLDER_OF_q_k_v_npy\n"), 2;
  const std::string folder = argv[1];
  const es::NpyArray q = es::read_npy(folder + "/q.npy"), k = es::read_npy(folder + "/k.npy");
  const Heads t{es::convert<double>(q),
                es::convert<double>(k),
                es::convert<double>(es::read_npy(folder + "/v.npy")),
                q.shape[0],
                q.shape[1],
                k.shape[1],
                q.shape[2],
                q.shape[3]};
  std::vector<double> exact = t.output(), out = t.output();
  es::softmax_attention(t.queries(), t.keys(), t.values(), t.view(exact), {}, {}, {}, {.causal = es::Causal::top_left});
  std::printf("| attention | relative error of the output |\n|---|---|\n");
  // The mean of the visible values: linear attention with constant features.
  std::vector<double> ones(t.q.size(), 1.0);
  es::masked_linear_attention(es::TensorView<const double>(ones.data(), t.layers, t.heads, t.length, 1),
                              es::TensorView<const double>(ones.data(), t.layers, t.key_heads, t.length, 1), t.values(), {},
                              t.view(out), {}, {.causal = es::Causal::top_left});
  row("mean of V (ignores q and k)", relative(out, exact));
  row("linear, ReLU features", linear_error(t, es::FeatureKind::relu, 0, false, exact));
  row("linear, ELU + 1 features", linear_error(t, es::FeatureKind::elu, 0, false, exact));
  for (const Index m : {64, 256, 1024}) {
    row("linear, positive softmax features, m = " + std::to_string(m),
        linear_error(t, es::FeatureKind::positive_softmax, m, false, exact));
    row("the same with mean absorption", linear_error(t, es::FeatureKind::positive_softmax, m, true, exact));
  }
  for (const Index count : {1, 4, 16, 64}) {
    std::vector<std::int32_t> indices(static_cast<std::size_t>(t.layers * t.heads * t.length * count));
    std::vector<double> scores(indices.size());
    es::top_k_attention(t.queries(), t.keys(), t.values(), t.view(out),
                        es::TensorView<std::int32_t>(indices.data(), t.layers, t.heads, t.length, count),
                        es::TensorView<double>(scores.data(), t.layers, t.heads, t.length, count),
                        {.causal = es::Causal::top_left});
    row("exact top-k, k = " + std::to_string(count), relative(out, exact));
  }
  return 0;
}
