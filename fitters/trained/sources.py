"""Rows to train on from arrays: what `fitters.trained.batches` reads, without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fitters.pairs import Pairs


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Paired rows in memory; see `fitters.trained.batches.PairSource`.

    Attributes
    ----------
    x, y : ndarray of shape (n, p), (n, q)
        Made float32.
    groups : ndarray of int, shape (n,)
    weight : ndarray of shape (n,) or None
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64] | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for name in ("x", "y"):
            rows = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, rows)
            digest.update(repr(rows.shape).encode() + rows.tobytes())
        digest.update(np.ascontiguousarray(self.groups).tobytes())
        digest.update(b"" if self.weight is None else np.ascontiguousarray(self.weight).tobytes())
        object.__setattr__(self, "fingerprint", digest.hexdigest())

    @classmethod
    def of(cls, pairs: Pairs, *, first_group: int = 0) -> ArrayRows:
        """Return pairs whose rows count alike; groups are numbered from `first_group`."""
        groups = pairs.row_groups.astype(np.int64) + first_group
        return cls(pairs.x.astype(np.float32), pairs.y.astype(np.float32), groups)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.x)

    @property
    def p(self) -> int:
        """Columns of x."""
        return int(self.x.shape[1])

    @property
    def q(self) -> int:
        """Columns of y."""
        return int(self.y.shape[1])

    def read(
        self, start: int, stop: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return rows `start` to `stop` of x and y."""
        return self.x[start:stop], self.y[start:stop]

    def take(self, rows: npt.NDArray[np.int64]) -> ArrayRows:
        """Return the source of some rows."""
        weight = None if self.weight is None else self.weight[rows]
        return ArrayRows(self.x[rows], self.y[rows], self.groups[rows], weight)
