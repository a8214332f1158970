"""The classification head of an image model, as rows that live in its feature space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.encoders.base import Head
from featstore.encoders.checkpoint_labels import (
    LABEL_SETS,
    NO_LABEL_SET,
    label_set_of_count,
    label_set_of_tag,
)
from featstore.encoders.golden import golden_inputs
from featstore.encoders.weights import PACKAGES
from featstore.errors import EncoderError

if TYPE_CHECKING:
    from featstore.encoders.timm_image import TimmEncoder

#: Basis of a label set that nobody vouches for: it has to be checked against class names.
GUESSED = "number of classes"


def read_head(
    name: str,
    *,
    weights: str | Path | None = None,
    label_set: str | None = None,
    device: str = "cpu",
    pool: str | None = None,
) -> Head:
    """Return the head of ``timm:<model>``: weight, bias, label set and the space it lives in.

    That ``W f + b`` equals the model's logits is checked on the golden pictures first.

    Parameters
    ----------
    name : str
        As for ``open_encoder``; the head's `space` is that encoder's `space`.
    weights : str, Path or None
        As for ``open_encoder``.
    label_set : str, optional
        Which classes the rows are. By default as the weights package says, by the tag of the
        checkpoint, or by their number; ``facts["label_set_basis"]`` says which of these.
    device : str
        Where the check is computed.
    pool : str, optional
        Only to say that a pool has no head.

    Raises
    ------
    UnknownEncoderError
        If there is no such encoder.
    EncoderError
        If it has no head, its rows do not make its logits, or the number of its classes is that
        of no known label set.
    """
    from featstore.encoders.registry import check_name, open_encoder

    if check_name(name) != "timm":
        msg = f"{name} has no classification head: heads belong to timm models."
        raise EncoderError(msg)
    if pool is not None:
        msg = (
            f"The head of {name} does not live in the space of pool {pool!r}: its rows are "
            "prototypes only among the inputs of the head. Leave the pool out."
        )
        raise EncoderError(msg)
    encoder: TimmEncoder = open_encoder(name, weights=weights, device=device)  # type: ignore[assignment]
    head = head_of(encoder, label_set=label_set)
    encoder.check_head([encoder.prepare(item) for item in golden_inputs(encoder.kinds)])
    return head


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
    # A tag is knowledge of the published weights, or of what the user named with it.
    tag = encoder.facts["tag"] or ""
    tagged = "." in encoder.name or encoder.facts["weights"]["source"] == "hub"
    if tagged and (known := label_set_of_tag(tag, classes)):
        return known, "tag of the checkpoint"
    reason = NO_LABEL_SET.get(tag) if tagged else None
    guess = label_set_of_count(classes)
    if guess is None or reason:
        counts = ", ".join(f"{count:,} ({name})" for name, count in LABEL_SETS.items())
        why = reason or f"the number of no known label set. Known: {counts}"
        msg = (
            f"The head of {encoder.name} has {classes:,} classes, {why}. Say which classes its "
            "rows are with --label-set (API: label_set=), or list them in a file for "
            "--label-file (API: label_file=)."
        )
        raise EncoderError(msg)
    return guess, GUESSED
