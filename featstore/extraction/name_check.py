"""Check the rows of a head against embeddings of its class names, wherever these come from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder, Head
from featstore.errors import EncoderError
from featstore.extraction.row_order import MIN_CLASSES, RowOrder, check_row_order
from featstore.store.opening import open_store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NameCheck:
    """The result of a check that was passed."""

    against: str
    """Key of the class_name set, or name of the encoder, that the names came from."""
    order: RowOrder

    def facts(self) -> dict[str, Any]:
        """Return what a run records."""
        return {
            "against": self.against,
            "correlation": round(self.order.correlation, 4),
            "p_value": self.order.p_value,
            "permutations": self.order.permutations,
            "classes": self.order.classes,
        }


def check_against_store(head: Head, classes: pl.DataFrame, store: Path) -> NameCheck | None:
    """Check a head against the class_name sets of its label set in a store.

    The first set, by key, that embeds at least 50 classes with a name of their own is taken,
    whichever text encoder made it; its prompts are averaged per class.

    Returns
    -------
    NameCheck or None
        None if the store has no such set.

    Raises
    ------
    EncoderError
        If the rows are in another order.
    """
    if not (store / "zarr.json").is_file():
        return None
    opened = open_store(store)
    for info in opened.sets():
        if (info.key.dataset, info.key.kind) != (head.label_set, "class_name"):
            continue
        texts = opened.view(str(info.key)).class_texts()
        names = np.zeros((classes.height, texts.dim), np.float32)
        place = {class_id: row for row, class_id in enumerate(texts.items["class_id"])}
        rows = np.array([place.get(class_id, -1) for class_id in classes["class_id"]])
        names[rows >= 0] = texts.numpy(np.float32)[rows[rows >= 0]]
        usable = (rows >= 0) & ~classes["shared_name"].to_numpy()
        if np.count_nonzero(usable) >= MIN_CLASSES:
            return _checked(head, names, usable, str(info.key))
    return None


def check_against_encoder(head: Head, classes: pl.DataFrame, encoder: Encoder) -> NameCheck:
    """Check a head against the names of its classes, encoded now: each bare, without a prompt.

    Raises
    ------
    EncoderError
        If the encoder takes no class names, fewer than 50 classes have a name of their own, or
        the rows are in another order.
    """
    if "class_name" not in encoder.kinds:
        msg = f"{encoder.name} encodes no texts; check the names with a text encoder, st:NAME."
        raise EncoderError(msg)
    texts = classes["name"].to_list()
    size = encoder.batch_size
    names = np.concatenate(
        [
            encoder.encode([encoder.prepare(text) for text in texts[start : start + size]])
            for start in range(0, len(texts), size)
        ]
    )
    return _checked(head, names, ~classes["shared_name"].to_numpy(), encoder.name)


def _checked(head: Head, names: np.ndarray, usable: np.ndarray, against: str) -> NameCheck:
    order = check_row_order(head.weight, names, usable=usable)
    if not order.agrees:
        msg = (
            f"The rows of the head of {head.name} are not in the order of label set "
            f"{head.label_set!r}: by {against}, {order.describe()}. Give the classes in the order "
            "of the rows with --label-file (API: label_file=), or the label set that they are."
        )
        raise EncoderError(msg)
    logger.info("head of %s against %s: %s", head.name, against, order.describe())
    return NameCheck(against, order)
