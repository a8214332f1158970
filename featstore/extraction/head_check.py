"""Checks that row and class name of a head belong together.

Classes that look alike tend to have names that mean alike, so in the right order the cosines
among head rows go with the cosines among name embeddings. Two questions are asked, because one
is not enough: label sets are sorted by meaning, so that a list shifted by one still correlates
half as well as the right one, far above every random order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.command_line import StorePlace
from featstore.encoders.base import Encoder, Head, encode_texts
from featstore.errors import EncoderError
from featstore.store.store import open_store

#: Classes that are looked at; more only take longer.
SAMPLE = 500
PERMUTATIONS = 999
#: Largest p-value at which the order is believed: none of 999 random orders does as well.
P_MAX = 0.001
#: Names that many places away, before and behind, must fit a row less well than its own.
SHIFTS = 5
#: Parts of the list, in order, in each of which that must hold, and classes a part needs.
PARTS = 4
PART_CLASSES = 100
#: With fewer classes, right orders are too often taken for wrong ones.
MIN_CLASSES = 50


@dataclass(frozen=True)
class RowOrder:
    """How well the rows of a head and a list of class names go together."""

    correlation: float
    """Between the cosines among rows and the cosines among names, over pairs of classes."""
    p_value: float
    """(1 + permutations that correlate at least as well) / (1 + permutations)."""
    permutations: int
    classes: int
    """How many were looked at."""
    shifted: tuple[int, int, int] | None
    """First part of the list that fits better when shifted: first row, end, and by how much."""

    @property
    def agrees(self) -> bool:
        """Whether this is the order of the rows."""
        return self.p_value <= P_MAX and self.shifted is None

    def describe(self) -> str:
        """Return what was found, as part of a sentence."""
        message = (
            f"over {self.classes:,} classes the cosines among rows and among names correlate by "
            f"{self.correlation:.3f} (p = {self.p_value:.3g} of {self.permutations:,} permutations)"
        )
        if self.shifted is None:
            return message
        first, end, by = self.shifted
        where = "behind" if by > 0 else "before"
        return (
            f"{message}, and rows {first:,} to {end - 1:,} fit the names {abs(by)} {where} better "
            "than their own"
        )


def check_row_order(
    weight: np.ndarray,
    names: np.ndarray,
    *,
    usable: np.ndarray | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> RowOrder:
    """Compare the order of head rows with that of class-name embeddings.

    With ``G_W``, ``G_T`` the cosine matrices of centred rows and names, over a seeded sample of
    at most 500 classes:

    - r is the Pearson correlation of their off-diagonal entries, and its p-value the share of
      random orders of the names that reach it (Mantel's test);
    - for each class the row of ``G_W`` is correlated with the cosines of the name k places
      further to the other names, for k in -5 … 5. In each quarter of the list (each part of 100
      classes, if there are fewer than 400) the mean must be largest for k = 0. An order that
      means nothing at close range, as one sorted by name, passes all four by chance once in
      11^4 = 14,641. What it cannot see is an error within less than about half a part.

    Parameters
    ----------
    weight : ndarray of shape (c, d)
        Rows of the head.
    names : ndarray of shape (c, e)
        Embeddings of the class names, in the order that is in question.
    usable : ndarray of shape (c,), optional
        False for classes to leave out, as those whose name another class shares.
    seed : int
    permutations : int
        Their number decides the smallest p-value, 1 / (1 + permutations).

    Raises
    ------
    EncoderError
        If the shapes differ, or fewer than 50 classes are usable.

    References
    ----------
    Mantel, The detection of disease clustering and a generalized regression approach, Cancer
    Research 27, 1967.
    """
    count = len(weight)
    if weight.ndim != 2 or names.ndim != 2 or len(names) != count:
        raise EncoderError(
            f"A head of shape {weight.shape} cannot be compared with class names of shape "
            f"{names.shape}: one name a row is needed."
        )
    chosen = np.arange(count) if usable is None else np.flatnonzero(usable)
    if len(chosen) < MIN_CLASSES:
        raise EncoderError(
            f"The order of {len(chosen):,} classes with names of their own cannot be checked; at "
            f"least {MIN_CLASSES} are needed."
        )
    rng = np.random.default_rng(seed)
    if len(chosen) > SAMPLE:
        chosen = np.sort(rng.choice(chosen, SAMPLE, replace=False))
    rows, texts = _centred_units(weight), _centred_units(names)
    alike = rows[chosen] @ rows[chosen].T
    correlation, p_value = _mantel(alike, texts[chosen] @ texts[chosen].T, rng, permutations)
    return RowOrder(
        correlation=correlation,
        p_value=p_value,
        permutations=permutations,
        classes=len(chosen),
        shifted=_first_shift(alike, texts, chosen),
    )


def _centred_units(rows: np.ndarray) -> np.ndarray:
    """Return the rows about their mean, each of length 1 (0 if it is the mean)."""
    centred = rows.astype(np.float32) - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    units: np.ndarray = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    return units


def _mantel(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, permutations: int
) -> tuple[float, float]:
    """Return the correlation of the off-diagonal entries of `a` and `b`, and its p-value."""
    a, b = _standardized(a), _standardized(b)
    pairs = len(a) * (len(a) - 1)
    # float64 sums of float32 products: a permutation that changes nothing gives the same number.
    found = float(np.vdot(a, b)) / pairs
    reached = 0
    for _ in range(permutations):
        order = rng.permutation(len(b))
        reached += float(np.vdot(a, b[order][:, order])) / pairs >= found
    return found, (1 + reached) / (1 + permutations)


def _standardized(gram: np.ndarray) -> np.ndarray:
    """Return `gram` with off-diagonal entries of mean 0 and variance 1, and a diagonal of 0."""
    off = ~np.eye(len(gram), dtype=bool)
    values = gram[off].astype(np.float64)
    spread = values.std()
    out = np.zeros_like(gram, dtype=np.float32)
    if spread > 0:
        out[off] = (values - values.mean()) / spread
    return out


def _first_shift(
    alike: np.ndarray, texts: np.ndarray, chosen: np.ndarray
) -> tuple[int, int, int] | None:
    """Return the first part of the list whose rows fit other names better than their own."""
    count = len(texts)
    shifts = [k for k in range(-SHIFTS, SHIFTS + 1) if abs(k) < count // 2]
    fits = np.stack([_fits(alike, texts, chosen, k) for k in shifts])  # (shifts, n)
    number = max(1, min(PARTS, len(chosen) // PART_CLASSES))
    parts = np.array_split(np.arange(len(chosen)), number)
    for part in parts:
        best = shifts[int(fits[:, part].mean(axis=1).argmax())]
        if best != 0:
            return int(chosen[part[0]]), int(chosen[part[-1]]) + 1, best
    return None


def _fits(alike: np.ndarray, texts: np.ndarray, chosen: np.ndarray, shift: int) -> np.ndarray:
    """Return for each class how its row fits the name `shift` places further: a correlation.

    Over the other classes, except the one that this name belongs to.
    """
    moved = (chosen + shift) % len(texts)
    named = texts[moved] @ texts[chosen].T
    keep = (chosen[:, None] != chosen[None, :]) & (moved[:, None] != chosen[None, :])
    number = keep.sum(axis=1, keepdims=True)
    deviations = []
    for matrix in (alike, named):
        mean = (matrix * keep).sum(axis=1, keepdims=True) / number
        deviations.append((matrix - mean) * keep)
    a, b = deviations
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    product = np.einsum("ij,ij->i", a, b)
    fits: np.ndarray = np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)
    return fits


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


def check_against_store(head: Head, classes: pl.DataFrame, store: StorePlace) -> NameCheck | None:
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
    if isinstance(store, Path) and not (store / "zarr.json").is_file():
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
        raise EncoderError(
            f"{encoder.name} encodes no texts; check the names with a text encoder, st:NAME."
        )
    names = encode_texts(encoder, classes["name"].to_list())
    return _checked(head, names, ~classes["shared_name"].to_numpy(), encoder.name)


def _checked(head: Head, names: np.ndarray, usable: np.ndarray, against: str) -> NameCheck:
    order = check_row_order(head.weight, names, usable=usable)
    if not order.agrees:
        raise EncoderError(
            f"The rows of the head of {head.name} are not in the order of label set "
            f"{head.label_set!r}: by {against}, {order.describe()}. Give the classes in the order "
            "of the rows in a file in place of MANIFEST (API: label_file=), or the label set that "
            "they are."
        )
    logger.info("head of %s against %s: %s", head.name, against, order.describe())
    return NameCheck(against, order)
