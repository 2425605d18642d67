// A data race on purpose: two threads of one parallel region add to the same variable. The thread sanitizer must find it.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

int main() {
  long sum = 0;
#pragma omp parallel num_threads(2)
  for (int i = 0; i < 100000; ++i) {
    sum += i;
  }
  std::printf("%ld\n", sum);
  return 0;
}
