# FFTW by itself: what the transforms inside a Toeplitz product cost at least.
# SPDX-License-Identifier: Apache-2.0


def run(comparison):
    length, columns = 4096, 1024
    comparison.worker.case("columns", "columns", length=length, columns=columns)
    comparison.worker.case("transforms", "transforms", length=length, columns=columns)
    # The peer computes only a part of the product: its ratio is below 1, and 1 / 1.6 is the bar.
    comparison.measure(f"Toeplitz product by FFT, L = {length}, {columns} columns, token-major", "bare FFTW transforms", "columns",
                       "transforms", rounds=15, bar=1 / 1.6, note="at most 1.6 times the bare transforms")
