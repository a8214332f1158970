"""One name for the two towers of an open_clip model: the kind of item says which is meant."""

from __future__ import annotations

from pathlib import Path

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS
from featstore.encoders.open_clip_image import OpenClipImageEncoder
from featstore.encoders.open_clip_model import check_open_clip_name, load_pair
from featstore.encoders.open_clip_text import OpenClipTextEncoder
from featstore.encoders.precision import checked_precision
from featstore.encoders.torch_runtime import checked_device
from featstore.encoders.weights import parse_weights
from featstore.errors import EncoderError

__all__ = ["check_open_clip_name", "open_open_clip"]


def open_open_clip(
    name: str,
    *,
    kind: str | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
    precision: str = "float32",
) -> OpenClipImageEncoder | OpenClipTextEncoder:
    """Build one tower of ``oc:<model>/<tag>``, or of ``oc:<model>`` with given weights.

    Parameters
    ----------
    name, weights, device, batch_size, threads, precision
        As for ``open_encoder``.
    kind : str
        ``image``, or ``caption`` or ``class_name``: the items to encode.

    Raises
    ------
    UnknownEncoderError
        If open_clip has no such model or tag.
    EncoderError
        If no tower is named, the weights do not come or do not fit, or the tag was trained with
        another activation.
    """
    check_open_clip_name(name.partition(":")[2])
    if kind not in IMAGE_KINDS | TEXT_KINDS:
        known = ", ".join(sorted(IMAGE_KINDS | TEXT_KINDS))
        msg = f"{name} has two towers: say kind=, one of {known}. Got {kind!r}."
        raise EncoderError(msg)
    source = parse_weights(weights, encoder=name)
    checked_precision(precision, checked_device(device))
    pair = load_pair(name, source)
    tower = OpenClipImageEncoder if kind in IMAGE_KINDS else OpenClipTextEncoder
    return tower(pair, device=device, batch_size=batch_size, threads=threads, precision=precision)
