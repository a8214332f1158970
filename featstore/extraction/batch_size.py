"""``--batch-size auto``: the largest batch that fits, found by halving, and remembered.

The size is settled before the first block, because it is part of the plan: blocks of another
size may differ in bits. A job that is resumed takes the size that it was begun with.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import Any, Literal

from featstore.encoders.base import IMAGE_KINDS, Encoder
from featstore.encoders.golden import golden_inputs
from featstore.extraction.batches import BatchRunner
from featstore.keys import SHORT, space_id

logger = logging.getLogger(__name__)

#: What is tried first on a device other than the CPU.
FIRST_GUESS = 256

#: Words of the text that is tried: longer than any context, it is cut.
_LONG_TEXT = "photograph " * 2048


def settle_batch_size(
    encoder: Encoder,
    asked: int | Literal["auto"] | None,
    *,
    begun: int | None,
    device: str,
    precision: str,
) -> int:
    """Return the items of a batch.

    Parameters
    ----------
    asked : int, "auto" or None
        None is the encoder's own.
    begun : int, optional
        Size with which an interrupted attempt was begun; a number that was asked for wins.
    device, precision : str
        What a size is remembered for, beside the encoder.

    Raises
    ------
    EncoderError
        If not even one item fits.
    """
    if isinstance(asked, int):
        return asked
    if begun is not None:
        return begun
    if asked is None:
        return encoder.batch_size
    name = _entry(encoder, device, precision)
    guess = remembered_sizes().get(name)
    if guess is None:
        guess = encoder.batch_size if device == "cpu" else FIRST_GUESS
    runner = BatchRunner(encoder, guess, device=device, halve=True)
    runner.encode([_largest_input(encoder)] * guess)
    remember_size(encoder, runner.limit, device=device, precision=precision)
    return runner.limit


def remember_size(encoder: Encoder, size: int, *, device: str, precision: str) -> None:
    """Write down which size fits; a cache that cannot be written only costs time."""
    path = cache_file()
    sizes = {**remembered_sizes(), _entry(encoder, device, precision): size}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        staged.write_text(json.dumps(sizes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        staged.replace(path)
    except OSError as err:
        logger.warning("Cannot remember the batch size in %s: %s.", path, err.strerror or err)


def remembered_sizes() -> dict[str, int]:
    """Return encoder, device and precision -> size; empty if nothing readable is there."""
    found: Any = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        return {}
    return {name: size for name, size in found.items() if type(size) is int and size > 0}


def cache_file() -> Path:
    """Return where sizes are remembered: $XDG_CACHE_HOME or ~/.cache, headstock."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if base else Path.home() / ".cache"
    return folder / "headstock" / "batch_sizes.json"


def _entry(encoder: Encoder, device: str, precision: str) -> str:
    return f"{encoder.name} {space_id(encoder.space)[:SHORT]} {_device_name(device)} {precision}"


def _device_name(device: str) -> str:
    """Return the model of a device: what fits is a matter of that."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return device


def _largest_input(encoder: Encoder) -> Any:
    """Return an input that needs as much memory as any."""
    if IMAGE_KINDS & encoder.kinds:
        return encoder.prepare(golden_inputs(encoder.kinds)[0])
    return encoder.prepare(_LONG_TEXT)
