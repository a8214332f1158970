"""Device and threads of torch, as far as encoders touch them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from featstore.encoders.weights import one_line
from featstore.errors import EncoderError


def checked_device(device: str) -> torch.device:
    """Return `device` as torch knows it, after a tensor has lived there.

    Raises
    ------
    EncoderError
        If this machine has no such device.
    """
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        # A build without CUDA asserts.
        msg = f"Cannot use the device '{device}': {one_line(err)} Use cpu, or one that exists."
        raise EncoderError(msg) from err
    return chosen


@contextmanager
def pinned_threads(threads: int | None) -> Iterator[None]:
    """Run torch on that many threads, and leave the process's setting as it was.

    The number of threads decides how sums are split, and so the last bits of a result.
    """
    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
