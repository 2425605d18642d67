# SciPy's expm_multiply: heat diffusion on the US road network.
# SPDX-License-Identifier: Apache-2.0
import gzip
import os

import numpy as np
import scipy.io
import scipy.sparse
import scipy.sparse.linalg


def run(comparison):
    path = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "data", "usroads.mtx.gz")
    with gzip.open(path) as file:
        adjacency = scipy.sparse.csr_matrix(scipy.io.mmread(file), dtype=np.float64)
    degrees = np.asarray(adjacency.sum(axis=1)).ravel()
    laplacian = (scipy.sparse.diags(degrees) - adjacency).tocsr()
    x = np.random.default_rng(3).standard_normal((laplacian.shape[0], 16))
    comparison.worker.arrays(x=x)
    # At t = 140 the peer takes minutes: once, without a warm-up; --quick leaves it out.
    for time, rounds, bar in ((1, 5, None), (14, 2, None), (140, 1, 80.0)):
        if comparison.quick and time > 1:
            break
        comparison.worker.case("diffusion", "diffusion", graph=path, x="x", time=time, tolerance=1e-6)
        if rounds == 1:
            comparison.worker.run("diffusion")
        comparison.measure(f"exp(-t L) X, usroads, 16 columns, double, t = {time}", "SciPy expm_multiply", "diffusion",
                           lambda t=time: scipy.sparse.linalg.expm_multiply(-t * laplacian, x), rounds=rounds,
                           outputs=[("y", lambda r: r)], tolerance=1e-5, bar=bar, note="tolerance 1e-6, set-up counted")
