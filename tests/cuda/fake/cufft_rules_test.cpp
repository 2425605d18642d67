// The rules of cuFFT that the library relies on, one case each; their list, with the manual's sections, is in cufft.cpp.
// SPDX-License-Identifier: Apache-2.0
//
// Cases called "rule" use the interfaces of CUDA alone: with nvcc and the real library this file checks the list itself.
#include "device_vector.hpp"

#include <cufft.h>
#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#if defined(ESPALIER_CUDA_EMULATION)
#include "fake/control.hpp"
#include "fake/dft.hpp"
#endif

using espalier::Index;
using espalier::test::DeviceVector;
using espalier::test::Stream;
namespace gpu = espalier::gpu;
using Complex = std::complex<double>;

namespace {

template <class T>
struct Types;
template <>
struct Types<float> {
  using Pair = float2;
  static constexpr cufftType r2c = CUFFT_R2C, c2r = CUFFT_C2R, c2c = CUFFT_C2C;
  static cufftResult forward(cufftHandle p, float* in, float2* out) { return cufftExecR2C(p, in, out); }
  static cufftResult backward(cufftHandle p, float2* in, float* out) { return cufftExecC2R(p, in, out); }
  static cufftResult run(cufftHandle p, float2* in, float2* out, int direction) { return cufftExecC2C(p, in, out, direction); }
};
template <>
struct Types<double> {
  using Pair = double2;
  static constexpr cufftType r2c = CUFFT_D2Z, c2r = CUFFT_Z2D, c2c = CUFFT_Z2Z;
  static cufftResult forward(cufftHandle p, double* in, double2* out) { return cufftExecD2Z(p, in, out); }
  static cufftResult backward(cufftHandle p, double2* in, double* out) { return cufftExecZ2D(p, in, out); }
  static cufftResult run(cufftHandle p, double2* in, double2* out, int direction) {
    return cufftExecZ2Z(p, in, out, direction);
  }
};

class Plan {
 public:
  Plan(const Stream& stream, std::vector<int> n, cufftType type, int batch)
      : Plan(stream, n, type, batch, nullptr, 1, 0, nullptr, 1, 0) {}
  Plan(const Stream& stream, std::vector<int> n, cufftType type, int batch, int* in_embed, int in_stride, int in_distance,
       int* out_embed, int out_stride, int out_distance) {
    REQUIRE(cufftPlanMany(&handle_, static_cast<int>(n.size()), n.data(), in_embed, in_stride, in_distance, out_embed,
                          out_stride, out_distance, type, batch) == CUFFT_SUCCESS);
    REQUIRE(cufftSetStream(handle_, stream.get()) == CUFFT_SUCCESS);
  }
  ~Plan() { cufftDestroy(handle_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  cufftHandle get() const { return handle_; }

 private:
  cufftHandle handle_ = 0;
};

// sum_j x_j exp(sign 2 pi i jk / n) over up to three axes, term by term.
std::vector<Complex> slow_dft(const std::vector<Complex>& x, const std::vector<int>& n, int sign) {
  int size[3] = {1, 1, 1};
  for (std::size_t a = 0; a < n.size(); ++a) size[3 - n.size() + a] = n[a];
  std::vector<Complex> y(x.size());
  const auto angle = [sign](int j, int k, int m) { return sign * 2 * std::numbers::pi * (static_cast<double>(j) * k / m); };
  for (std::size_t out = 0; out < x.size(); ++out) {
    const int k = static_cast<int>(out), kz = k % size[2], ky = k / size[2] % size[1], kx = k / size[2] / size[1];
    for (std::size_t in = 0; in < x.size(); ++in) {
      const int j = static_cast<int>(in), jz = j % size[2], jy = j / size[2] % size[1], jx = j / size[2] / size[1];
      y[out] += x[in] * std::polar(1.0, angle(jx, kx, size[0]) + angle(jy, ky, size[1]) + angle(jz, kz, size[2]));
    }
  }
  return y;
}

// Not inlined: g++ 12 vectorises the rounding to float away where the value becomes a double again.
template <class T>
[[gnu::noinline]] T value_at(std::size_t i) {
  return static_cast<T>(std::sin(1.3 * static_cast<double>(i) + 0.4) + 0.2);
}

// A transform of n points in precision T: error at most 8 eps log2(n) of the norm, here against the largest sum possible.
template <class T>
double bound(std::size_t points) {
  const auto n = static_cast<double>(points);
  return 8 * static_cast<double>(std::numeric_limits<T>::epsilon()) * (1 + std::log2(n)) * n * 1.2;
}

template <class T>
bool close(Complex got, Complex expected, std::size_t points) {
  return std::abs(got - expected) <= bound<T>(points);
}
template <class Pair>
Complex complex_of(const Pair& p) {
  return {static_cast<double>(p.x), static_cast<double>(p.y)};
}

const std::vector<std::vector<int>> kSizes = {{1}, {2}, {7}, {8}, {12}, {30}, {4, 6}, {3, 5}, {5, 1}, {2, 3, 4}, {3, 2, 5}};

std::size_t points_of(const std::vector<int>& n) {
  std::size_t points = 1;
  for (const int m : n) points *= static_cast<std::size_t>(m);
  return points;
}

}  // namespace

TEST_CASE_TEMPLATE("rules 1, 2: complex transforms in both directions, not normalised", T, float, double) {
  using Pair = typename Types<T>::Pair;
  const Stream stream;
  for (const auto& n : kSizes) {
    const std::size_t points = points_of(n);
    std::vector<Pair> host(points);
    std::vector<Complex> x(points);
    for (std::size_t i = 0; i < points; ++i) {
      host[i] = {value_at<T>(i), value_at<T>(i + 100)};
      x[i] = complex_of(host[i]);
    }
    const DeviceVector<Pair> in(host, stream), out(static_cast<Index>(points), stream);
    const Plan plan(stream, n, Types<T>::c2c, 1);
    for (const int sign : {CUFFT_FORWARD, CUFFT_INVERSE}) {
      REQUIRE(Types<T>::run(plan.get(), in.data(), out.data(), sign) == CUFFT_SUCCESS);
      const auto got = out.copy_to_host();
      const auto expected = slow_dft(x, n, sign);
      for (std::size_t i = 0; i < points; ++i) CHECK(close<T>(complex_of(got[i]), expected[i], 2 * points));
    }
    REQUIRE(Types<T>::run(plan.get(), in.data(), out.data(), CUFFT_FORWARD) == CUFFT_SUCCESS);
    REQUIRE(Types<T>::run(plan.get(), out.data(), out.data(), CUFFT_INVERSE) == CUFFT_SUCCESS);
    const auto back = out.copy_to_host();
    for (std::size_t i = 0; i < points; ++i)
      CHECK(close<T>(complex_of(back[i]), x[i] * static_cast<double>(points), 4 * points));
    // The input of a complex transform out of place is left alone.
    const auto kept = in.copy_to_host();
    for (std::size_t i = 0; i < points; ++i) CHECK(complex_of(kept[i]) == x[i]);
  }
}

TEST_CASE_TEMPLATE("rules 2, 3: real transforms store half of the last axis; batches are packed", T, float, double) {
  using Pair = typename Types<T>::Pair;
  const Stream stream;
  const std::size_t batch = 3;
  for (const auto& n : kSizes) {
    const std::size_t points = points_of(n), last = static_cast<std::size_t>(n.back()), half = last / 2 + 1,
                      lines = points / last;
    std::vector<T> host(batch * points);
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = value_at<T>(i);
    const DeviceVector<T> in(host, stream), back(static_cast<Index>(host.size()), stream);
    const DeviceVector<Pair> out(static_cast<Index>(batch * lines * half), stream);
    const Plan forward(stream, n, Types<T>::r2c, batch), backward(stream, n, Types<T>::c2r, batch);
    REQUIRE(Types<T>::forward(forward.get(), in.data(), out.data()) == CUFFT_SUCCESS);
    const auto got = out.copy_to_host();
    for (std::size_t b = 0; b < batch; ++b) {
      const std::vector<Complex> x(host.begin() + static_cast<Index>(b * points),
                                   host.begin() + static_cast<Index>((b + 1) * points));
      const auto expected = slow_dft(x, n, -1);
      for (std::size_t i = 0; i < lines * half; ++i) {
        CHECK(close<T>(complex_of(got[b * lines * half + i]), expected[i / half * last + i % half], points));
      }
    }
    REQUIRE(Types<T>::backward(backward.get(), out.data(), back.data()) == CUFFT_SUCCESS);
    const auto round = back.copy_to_host();
    for (std::size_t i = 0; i < host.size(); ++i) {
      CHECK(close<T>(static_cast<double>(round[i]), static_cast<double>(host[i]) * static_cast<double>(points), 2 * points));
    }
    CHECK(in.copy_to_host() == host);
  }
}

TEST_CASE("rule 4: with a null embed strides and distances are ignored") {
  const Stream stream;
  std::vector<float> host(16);
  for (std::size_t i = 0; i < 16; ++i) host[i] = value_at<float>(i);
  const DeviceVector<float> in(host, stream);
  const DeviceVector<float2> plain(10, stream), odd(10, stream);
  const Plan straight(stream, {8}, CUFFT_R2C, 2), strange(stream, {8}, CUFFT_R2C, 2, nullptr, 3, 77, nullptr, 5, 99);
  REQUIRE(cufftExecR2C(straight.get(), in.data(), plain.data()) == CUFFT_SUCCESS);
  REQUIRE(cufftExecR2C(strange.get(), in.data(), odd.data()) == CUFFT_SUCCESS);
  const auto a = plain.copy_to_host(), b = odd.copy_to_host();
  for (std::size_t i = 0; i < 10; ++i) CHECK(complex_of(a[i]) == complex_of(b[i]));
}

TEST_CASE_TEMPLATE("rule 5: the advanced layout's strides, embeds and distances, both ways", T, float, double) {
  using Pair = typename Types<T>::Pair;
  const Stream stream;
  // Two transforms of 3 x 4 real values, in an array with rows of 7, every second value, 45 apart; spectra with rows of 5,
  // every third value, 50 apart. The first embed is nonsense on purpose: it is not used.
  std::vector<int> n{3, 4}, in_embed{1000, 7}, out_embed{-5, 5};
  const auto in_at = [](std::size_t b, std::size_t x, std::size_t y) { return b * 45 + (x * 7 + y) * 2; };
  const auto out_at = [](std::size_t b, std::size_t x, std::size_t y) { return b * 50 + (x * 5 + y) * 3; };
  const T gap = static_cast<T>(99);
  std::vector<T> host(90, gap);
  std::vector<std::vector<Complex>> x(2, std::vector<Complex>(12));
  for (std::size_t b = 0; b < 2; ++b) {
    for (std::size_t i = 0; i < 12; ++i) {
      host[in_at(b, i / 4, i % 4)] = value_at<T>(b * 12 + i);
      x[b][i] = static_cast<double>(value_at<T>(b * 12 + i));
    }
  }
  const DeviceVector<T> in(host, stream), back(std::vector<T>(90, gap), stream);
  const DeviceVector<Pair> out(std::vector<Pair>(100, Pair{gap, gap}), stream);
  const Plan forward(stream, n, Types<T>::r2c, 2, in_embed.data(), 2, 45, out_embed.data(), 3, 50);
  const Plan backward(stream, n, Types<T>::c2r, 2, out_embed.data(), 3, 50, in_embed.data(), 2, 45);
  REQUIRE(Types<T>::forward(forward.get(), in.data(), out.data()) == CUFFT_SUCCESS);
  const auto got = out.copy_to_host();
  std::vector<bool> touched(100);
  for (std::size_t b = 0; b < 2; ++b) {
    const auto expected = slow_dft(x[b], n, -1);
    for (std::size_t i = 0; i < 9; ++i) {
      CHECK(close<T>(complex_of(got[out_at(b, i / 3, i % 3)]), expected[i / 3 * 4 + i % 3], 12));
      touched[out_at(b, i / 3, i % 3)] = true;
    }
  }
  for (std::size_t i = 0; i < 100; ++i) {
    if (!touched[i]) CHECK(complex_of(got[i]) == Complex(99, 99));
  }
  REQUIRE(Types<T>::backward(backward.get(), out.data(), back.data()) == CUFFT_SUCCESS);
  const auto round = back.copy_to_host();
  for (std::size_t i = 0; i < 90; ++i) {
    CHECK(close<T>(static_cast<double>(round[i]), host[i] == gap ? Complex(99) : Complex(12.0 * static_cast<double>(host[i])),
                   24));
  }
}

TEST_CASE("rule 6: packed and in place a real row is padded to the complex one") {
  const Stream stream;
  for (const int m : {6, 7}) {
    const std::size_t last = static_cast<std::size_t>(m), half = last / 2 + 1, pitch = 2 * half, lines = 2 * 3;
    std::vector<float> host(lines * pitch, std::numeric_limits<float>::quiet_NaN());
    std::vector<Complex> x;
    for (std::size_t i = 0; i < lines * last; ++i) {
      host[i / last * pitch + i % last] = value_at<float>(i);
      x.push_back(static_cast<double>(value_at<float>(i)));
    }
    // The padding's NaN must not be read.
    const DeviceVector<float> data(host, stream);
    auto* const spectrum = reinterpret_cast<float2*>(data.data());
    const Plan forward(stream, {3, m}, CUFFT_R2C, 2), backward(stream, {3, m}, CUFFT_C2R, 2);
    REQUIRE(cufftExecR2C(forward.get(), data.data(), spectrum) == CUFFT_SUCCESS);
    const auto got = data.copy_to_host();
    for (std::size_t b = 0; b < 2; ++b) {
      const auto first = x.begin() + static_cast<Index>(b * 3 * last);
      const auto expected = slow_dft({first, first + static_cast<Index>(3 * last)}, {3, m}, -1);
      for (std::size_t i = 0; i < 3 * half; ++i) {
        const std::size_t o = (b * 3 + i / half) * pitch + 2 * (i % half);
        CHECK(close<float>({got[o], got[o + 1]}, expected[i / half * last + i % half], 3 * last));
      }
    }
    REQUIRE(cufftExecC2R(backward.get(), spectrum, data.data()) == CUFFT_SUCCESS);
    const auto round = data.copy_to_host();
    for (std::size_t i = 0; i < lines * last; ++i) {
      CHECK(close<float>(round[i / last * pitch + i % last], x[i] * static_cast<double>(3 * m), 6 * last));
    }
  }
}

TEST_CASE("rules 8, 9, 11: streams, plans made once, the transform they were made for") {
  const Stream stream;
  const DeviceVector<float2> data(std::vector<float2>(8, float2{1, 0}), stream);
  cufftHandle plan = 0;
  REQUIRE(cufftCreate(&plan) == CUFFT_SUCCESS);
  CHECK(cufftExecC2C(plan, data.data(), data.data(), CUFFT_FORWARD) == CUFFT_INVALID_PLAN);
  int n = 8;
  std::size_t bytes = 0;
  REQUIRE(cufftMakePlanMany(plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 1, &bytes) == CUFFT_SUCCESS);
  CHECK(cufftMakePlanMany(plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 1, &bytes) == CUFFT_INVALID_PLAN);
  CHECK(cufftExecR2C(plan, reinterpret_cast<float*>(data.data()), data.data()) != CUFFT_SUCCESS);
  REQUIRE(cufftSetStream(plan, stream.get()) == CUFFT_SUCCESS);
  REQUIRE(cufftExecC2C(plan, data.data(), data.data(), CUFFT_FORWARD) == CUFFT_SUCCESS);
  CHECK(complex_of(data.copy_to_host()[0]) == Complex(8));
  REQUIRE(cufftDestroy(plan) == CUFFT_SUCCESS);
  CHECK(cufftDestroy(plan) == CUFFT_INVALID_PLAN);
  CHECK(cufftExecC2C(plan, data.data(), data.data(), CUFFT_FORWARD) == CUFFT_INVALID_PLAN);
}

TEST_CASE("rule 10: a work area of the caller") {
  const Stream stream;
  long long n[2] = {6, 10};
  std::vector<double> host(60);
  std::vector<Complex> x;
  for (std::size_t i = 0; i < 60; ++i) host[i] = value_at<double>(i), x.push_back(host[i]);
  const DeviceVector<double> in(host, stream);
  const DeviceVector<double2> out(36, stream);
  cufftHandle plan = 0;
  REQUIRE(cufftCreate(&plan) == CUFFT_SUCCESS);
  REQUIRE(cufftSetAutoAllocation(plan, 0) == CUFFT_SUCCESS);
  std::size_t bytes = 0, same = 0;
  REQUIRE(cufftMakePlanMany64(plan, 2, n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_D2Z, 1, &bytes) == CUFFT_SUCCESS);
  REQUIRE(cufftGetSize(plan, &same) == CUFFT_SUCCESS);
  CHECK(bytes == same);
  const DeviceVector<char> area(static_cast<Index>(bytes) + 1, stream);
  REQUIRE(cufftSetWorkArea(plan, area.data()) == CUFFT_SUCCESS);
  REQUIRE(cufftSetStream(plan, stream.get()) == CUFFT_SUCCESS);
  REQUIRE(cufftExecD2Z(plan, in.data(), out.data()) == CUFFT_SUCCESS);
  const auto got = out.copy_to_host();
  const auto expected = slow_dft(x, {6, 10}, -1);
  for (std::size_t i = 0; i < 36; ++i) CHECK(close<double>(complex_of(got[i]), expected[i / 6 * 10 + i % 6], 60));
  REQUIRE(cufftDestroy(plan) == CUFFT_SUCCESS);
}

#if defined(ESPALIER_CUDA_EMULATION)
// What the fake does where the manual leaves room: the strictest reading.
namespace fake = espalier::fake;

TEST_CASE("fake, rule 7: the spectrum is gone after C2R out of place") {
  const Stream stream;
  const DeviceVector<float2> spectrum(std::vector<float2>(5, float2{1, 0}), stream);
  const DeviceVector<float> out(8, stream);
  const Plan plan(stream, {8}, CUFFT_C2R, 1);
  REQUIRE(cufftExecC2R(plan.get(), spectrum.data(), out.data()) == CUFFT_SUCCESS);
  CHECK(out.copy_to_host()[0] == 8.0f);
  for (const float2 v : spectrum.copy_to_host()) CHECK(std::isnan(v.x));
}

TEST_CASE("fake, rules 8, 10: nothing before the stream runs; work areas are clobbered, missing ones refused") {
  const Stream stream;
  const DeviceVector<float2> data(std::vector<float2>(8, float2{1, 0}), stream);
  int n = 8;
  cufftHandle plan = 0;
  REQUIRE(cufftPlanMany(&plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 1) == CUFFT_SUCCESS);
  // On the default stream, which a non-blocking one does not wait for.
  REQUIRE(cufftExecC2C(plan, data.data(), data.data(), CUFFT_FORWARD) == CUFFT_SUCCESS);
  CHECK(complex_of(data.copy_to_host()[0]) == Complex(1));
  gpu::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  CHECK(complex_of(data.copy_to_host()[0]) == Complex(8));
  // Another area takes the place of the automatic one, which is given back.
  const auto before = fake::memory().buffers;
  const DeviceVector<float2> area(8, stream);
  CHECK(cufftSetWorkArea(plan, data.data() + 4) == CUFFT_INVALID_VALUE);
  REQUIRE(cufftSetWorkArea(plan, area.data()) == CUFFT_SUCCESS);
  CHECK(fake::memory().buffers == before);
  gpu::check(cudaMemsetAsync(area.data(), 0, 64, stream.get()), "cudaMemsetAsync");
  REQUIRE(cufftSetStream(plan, stream.get()) == CUFFT_SUCCESS);
  REQUIRE(cufftExecC2C(plan, data.data(), data.data(), CUFFT_FORWARD) == CUFFT_SUCCESS);
  CHECK(std::isnan(area.copy_to_host()[0].x));
  REQUIRE(cufftDestroy(plan) == CUFFT_SUCCESS);

  REQUIRE(cufftCreate(&plan) == CUFFT_SUCCESS);
  REQUIRE(cufftSetAutoAllocation(plan, 0) == CUFFT_SUCCESS);
  REQUIRE(cufftMakePlanMany(plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 1, nullptr) == CUFFT_SUCCESS);
  CHECK(cufftExecC2C(plan, data.data(), data.data(), CUFFT_FORWARD) == CUFFT_NO_WORKSPACE);
  REQUIRE(cufftDestroy(plan) == CUFFT_SUCCESS);
}

TEST_CASE("fake: ranges, alignment, sizes, and plans that go too early") {
  const Stream stream;
  const DeviceVector<float2> data(std::vector<float2>(9, float2{1, 0}), stream);
  std::vector<float2> host(9);
  {
    const Plan plan(stream, {8}, CUFFT_C2C, 1);
    CHECK(cufftExecC2C(plan.get(), data.data() + 1, data.data(), 0) == CUFFT_INVALID_VALUE);
    CHECK(cufftExecC2C(plan.get(), data.data() + 2, data.data(), CUFFT_FORWARD) == CUFFT_INVALID_VALUE);
    CHECK(cufftExecC2C(plan.get(), host.data(), data.data(), CUFFT_FORWARD) == CUFFT_INVALID_VALUE);
    auto* const odd = reinterpret_cast<float2*>(reinterpret_cast<float*>(data.data()) + 1);
    CHECK(cufftExecC2C(plan.get(), odd, data.data(), CUFFT_FORWARD) == CUFFT_UNALIGNED_DATA);
    REQUIRE(cufftExecC2C(plan.get(), data.data(), data.data(), CUFFT_FORWARD) == CUFFT_SUCCESS);
  }
  CHECK(cudaStreamSynchronize(stream.get()) == cudaErrorLaunchFailure);
  CHECK(fake::device_error() == "a cuFFT plan was destroyed before its transform ran");
  fake::reset();
  cufftHandle plan = 0;
  int n = 0;
  CHECK(cufftPlanMany(&plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 1) == CUFFT_INVALID_SIZE);
  n = 8;
  CHECK(cufftPlanMany(&plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 0) == CUFFT_INVALID_SIZE);
  CHECK(cufftPlanMany(&plan, 4, &n, nullptr, 1, 0, nullptr, 1, 0, CUFFT_C2C, 1) == CUFFT_INVALID_VALUE);
  CHECK(cufftSetStream(0, stream.get()) == CUFFT_INVALID_PLAN);
  fake::set_memory_limit(100);
  CHECK(cufftPlan1d(&plan, 1024, CUFFT_R2C, 1) == CUFFT_ALLOC_FAILED);
  fake::reset();
}

TEST_CASE("the fake's own transform against the slow sum, sizes with large primes") {
  for (const auto& n : std::vector<std::vector<int>>{{1}, {2}, {97}, {128}, {210}, {6, 35}, {4, 9, 5}, {2, 1, 11}}) {
    const std::size_t points = points_of(n);
    std::vector<Complex> x(points);
    for (std::size_t i = 0; i < points; ++i) x[i] = {value_at<double>(i), value_at<double>(i + 50)};
    for (const int sign : {-1, 1}) {
      const auto expected = slow_dft(x, n, sign);
      auto got = x;
      fake::transform(got, {n.begin(), n.end()}, sign);
      for (std::size_t i = 0; i < points; ++i) CHECK(close<double>(got[i], expected[i], 2 * points));
    }
  }
}
#endif
