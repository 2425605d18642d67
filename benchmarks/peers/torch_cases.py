# PyTorch on the CPU: scaled_dot_product_attention, and masked linear attention as people write it, with a dense mask.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch
import torch.nn.functional as F

D = 64


def run(comparison):
    torch.set_num_threads(1)
    for length, bias_bar in ((4096, 1.4), (16384, 1.3)):
        long_sequences(comparison, length, bias_bar)
    small_images(comparison)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def training(forward, leaves, out_bar):
    """One step: forward, then the gradients of `leaves`."""
    def step():
        for leaf in leaves:
            leaf.grad = None
        out = forward()
        out.backward(out_bar)
        return [out.detach()] + [leaf.grad for leaf in leaves]
    return step


def picks(names):
    return [(name, lambda result, i=i: result[i].numpy()) for i, name in enumerate(names)]


def long_sequences(comparison, length, bias_bar):
    """One head, no mask and a Toeplitz bias. The peer gets the bias as an L x L matrix made beforehand; ours is made from its
    2 L - 1 parameters inside the call."""
    rng, worker = np.random.default_rng(1), comparison.worker
    q, k, v, out_bar = (normal(rng, 1, 1, length, D) for _ in range(4))
    table = 0.5 * rng.standard_normal(2 * length - 1)
    worker.arrays(q=q, k=k, v=v, out_bar=out_bar, table=table.reshape(1, -1))
    tq, tk, tv, tg = (torch.from_numpy(x) for x in (q, k, v, out_bar))
    pairs = float(length) * length * D
    rounds = 9 if length <= 4096 else 3
    attention = F.scaled_dot_product_attention

    with torch.no_grad():
        worker.case("plain", "softmax", q="q", k="k", v="v")
        comparison.measure(f"softmax, L = {length}, forward", "PyTorch SDPA", "plain", lambda: attention(tq, tk, tv),
                           flops=4 * pairs, rounds=rounds, outputs=[("out", lambda r: r.numpy())], tolerance=1e-5, bar=1.1)
        worker.ask("drop", "plain")

        index = torch.arange(length)[:, None] - torch.arange(length)[None, :] + (length - 1)
        mask = torch.from_numpy(table.astype(np.float32))[index]
        del index
        worker.case("bias", "softmax", q="q", k="k", v="v", table="table", sizes=length, border=0, border_weight=0)
        comparison.measure(f"softmax with Toeplitz bias, L = {length}, forward", "PyTorch SDPA, L x L mask", "bias",
                           lambda: attention(tq, tk, tv, attn_mask=mask), flops=4 * pairs, rounds=rounds,
                           outputs=[("out", lambda r: r.numpy())], tolerance=1e-5, bar=bias_bar)
        worker.ask("drop", "bias")
        del mask

    leaves = [x.clone().requires_grad_() for x in (tq, tk, tv)]
    worker.case("step", "softmax", q="q", k="k", v="v", out_bar="out_bar")
    comparison.measure(f"softmax, L = {length}, forward + backward", "PyTorch SDPA", "step",
                       training(lambda: attention(*leaves), leaves, tg), flops=14 * pairs, rounds=rounds,
                       outputs=picks(["out", "q_bar", "k_bar", "v_bar"]), tolerance=1e-4, bar=1.1)
    worker.ask("drop", "step")


SIDE, BATCH, HEADS = 14, 16, 6


