"""In which precision to train, and on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bf16"]
PRECISIONS = ("auto", "float32", "bf16")


@cache
def gains_from_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices in hardware: AMX or AVX-512's.

    With AVX-512's (Zen 5) products ran four to five times as fast as in float32, 868 beside 163
    Gflop/s on two cores, and the paper's head trained in half the time. Where bfloat16 is emulated
    it takes ten times as long.
    """
    return any(flag in _processor_flags() for flag in ("amx_bf16", "avx512_bf16"))


def _processor_flags() -> frozenset[str]:
    facts = Path("/proc/cpuinfo")
    if not facts.exists():
        return frozenset()
    lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def resolve(precision: Precision) -> Literal["float32", "bf16"]:
    """Return what "auto" means here: bf16 where the processor gains from it."""
    if precision == "auto":
        return "bf16" if gains_from_bf16() else "float32"
    return precision


@contextmanager
def blas_threads() -> Iterator[int]:
    """Run torch on as many threads as NumPy's BLAS may use, and give the old number back.

    So one limit holds for all of a fit: ``threadpoolctl.threadpool_limits``, OPENBLAS_NUM_THREADS.
    """
    import torch
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    allowed = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    torch.set_num_threads(min([before, *allowed]))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
