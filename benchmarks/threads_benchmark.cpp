// What a second thread gains, set against what the machine's own peak gains from it in the same moments.
// SPDX-License-Identifier: Apache-2.0
//
// threads_benchmark [repeats (9)] [tokens of the smooth masks (65536)]
// One round: peak and product on one thread, peak and product on two, all by wall time. Rounds in which the peak itself gains
// less than 1.7 (another program had a core) are set aside and counted. The table gives medians over the other rounds.
#include <espalier/core/random.hpp>
#include <espalier/masks/grid.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "peak.hpp"
#include "smooth_functions.hpp"

namespace {

using namespace espalier;
using namespace espalier::benchmark;

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

double wall_time(const std::function<void()>& work) {
  const double start = seconds(CLOCK_MONOTONIC);
  work();
  return seconds(CLOCK_MONOTONIC) - start;
}

// Seconds of the same number of multiply-adds on every one of `threads` threads.
double peak_time(int threads) {
  // Threads of the product before may still wait for work, spinning.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto loops = [] {
    for (int r = 0; r < 40; ++r) peak_loop();
  };
  return wall_time([&] {
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(loops);
    loops();
    for (std::thread& t : others) t.join();
  });
}

template <class T>
void row(const std::string& name, const Mask<T>& mask, Index m, int repeats) {
  const Index n = mask.rows();
  std::vector<T> a(static_cast<std::size_t>(n * m)), b(a), x(a), y(a), r(static_cast<std::size_t>(n));
  const Random random(1);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<T>(random.uniform(3 * i));
    b[i] = static_cast<T>(random.uniform(3 * i + 1));
    x[i] = static_cast<T>(random.normal(3 * i + 2));
  }
  const auto product = [&](int threads) {
    const Context<Cpu> context{.threads = threads};
    return wall_time([&] {
      mask.multiply_low_rank({{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, m}}, {{y.data(), n, m}, {r.data(), n}},
                             context);
    });
  };
  product(2);
  std::vector<double> gains, peaks, shares, times;
  int aside = 0;
  for (int k = 0; k < repeats; ++k) {
    const double peak_one = peak_time(1), one = product(1), peak_two = peak_time(2), two = product(2);
    const double peak_gain = 2 * peak_one / peak_two;
    if (peak_gain < 1.7) {
      ++aside;
      continue;
    }
    gains.push_back(one / two);
    peaks.push_back(peak_gain);
    shares.push_back(one / two / peak_gain);
    times.push_back(one);
  }
  const char* type = sizeof(T) == 4 ? "float" : "double";
  if (gains.empty()) {
    std::printf("%-7s %-34s every round set aside: the peak gained less than 1.7\n", type, name.c_str());
  } else {
    std::printf("%-7s %-34s %9.2f %7.2f %7.2f %8.2f %7d\n", type, name.c_str(), median(times) * 1e3, median(gains),
                median(peaks), median(shares), aside);
  }
  std::fflush(stdout);
}

template <class T>
void rows(int repeats, Index length) {
  GridOptions direct;
  direct.engine = "direct";
  row("tiles, 4096 tokens", GridMask<T>({4096}, Rational{16}, Distance::l1, direct), 64, repeats);
  row("tiles, 64 x 64", GridMask<T>({64, 64}, Rational{16}, Distance::l1, direct), 64, repeats);
  GridOptions smooth;
  smooth.engine = "exponentials";
  smooth.tolerance = 1e-5;
  for (const NamedFunction& named : smooth_functions()) {
    row("exponentials, " + named.name, GridMask<T>({length}, named.f, Distance::l1, smooth), 64, repeats);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 9;
  const espalier::Index length = argc > 2 ? std::atol(argv[2]) : 65536;
  if (repeats < 1 || length < 1) {
    std::fprintf(stderr, "usage: threads_benchmark [repeats] [tokens], both at least 1\n");
    return 2;
  }
  std::printf("m = c = 64, median of up to %d rounds; gain: wall time of one thread over that of two\n", repeats);
  std::printf("%-7s %-34s %9s %7s %7s %8s %7s\n", "type", "product", "1 thr. ms", "gain", "peak's", "share", "aside");
  rows<float>(repeats, length);
  rows<double>(repeats, length);
  return 0;
}
