# JAX: masked linear attention by FFT, as published and at its best.
# SPDX-License-Identifier: Apache-2.0
"""Both compute out_i = sum_j M_ij (phi_q_i . phi_k_j) v_j / sum_j M_ij (phi_q_i . phi_k_j) with M_ij = t[i - j + L - 1]:

    published   one complex FFT of length 2 L over all m (d + 1) columns phi_k_jr [v_j, 1] at once (Luo et al., NeurIPS 2021,
                algorithm 1; Choromanski et al., ICML 2022, section 3)
    best        two real columns a complex FFT, which a real mask allows, along contiguous memory, one feature r at a time
                (lax.scan): the fastest of the forms tried here (real FFTs take 1.15 times as long, two features at once more
                than ten times)
"""
import jax
import jax.numpy as jnp
import numpy as np


def spectrum(table, length):
    """FFT of the circulant of size 2 L whose first L rows and columns are M: c[o] = t(o), c[2 L - o] = t(-o)."""
    column = jnp.concatenate([table[length - 1:], jnp.zeros(1, table.dtype), table[:length - 1]])
    return jnp.fft.fft(column)


@jax.jit
def published(q, k, v, table):
    length = q.shape[0]
    values = jnp.concatenate([v, jnp.ones((length, 1), v.dtype)], axis=1)
    columns = k[:, :, None] * values[:, None, :]
    product = jnp.fft.fft(columns, 2 * length, axis=0) * spectrum(table, length)[:, None, None]
    mixed = jnp.fft.ifft(product, axis=0)[:length].real
    result = jnp.einsum("ir,irc->ic", q, mixed)
    return result[:, :-1] / result[:, -1:]


@jax.jit
def best(q, k, v, table):
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
    return (result[:width] / result[width:width + 1]).T


def run(comparison):
    rank = width = 64
    lengths = (1024, 4096, 16384) if comparison.quick else (1024, 2048, 4096, 8192, 16384, 32768)
    for length in lengths:
        rng = np.random.default_rng(length)
        q, k = (np.abs(rng.standard_normal((length, rank))).astype(np.float32) for _ in range(2))
        v = rng.standard_normal((length, width)).astype(np.float32)
        table = 1 / (1 + np.abs(np.arange(1 - length, length)) / 16)
        comparison.worker.arrays(q=q, k=k, v=v, table=table.reshape(1, -1))
        inputs = [jnp.asarray(x) for x in (q, k, v, table.astype(np.float32))]
        comparison.worker.case("product", "product", q="q", k="k", v="v", table="table", engine="fft")
        # Both transforms of every pair of columns: 5 N log2 N flops each, N = 2 L.
        flops = 2 * 5 * 2 * length * np.log2(2 * length) * np.ceil(rank * (width + 1) / 2)
        rounds = 5 if length <= 4096 else 3
        for name, form, bar in (("published form", published, 8.0), ("best form", best, 2.0)):
            comparison.measure(f"masked linear attention by FFT, m = d = 64, L = {length}", "JAX, " + name, "product",
                               lambda: form(*inputs).block_until_ready(), flops=flops, rounds=rounds,
                               outputs=[("out", lambda r: np.asarray(r))], tolerance=1e-4,
                               bar=bar if length == 16384 else None)
        comparison.worker.ask("drop", "product")
