"""What a view does to its rows after reading them; nothing of it is ever stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from featstore.errors import MisalignedItemsError
from featstore.keys import sha256_hex


class Transform(Protocol):
    """A change of rows, in place; each row by itself."""

    @property
    def name(self) -> str:
        """One word for what it does."""

    @property
    def facts(self) -> list[Any]:
        """What it does, as JSON: part of a view's fingerprint."""

    def apply(self, rows: np.ndarray, *, key: str) -> None:
        """Change floating-point rows of shape (b, d) in place; `key` is for messages."""


@dataclass(frozen=True)
class Normalize:
    """Divide each row by its L2 norm."""

    name: str = field(default="normalized", init=False)

    @property
    def facts(self) -> list[Any]:
        """What it does."""
        return ["l2"]

    def apply(self, rows: np.ndarray, *, key: str) -> None:
        """Divide in place.

        Raises
        ------
        MisalignedItemsError
            If a row is zero.
        """
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not norms.all():
            bad = int(np.flatnonzero(norms[:, 0] == 0)[0])
            msg = f"Row {bad:,} of a batch of {key} is zero and cannot be normalised."
            raise MisalignedItemsError(msg)
        rows /= norms


@dataclass(frozen=True, eq=False)
class Center:
    """Subtract a mean that was fitted elsewhere, on training rows."""

    mean: np.ndarray
    name: str = field(default="centered", init=False)

    @property
    def facts(self) -> list[Any]:
        """What it does: the hash of the mean as float64."""
        return ["center", sha256_hex(np.ascontiguousarray(self.mean, dtype="<f8").tobytes())]

    def apply(self, rows: np.ndarray, *, key: str) -> None:  # noqa: ARG002
        """Subtract in place, in the precision of the rows."""
        rows -= self.mean.astype(rows.dtype)
