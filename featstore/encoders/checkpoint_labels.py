"""Which classes the rows of a checkpoint's head are, by its tag: a table, needing no network."""

from __future__ import annotations

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


def label_set_of_count(classes: int) -> str | None:
    """Return the one known label set with that many classes: a guess, not knowledge."""
    return next((name for name, count in LABEL_SETS.items() if count == classes), None)
