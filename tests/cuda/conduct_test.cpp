// How device masks behave: refused arguments, streams, shared objects; and on the fake device: memory, failures, leaks.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>
#include <espalier/cuda.hpp>
#include <espalier/masks/grid.hpp>
#include <espalier/masks/ones.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#ifdef ESPALIER_CUDA_EMULATION
#include <cuda_runtime.h>

#include "fake/control.hpp"
#endif

using namespace espalier;

namespace {

std::vector<float> numbers(Index count, double step) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(0.5 + 0.5 * std::sin(step * static_cast<double>(i)));
  return v;
}
DeviceBuffer<float> on_device(Index count, double step) {
  const std::vector<float> v = numbers(count, step);
  return DeviceBuffer<float>(std::span<const float>(v));
}

GridMask<float, Cuda> decay(Index n, const std::string& engine) {
  GridOptions options;
  options.engine = engine;
  return GridMask<float, Cuda>({n}, Exponential{.rate = 0.05}, Distance::l1, options);
}

// Operands of a masked product and of its gradients.
struct Problem {
  Index n, m, c;
  DeviceBuffer<float> a, b, x, y_bar, r_bar, y, row_sum, a_bar, b_bar, x_bar, p_bar;
  Problem(Index length, Index rank, Index columns)
      : n(length),
        m(rank),
        c(columns),
        a(on_device(n * m, 0.3)),
        b(on_device(n * m, 0.7)),
        x(on_device(n * c, 1.1)),
        y_bar(on_device(n * c, 1.3)),
        r_bar(on_device(n, 1.7)),
        y(on_device(n * c, 0)),
        row_sum(on_device(n, 0)),
        a_bar(on_device(n * m, 0)),
        b_bar(on_device(n * m, 0)),
        x_bar(on_device(n * c, 0)),
        p_bar(on_device(2, 0)) {}
  LowRankInputs<float, Cuda> in() const { return {a.matrix(n, m), b.matrix(n, m), x.matrix(n, c)}; }
  void forward(const Mask<float, Cuda>& mask, const Context<Cuda>& context = {}) {
    mask.multiply_low_rank(in(), {y.matrix(n, c), row_sum.vector()}, context);
  }
  void backward(const Mask<float, Cuda>& mask, const Context<Cuda>& context = {}) {
    mask.multiply_low_rank_vjp(in(), {y_bar.matrix(n, c), r_bar.vector()},
                               {a_bar.matrix(n, m), b_bar.matrix(n, m), x_bar.matrix(n, c), p_bar.vector()}, context);
  }
};

}  // namespace

TEST_CASE("wrong shapes and overlaps are refused before anything is written") {
  const GridMask<float, Cuda> mask = decay(5, "auto");
  const DeviceBuffer<float> x = on_device(15, 0.3), y = on_device(18, 0.4);
  CHECK_THROWS_AS(mask.multiply(x.matrix(4, 3), y.matrix(5, 3)), ShapeError);
  CHECK_THROWS_AS(mask.multiply(x.matrix(5, 3), y.matrix(6, 3)), ShapeError);
  CHECK_THROWS_AS(mask.multiply(x.matrix(5, 3), y.matrix(5, 3, 2)), ShapeError);
  CHECK_THROWS_AS(mask.multiply(x.matrix(5, 3), x.matrix(5, 3)), ValueError);
  CHECK_THROWS_AS(mask.multiply_low_rank({x.matrix(5, 2), x.matrix(5, 3), x.matrix(5, 3)}, {y.matrix(5, 3)}), ShapeError);
  CHECK_THROWS_AS((void)mask.with_parameters(std::vector<double>{1}), ShapeError);
  CHECK(y.to_host() == numbers(18, 0.4));
}

TEST_CASE("entries without a CUDA kernel are named") {
  // A mask of factors: nothing on Cuda multiplies it by tile.
  class Factors final : public Mask<float, Cuda> {
   public:
    Factors() : Mask<float, Cuda>(2, 2, {.engine = "direct"}) {}
    Entries<float, Cuda> entries() const override {
      Entries<float, Cuda> e;
      e.kind = EntryKind::factors;
      e.rows = e.cols = 2;
      return e;
    }

   protected:
    void apply(MatrixView<const float, Cuda> x, MatrixView<float, Cuda> y, bool transpose,
               const Context<Cuda>& context) const override {
      apply_by_tiles(x, y, transpose, context);
    }
  };
  const DeviceBuffer<float> x = on_device(4, 1), y = on_device(4, 2);
  CHECK_THROWS_WITH_AS(Factors().multiply_low_rank({x.matrix(2, 2), x.matrix(2, 2), x.matrix(2, 2)}, {y.matrix(2, 2)}),
                       doctest::Contains("ones, dense and offset_table"), ValueError);
}

TEST_CASE("device buffers move, refuse other sizes, give back what they got") {
  DeviceBuffer<std::int32_t> p(3);
  const std::vector<std::int32_t> v = {3, 1, 4};
  p.upload(v);
  DeviceBuffer<std::int32_t> q = std::move(p);
  CHECK(q.to_host() == v);
  CHECK(p.size() == 0);
  CHECK_THROWS_AS(q.upload(std::vector<std::int32_t>(2)), ShapeError);
  CHECK_THROWS_AS(DeviceBuffer<float>(-1), ValueError);
  CHECK(DeviceBuffer<float>(0).to_host().empty());
}

TEST_CASE("masks of ones run by tiles, causal order counted from the corner") {
  const Index n = 70;
  const OnesMask<float, Cuda> mask(n, n, true);
  const DeviceBuffer<float> x = on_device(n, 0.9), y = on_device(n, 0);
  mask.multiply(x.matrix(n, 1), y.matrix(n, 1));
  const std::vector<float> in = numbers(n, 0.9), out = y.to_host();
  double sum = 0, error = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    sum += static_cast<double>(in[i]);
    error = std::max(error, std::abs(static_cast<double>(out[i]) - sum) / sum);
  }
  CHECK(error < 1e-6);
}

