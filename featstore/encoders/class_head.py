"""The classification head of an image model, as rows that live in its feature space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.encoders.base import Head
from featstore.encoders.weights import PACKAGES
from featstore.errors import EncoderError

if TYPE_CHECKING:
    from featstore.encoders.timm_image import TimmEncoder

#: timm's label sets by number of classes: no two of them share a count.
LABEL_SETS: dict[int, str] = {
    1000: "imagenet1k",
    11221: "imagenet21k_miil",
    11821: "imagenet12k",
    21841: "imagenet22k",
    21842: "imagenet22k_ms",
    21843: "imagenet21k_goog",
}


def read_head(
    name: str, *, weights: str | Path | None = None, label_set: str | None = None
) -> Head:
    """Return the head of ``timm:<model>``: weight, bias, label set and the space it lives in.

    Parameters
    ----------
    name : str
        As for ``open_encoder``; the head's `space` is that encoder's `space`.
    weights : str, Path or None
        As for ``open_encoder``.
    label_set : str, optional
        Which classes the rows are. By default as the weights package says, or by their number.

    Raises
    ------
    UnknownEncoderError
        If there is no such encoder.
    EncoderError
        If it has no head, or the number of its classes is that of no known label set.
    """
    from featstore.encoders.registry import check_name, open_encoder

    if check_name(name) != "timm":
        msg = f"{name} has no classification head: heads belong to timm models."
        raise EncoderError(msg)
    encoder: TimmEncoder = open_encoder(name, weights=weights)  # type: ignore[assignment]
    return head_of(encoder, label_set=label_set)


def head_of(encoder: TimmEncoder, *, label_set: str | None = None) -> Head:
    """Return the head of an encoder that is open already; parameters as for `read_head`.

    Raises
    ------
    EncoderError
        If the number of its classes is that of no known label set.
    """
    weight, bias = encoder.head_arrays()
    chosen, basis = _label_set(encoder, len(weight), label_set)
    return Head(
        name=encoder.name,
        weight=weight,
        bias=np.zeros(len(weight), np.float32) if bias is None else bias,
        label_set=chosen,
        space=encoder.space,
        facts={**encoder.facts, "has_bias": bias is not None, "label_set_basis": basis},
    )


def _label_set(encoder: TimmEncoder, classes: int, asked: str | None) -> tuple[str, str]:
    """Return the label set of a head, and what that is based on."""
    if asked is not None:
        return asked, "asked for"
    package = PACKAGES.get(encoder.facts["weights"].get("package", ""))
    if package is not None and package.label_set is not None:
        return package.label_set, "weights package"
    if classes not in LABEL_SETS:
        known = ", ".join(f"{count:,} ({name})" for count, name in sorted(LABEL_SETS.items()))
        msg = (
            f"The head of {encoder.name} has {classes:,} classes, the number of no known label "
            f"set. Known: {known}. Say which classes its rows are with --label-set "
            "(API: label_set=)."
        )
        raise EncoderError(msg)
    return LABEL_SETS[classes], "number of classes"
