"""Kernel ridge against a bare float32 Cholesky, and what a head of 21,841 rows costs as a whole.

python -m tests.perf.kernel_ridge --prototypes 21841 --columns 1024

prints the seconds and the anonymous memory of choosing and fitting, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.perf.engine import Figure, compare, one_run
from tests.perf.scan_memory import sampled

SECONDS, MEMORY = 120.0, 4 * 2**30
"""What choice and fit on the head of `PROTOTYPES` rows may take."""

PROTOTYPES, COLUMNS = 21_841, 1024
"""As many classes as ImageNet-21k's heads have, of a large model."""


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
    from fitters.kernels import DOUBLE_ROWS, gaussian

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
    yield from whole_head()


def whole_head() -> Iterator[Figure]:
    """Yield seconds and memory of choice and fit on a large head, from one fresh process."""
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tests.perf.kernel_ridge", "--json"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    size = f"{PROTOTYPES:,} × 384→{COLUMNS:,}, one run of {found['seconds']:.0f} s"
    for name, ratio, against in (
        ("fit.kernel_ridge_large", SECONDS / found["seconds"], f"{SECONDS:.0f} s, {size}"),
        ("fit.kernel_ridge_memory", MEMORY / found["bytes"], f"4 GiB, {size}"),
    ):
        yield one_run(name, ratio, against=against, cpu_seconds=found["cpu_seconds"])


def main() -> int:
    """Choose and fit on synthetic prototypes; print seconds and peak anonymous memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prototypes", type=int, default=PROTOTYPES)
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    from fitters import Pairs, fit

    pairs = Pairs(*prototypes(arguments.prototypes, arguments.columns))
    wall, cpu = time.perf_counter(), time.process_time()
    with sampled(0.002) as seen:
        made = fit("kernel-ridge", prototypes=pairs, rng=np.random.default_rng(0))
    facts = made.facts["choice"]
    found = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        # All of the process, the prototypes and the libraries included.
        "bytes": max(seen),
        "gamma": facts["gamma"],
        "penalty": facts["penalty"],
        "edges": facts["edges"],
        "residual": made.aligner.residual_,
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"choice and fit: {found['seconds']:.0f} s, {found['cpu_seconds']:.0f} CPU s, peak "
            f"{found['bytes'] / 2**30:.2f} GiB; gamma {found['gamma']:g}, penalty "
            f"{found['penalty']:g} {found['edges']}, residual {found['residual']:.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
