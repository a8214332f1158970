"""Workers that compute with one thread each."""

from __future__ import annotations

import os


def single_thread() -> None:
    """Bind this process to one thread, so that results do not depend on how many there are."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Libraries that are loaded later read the environment; those that are here are told. A worker
    # begins without NumPy: with two threads of BLAS each, two workers spin against one another, and
    # the demo's benchmark takes seven times as long.
    for name in ("POLARS_MAX", "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM"):
        os.environ[f"{name}_THREADS"] = "1"
    threadpool_limits(limits=1)
