"""Kernel ridge against a bare float32 Cholesky; run alone, the cost of 21,841 prototypes.

python -m tests.perf.kernel_ridge --prototypes 21841 --columns 1024
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.perf.engine import Figure, compare


def prototypes(n, columns):
    """Return n rows of clustered texts and of a head that bends with them, float32."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    centres = drawn(800, 384)
    texts = centres[rng.integers(800, size=n)] + drawn(n, 384)
    hidden = np.tanh(texts @ drawn(384, 256) / 10)
    return hidden @ drawn(256, columns) + 8 * drawn(n, columns), texts


def figures(_: Path) -> Iterator[Figure]:
    """Yield the line ``fit.kernel_ridge``."""
    import scipy.linalg

    from fitters import KernelRidgeAligner
    from fitters.feature_maps import gaussian
    from fitters.kernel.solvers import DOUBLE_ROWS

    # Just enough rows for the way that large heads take.
    head, texts = prototypes(DOUBLE_ROWS + 144, 256)
    aligner = KernelRidgeAligner(gamma=4.0, alpha=0.01)
    aligner.fit(head, texts)
    system = gaussian(aligner.support_, aligner.support_, aligner.gamma_, dtype=np.float32)
    system[np.diag_indices_from(system)] += np.float32(0.01)

    def bare() -> None:
        factor = scipy.linalg.cho_factor(system.T, lower=True, check_finite=False)
        scipy.linalg.cho_solve(factor, head, check_finite=False)

    yield compare(
        "fit.kernel_ridge",
        lambda: aligner.fit(head, texts),
        bare,
        against=f"float32 Cholesky and solve, {len(head):,} rows, kernel given",
    )


def main() -> int:
    """Choose and fit on synthetic prototypes; print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prototypes", type=int, default=21_841)
    parser.add_argument("--columns", type=int, default=1024)
    arguments = parser.parse_args()

    from fitters import Pairs, fit_alignment

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    head, texts = prototypes(arguments.prototypes, arguments.columns)
    pairs = Pairs(head, texts)
    print(f"data: peak {peak():.2f} GiB")
    choice = {}
    for step in ("choice and fit", "fit alone"):
        wall, cpu = time.perf_counter(), time.process_time()
        made = fit_alignment(
            "kernel-ridge", prototypes=pairs, rng=np.random.default_rng(0), **choice
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        facts = made.facts["choice"]
        choice = {name: facts[name] for name in ("gamma", "penalty")}
        print(
            f"{step}: {wall:.0f} s, {cpu:.0f} CPU s, peak {peak():.2f} GiB; "
            f"gamma {choice['gamma']:g}, penalty {choice['penalty']:g}, "
            f"residual {made.aligner.residual_:.1e}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
