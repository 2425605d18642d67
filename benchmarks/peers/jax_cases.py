# JAX: masked linear attention by FFT, as published and at its best.
# SPDX-License-Identifier: Apache-2.0
"""Both compute out_i = sum_j M_ij (phi_q_i . phi_k_j) v_j / sum_j M_ij (phi_q_i . phi_k_j) with M_ij = t[i - j + L - 1]:

    published   one complex FFT of length 2 L over all m (d + 1) columns phi_k_jr [v_j, 1] at once (Luo et al., NeurIPS 2021,
                algorithm 1; Choromanski et al., ICML 2022, section 3)
    best        two real columns a complex FFT, which a real mask allows, along contiguous memory, one feature r at a time
                (lax.scan): the fastest of the forms tried here (real FFTs take 1.15 times as long, two features at once more
                than ten times)
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np


def spectrum(table, length):
    """FFT of the circulant of size 2 L whose first L rows and columns are M: c[o] = t(o), c[2 L - o] = t(-o)."""
    column = jnp.concatenate([table[length - 1:], jnp.zeros(1, table.dtype), table[:length - 1]])
    return jnp.fft.fft(column)


def divided(result, normalize):
    return result[:, :-1] / result[:, -1:] if normalize else result[:, :-1]


@functools.partial(jax.jit, static_argnames="normalize")
def published(q, k, v, table, normalize=True):
    length = q.shape[0]
    values = jnp.concatenate([v, jnp.ones((length, 1), v.dtype)], axis=1)
    columns = k[:, :, None] * values[:, None, :]
    product = jnp.fft.fft(columns, 2 * length, axis=0) * spectrum(table, length)[:, None, None]
    mixed = jnp.fft.ifft(product, axis=0)[:length].real
    return divided(jnp.einsum("ir,irc->ic", q, mixed), normalize)


@functools.partial(jax.jit, static_argnames="normalize")
def best(q, k, v, table, normalize=True):
    length, width = v.shape
    columns = [v, jnp.ones((length, 1), v.dtype)] + ([] if width % 2 else [jnp.zeros((length, 1), v.dtype)])
    values = jnp.concatenate(columns, axis=1).T
    pairs = jax.lax.complex(values[0::2], values[1::2])
    frequencies = spectrum(table, length)

    def feature(total, row):
        q_r, k_r = row
        mixed = jnp.fft.ifft(jnp.fft.fft(k_r * pairs, 2 * length) * frequencies)[:, :length]
        return total + q_r * mixed, None

    result, _ = jax.lax.scan(feature, jnp.zeros_like(pairs), (q.T, k.T))
    result = jnp.stack([result.real, result.imag], axis=1).reshape(-1, length)
    return divided(result[:width + 1].T, normalize)


# As benchmarks/smooth_functions.hpp has them.
SMOOTH = {
    "exp(-x/200)": lambda x: np.exp(-x / 200),
    "1/(1+x/16)": lambda x: 1 / (1 + x / 16),
    "exp(-(x/300)^2)": lambda x: np.exp(-(x / 300) ** 2),
    "exp(-sqrt(x)/6)": lambda x: np.exp(-np.sqrt(x) / 6),
    "cos(x/50)exp(-x/400)": lambda x: np.cos(x / 50) * np.exp(-x / 400),
}
RANK = WIDTH = 64


def operands(comparison, length, f):
    """q, k, v and the table of f(|i - j|) as JAX takes them; the worker has them too, the table in double."""
    rng = np.random.default_rng(length)
    q, k = (np.abs(rng.standard_normal((length, RANK))).astype(np.float32) for _ in range(2))
    v = rng.standard_normal((length, WIDTH)).astype(np.float32)
    table = f(np.abs(np.arange(1.0 - length, length)))
    comparison.worker.arrays(q=q, k=k, v=v, table=table.reshape(1, -1))
    return [jnp.asarray(x) for x in (q, k, v, table.astype(np.float32))]


def transform_flops(length):
    """Both transforms of every pair of columns: 5 N log2 N flops each, N = 2 L."""
    return 2 * 5 * 2 * length * np.log2(2 * length) * np.ceil(RANK * (WIDTH + 1) / 2)


def by_fft(comparison):
    lengths = (1024, 4096, 16384) if comparison.quick else (1024, 2048, 4096, 8192, 16384, 32768)
    for length in lengths:
        inputs = operands(comparison, length, SMOOTH["1/(1+x/16)"])
        comparison.worker.case("product", "product", q="q", k="k", v="v", table="table", engine="fft")
        for name, form, bar in (("published form", published, 8.0), ("best form", best, 2.0)):
            comparison.measure(f"masked linear attention by FFT, m = d = 64, L = {length}", "JAX, " + name, "product",
                               lambda: form(*inputs).block_until_ready(), flops=transform_flops(length),
                               rounds=5 if length <= 4096 else 3, outputs=[("out", lambda r: np.asarray(r))], tolerance=1e-4,
                               bar=bar if length == 16384 else None)
        comparison.worker.ask("drop", "product")


def by_exponentials(comparison):
    """The linear-time engine (row tolerance 1e-5, its fit made beforehand) against the FFT forms of the same function. Without
    the last division: under a mask of both signs some denominators vanish."""
    for length in (16384,) if comparison.quick else (16384, 32768):
        for function, f in SMOOTH.items():
            inputs = operands(comparison, length, f)
            comparison.worker.case("product", "product", q="q", k="k", v="v", function=function, tolerance=1e-5,
                                   engine="exponentials", normalize=0)
            for name, form, bar in (("published form", published, 100.0), ("best form", best, 25.0)):
                comparison.measure(f"{function} by exponentials, m = d = 64, L = {length}", "JAX, " + name, "product",
                                   lambda: form(*inputs, normalize=False).block_until_ready(), rounds=3 if length <= 16384 else 2,
                                   outputs=[("out", lambda r: np.asarray(r))], tolerance=1e-4, bar=bar)
            comparison.worker.ask("drop", "product")


def run(comparison):
    by_fft(comparison)
    by_exponentials(comparison)
