"""Compute precision of a forward pass: explicit, never what a library happened to default to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from featstore.errors import EncoderError

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def checked_precision(precision: str, device: torch.device) -> str:
    """Return `precision` if this device can compute in it.

    Raises
    ------
    EncoderError
        If it is no precision, or float16 on a CPU, where many layers lack it.
    """
    if precision not in PRECISIONS:
        msg = f"The precision must be one of {', '.join(PRECISIONS)}; got {precision!r}."
        raise EncoderError(msg)
    if precision == "float16" and device.type == "cpu":
        msg = "float16 is computed on GPUs only. On a CPU take bfloat16, or float32."
        raise EncoderError(msg)
    return precision


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Run a forward pass in `precision`: autocast for the short ones, true float32 otherwise.

    TF32 and reduced-precision float32 products are off in float32, whatever the process chose:
    they change the bits, so they are not float32. The process's own choice is put back.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        if precision == "float32":
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            with torch.autocast(device.type, dtype=_AUTOCAST[precision]):
                yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
