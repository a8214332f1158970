"""For every test: hypothesis asserts no times, and tests side by side share the cores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("headstock", deadline=None)
settings.load_profile("headstock")

#: Processes that run tests side by side, pytest-xdist's.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if WORKERS > 1:
    # Before anything loads a BLAS: threads of two workers on two cores spin against one another.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // WORKERS)))


@pytest.fixture
def torch_threads() -> Iterator[int]:
    """Three threads in torch, whatever the machine has: for tests that look how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)
