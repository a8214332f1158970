"""Classification heads: their rows, their bias, and the names of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.encoders.base import Head
from featstore.encoders.golden import golden_inputs
from featstore.encoders.weights import PACKAGES
from featstore.errors import EncoderError

if TYPE_CHECKING:
    from featstore.encoders.timm_image import TimmEncoder

#: Label sets of image heads, with their number of classes: no two of them share a count.
LABEL_SETS: dict[str, int] = {
    "imagenet1k": 1_000,
    "imagenet12k": 11_821,
    "imagenet21k_goog": 21_843,
    "imagenet21k_miil": 11_221,
    "imagenet21k_miil_w21": 10_450,
    "imagenet22k": 21_841,
    "imagenet22k_ms": 21_842,
    "inat21": 10_000,
}

#: What a part of timm's tags says of the classes; the count tells apart what one name covers.
_DATASETS: dict[str, tuple[str, ...]] = {
    "in1k": ("imagenet1k",),
    "in12k": ("imagenet12k",),
    "in21k": ("imagenet21k_goog", "imagenet21k_miil", "imagenet21k_miil_w21"),
    "in22k": ("imagenet22k", "imagenet22k_ms"),
    "inat21": ("inat21",),
}

#: Checkpoints with outputs that are no known classes, by tag or by how the tag begins: known to
#: be unknown. Image-text models project onto a shared space there.
NO_LABEL_SET: dict[str, str] = {
    "fb_inw21k": "19,168 classes of ImageNet's winter 2021 release, whose order timm does not ship",
    "bamboo": "115,217 classes of the Bamboo data set, whose names timm does not ship",
    "fb_dino": "outputs of a model that was trained without labels",
}


def label_set_of_tag(tag: str, classes: int) -> str | None:
    """Return the label set that a checkpoint was last trained on.

    Parameters
    ----------
    tag : str
        Of a timm checkpoint: ``augreg_in21k``, ``fb_in22k_ft_in1k``. The last data set counts.
    classes : int
        Number of rows of its head.

    Returns
    -------
    str or None
        None if the tag names no data set whose label set has that many classes.

    Examples
    --------
    >>> label_set_of_tag("fb_in22k_ft_in1k_384", 1000)
    'imagenet1k'
    >>> label_set_of_tag("miil_in21k", 11_221)
    'imagenet21k_miil'
    """
    last = next((part for part in reversed(tag.split("_")) if part in _DATASETS), None)
    named = _DATASETS.get(last or "", ())
    return next((name for name in named if LABEL_SETS[name] == classes), None)


#: Basis of a label set that is only a guess: it has to be checked against class names.
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
        raise EncoderError(f"{name} has no classification head: heads belong to timm models.")
    if pool is not None:
        raise EncoderError(
            f"The head of {name} does not live in the space of pool {pool!r}: its rows are "
            "prototypes only among the inputs of the head. Leave the pool out."
        )
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


def _label_set(encoder: TimmEncoder, classes: int, requested: str | None) -> tuple[str, str]:
    """Return the label set of a head, and what that is based on."""
    if requested is not None:
        return requested, "asked for"
    package = PACKAGES.get(encoder.facts["weights"].get("package", ""))
    if package is not None and package.label_set is not None:
        return package.label_set, "weights package"
    # A tag is knowledge of the published weights, or of what the user named with it.
    tag = encoder.facts["tag"] or ""
    tagged = "." in encoder.name or encoder.facts["weights"]["source"] == "hub"
    if tagged and (known := label_set_of_tag(tag, classes)):
        return known, "tag of the checkpoint"
    reason = NO_LABEL_SET.get(tag) if tagged else None
    # No two known sets have as many: a guess, not knowledge.
    guess = next((name for name, count in LABEL_SETS.items() if count == classes), None)
    if guess is None or reason:
        counts = ", ".join(f"{count:,} ({name})" for name, count in LABEL_SETS.items())
        why = reason or f"the number of no known label set. Known: {counts}"
        raise EncoderError(
            f"The head of {encoder.name} has {classes:,} classes, {why}. Say which classes its "
            "rows are with -s label_set= (API: label_set=), or list them in a file in "
            "place of MANIFEST (API: label_file=)."
        )
    return guess, GUESSED