def small_images(comparison):
    """14 x 14 patches and a CLS token, one table of offsets a head. Forward, the peer gets its dense masks made beforehand;
    in training it gathers them from the tables, as learned tables need. Ours are made from the tables in every call."""
    rng, worker = np.random.default_rng(2), comparison.worker
    length = SIDE * SIDE + 1
    q, k, v, out_bar = (normal(rng, BATCH, HEADS, length, D) for _ in range(4))
    factor = rng.uniform(0.1, 1.0, (HEADS, (2 * SIDE - 1) ** 2))
    bias = 0.5 * rng.standard_normal((HEADS, (2 * SIDE - 1) ** 2))
    worker.arrays(q=q, k=k, v=v, out_bar=out_bar, factor=factor, bias=bias)
    tq, tk, tv, tg = (torch.from_numpy(x) for x in (q, k, v, out_bar))
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    y, x = y.flatten(), x.flatten()
    index = ((y[:, None] - y[None, :] + SIDE - 1) * (2 * SIDE - 1) + x[:, None] - x[None, :] + SIDE - 1).flatten()

    def dense(table, border):
        inner = table[:, index].view(HEADS, SIDE * SIDE, SIDE * SIDE)
        return F.pad(inner, (1, 0, 1, 0), value=border)

    def linear(q, k, v, mask):
        scores = (F.relu(q) @ F.relu(k).transpose(-1, -2)) * mask
        return (scores @ v) / scores.sum(-1, keepdim=True)

    def softmax(q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(BATCH, -1, -1, -1))

    pairs = float(BATCH * HEADS * length * length * D)
    # Scores: rows in whole vectors, sources in thirds of a register tile. The product with v: the same tile, but linear attention
    # with AVX-512 has one of columns, which rounds nothing up.
    name = worker.ask("set")["name"]
    lanes, sources = {"avx512": (16, 4), "avx2": (8, 2)}.get(name, (1, 1))
    rows = -(-length // lanes) * lanes
    sources = -(-length // sources) * sources
    scores = rows * sources
    product = {"linear": length * length if name == "avx512" else scores, "softmax": scores}
    # Their gradients: both kinds of scores, sums over sources for the rows, and two sums over rows for the sources.
    gradients = 2 * scores + rows * length + 2 * sources * length
    flops = 2.0 * BATCH * HEADS * D
    shared = {"q": "q", "k": "k", "v": "v", "sizes": f"{SIDE}x{SIDE}", "border": 1}
    for kind, values, border, attend, bars in (("linear", factor, 1.0, linear, (3.0, 2.0)),
                                               ("softmax", bias, 0.0, softmax, (1.1, 1.2))):
        name = {"linear": "masked ReLU linear", "softmax": "softmax, table as bias"}[kind]
        peer = {"linear": "PyTorch, dense mask", "softmax": "PyTorch SDPA"}[kind]
        table = {"linear": "factor", "softmax": "bias"}[kind]
        title = f"{name}, B = {BATCH}, H = {HEADS}, L = {length}"
        settings = dict(shared, table=table, border_weight=border)
        theirs = torch.from_numpy(values.astype(np.float32))
        with torch.no_grad():
            mask = dense(theirs, border)
            worker.case("forward", kind, **settings)
            comparison.measure(title + ", forward", peer, "forward", lambda: attend(tq, tk, tv, mask), flops=4 * pairs,
                               rounds=15, outputs=[("out", lambda r: r.numpy())], tolerance=1e-5, bar=bars[0],
                               executed=flops * (scores + product[kind]),
                               moved=q.nbytes + k.nbytes + v.nbytes + out_bar.nbytes)
        leaves = [t.clone().requires_grad_() for t in (tq, tk, tv, theirs)]
        worker.case("step", kind, out_bar="out_bar", **settings)
        # Ours has the border's three weights behind each table; the peer has none.
        inner = (2 * SIDE - 1) ** 2
        comparison.measure(title + ", forward + backward", peer, "step",
                           training(lambda: attend(*leaves[:3], dense(leaves[3], border)), leaves, tg), flops=14 * pairs,
                           rounds=9, outputs=picks(["out", "q_bar", "k_bar", "v_bar", "table_bar"]), tolerance=1e-4, bar=bars[1],
                           trim={"table_bar": lambda x: x.reshape(HEADS, -1)[:, :inner]},
                           executed=flops * (scores + product[kind] + gradients), moved=12 * q.nbytes,
                           note="gradients of q, k, v and of the tables")
    worker.case("tables", "tables", **dict(shared, table="factor", border_weight=1.0))
    worker.case("forward", "linear", **dict(shared, table="factor", border_weight=1.0))
    comparison.measure(f"with_parameters of {HEADS} learned tables", "our own linear forward pass", "tables", "forward", rounds=15,
                       bar=10.0, note="at most a tenth of a forward pass")