TEST_CASE("the same bits twice, and with other masks of the same structure between") {
  for (const std::string engine : {"direct", "fft"}) {
    CAPTURE(engine);
    const GridMask<float, Cuda> mask = decay(150, engine);
    Problem p(150, 5, 6);
    p.forward(mask), p.backward(mask);
    const auto y = p.y.to_host(), a_bar = p.a_bar.to_host(), p_bar = p.p_bar.to_host();
    const std::vector<double> other = {0.2, 1.5};
    p.forward(*mask.with_parameters(other));
    CHECK(p.y.to_host() != y);
    p.forward(mask), p.backward(mask);
    CHECK(p.y.to_host() == y);
    CHECK(p.a_bar.to_host() == a_bar);
    CHECK(p.p_bar.to_host() == p_bar);
  }
}

#ifdef ESPALIER_CUDA_EMULATION

namespace {

struct Stream {
  cudaStream_t stream = nullptr;
  Stream() { REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess); }
  ~Stream() { (void)cudaStreamDestroy(stream); }
};

// Forward and backward with both engines, plainly.
void everything() {
  for (const std::string engine : {"direct", "fft"}) {
    const GridMask<float, Cuda> mask = decay(70, engine);
    Problem p(70, 3, 4);
    p.forward(mask), p.backward(mask);
    synchronize();
  }
  const GridMask<float, Cuda> mask = decay(9, "auto");
  const DeviceBuffer<float> q = on_device(18, 0.2), v = on_device(27, 0.4), out = on_device(27, 0), d = on_device(9, 0),
                            g = on_device(18, 0);
  const LinearOptions options{.weight_epsilon = 0.1, .causal = Causal::top_left};
  masked_linear_attention(q.tensor(1, 1, 9, 2), q.tensor(1, 1, 9, 2), v.tensor(1, 1, 9, 3), mask, out.tensor(1, 1, 9, 3),
                          d.tensor(1, 1, 9, 1), options);
  masked_linear_attention_vjp(q.tensor(1, 1, 9, 2), q.tensor(1, 1, 9, 2), v.tensor(1, 1, 9, 3), mask, out.tensor(1, 1, 9, 3),
                              d.tensor(1, 1, 9, 1), v.tensor(1, 1, 9, 3), {.q = g.tensor(1, 1, 9, 2)}, options);
  synchronize();
}

}  // namespace

TEST_CASE("work waits on the caller's stream, and two streams share a mask") {
  for (const std::string engine : {"direct", "fft"}) {
    CAPTURE(engine);
    const GridMask<float, Cuda> mask = decay(150, engine);
    Problem p(150, 5, 6), q(150, 5, 6);
    const std::vector<float> before = p.y.to_host();
    p.forward(mask);
    synchronize();
    const std::vector<float> expected = p.y.to_host();
    const Stream first, second;
    const GridMask<float, Cuda> fresh = decay(150, engine);
    p.y.upload(before);
    // The first stream makes the spectrum and never synchronises before the second one's product needs it.
    p.forward(fresh, on_stream(first.stream));
    q.forward(fresh, on_stream(second.stream));
    CHECK(p.y.to_host() == before);  // nothing has run on the non-blocking streams
    synchronize(on_stream(second.stream));
    CHECK(q.y.to_host() == expected);
    synchronize(on_stream(first.stream));
    CHECK(p.y.to_host() == expected);
  }
}

TEST_CASE("a product never holds L x L or L x m c numbers") {
  const Index n = 1024, m = 24, c = 24;
  Problem p(n, m, c);
  for (const std::string engine : {"direct", "fft"}) {
    CAPTURE(engine);
    const GridMask<float, Cuda> mask = decay(n, engine);
    const Context<Cuda> context = on_stream(nullptr, std::size_t{1} << 20);
    p.forward(mask, context), p.backward(mask, context);
    synchronize();
    const std::size_t before = fake::memory().in_use;
    fake::reset_peak();
    p.forward(mask, context), p.backward(mask, context);
    synchronize();
    const std::size_t taken = fake::memory().peak - before, square = static_cast<std::size_t>(n * n) * sizeof(float),
                      panel = static_cast<std::size_t>(n * m * c) * sizeof(float);
    CAPTURE(taken);
    CHECK(taken < square / 2);
    CHECK(taken < panel / 2);
    CHECK(taken <= (std::size_t{1} << 20) + 64 * static_cast<std::size_t>(n) * sizeof(double));
    CHECK(fake::memory().in_use == before);
  }
}

TEST_CASE("whichever call fails, a BackendError says so and nothing is lost") {
  everything();
  const long long before = fake::calls();
  everything();
  const long long count = fake::calls() - before;
  REQUIRE(count > 100);
  const std::size_t buffers = fake::memory().buffers;
  long long thrown = 0;
  for (long long n = 1; n <= count; ++n) {
    fake::fail_call(n);
    try {
      everything();
    } catch (const BackendError& e) {
      ++thrown;
      const std::string text = e.what();
      CHECK_MESSAGE(text.find(": ") != std::string::npos, text);
    }
    const std::string failed = fake::failed_call();
    CAPTURE(failed);
    CAPTURE(n);
    fake::reset();
    CHECK(fake::memory().buffers == buffers);
    CHECK(fake::leaks().empty());
  }
  // Calls that only give something back, and waits of destructors, have nobody to tell.
  CHECK(thrown > count / 2);
}

#endif
