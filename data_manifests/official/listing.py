"""What a reader found in a copy of a dataset: images with splits and labels, perhaps captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

#: Columns of a listing's images; others are kept as they are.
IMAGE_SCHEMA = {"path": pl.String(), "split": pl.String(), "label": pl.String()}

#: Columns of a listing's captions: the caption's key, its image's path, and its text.
CAPTION_SCHEMA = {"key": pl.String(), "path": pl.String(), "text": pl.String()}


@dataclass(frozen=True)
class Listing:
    """What a copy of a dataset holds, in the words of the dataset."""

    images: pl.DataFrame
    """One row an image: path below the root, split, label (null without classes), and what else
    is known of it."""

    labels: Sequence[str] = ()
    """The labels in the order of the class index; empty for datasets without classes."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Label -> plain name, where the dataset itself has names beside its labels."""

    captions: pl.DataFrame | None = None
    """One row a caption."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Split -> uint8 pictures (n, height, width[, 3]) of datasets that are no image files."""

    classes: pl.DataFrame | None = None
    """The whole label set, where one exists already; then `labels` are its synsets."""


def image_frame(rows: Iterable[tuple[str, str, str | None]], **columns: Any) -> pl.DataFrame:
    """Return images as (path, split, label) rows, with further columns as lists."""
    frame = pl.DataFrame(list(rows), schema=IMAGE_SCHEMA, orient="row")
    return frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def caption_frame(rows: Iterable[tuple[str, str, str]]) -> pl.DataFrame:
    """Return captions as (key, path of the image, text) rows."""
    return pl.DataFrame(list(rows), schema=CAPTION_SCHEMA, orient="row")


def sorted_labels(rows: Iterable[tuple[str, str, str | None]]) -> list[str]:
    """Return the labels that occur, sorted."""
    return sorted({label for _, _, label in rows if label is not None})


def pixels_frame(labels: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return the images of a dataset of arrays: ``images/<split>/<number>.png``, in its order."""
    return image_frame(
        (f"images/{split}/{number:05d}.png", split, label)
        for split, own in labels.items()
        for number, label in enumerate(own)
    )
