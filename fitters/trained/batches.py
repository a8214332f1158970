"""Batches of paired rows, shuffled by chunks: no row is ever read by itself.

What fits into `RESIDENT_BYTES` is read once and shuffled exactly. Of more, each epoch reads chunks
of `CHUNK_ROWS` consecutive rows in random order, `POOL_CHUNKS` at a time, and shuffles those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CHUNK_ROWS = 4096
POOL_CHUNKS = 16
RESIDENT_BYTES = 2**30


class PairSource(Protocol):
    """Paired rows that can be read by ranges: arrays, or views of a store.

    Attributes
    ----------
    n, p, q : int
        Rows, and the columns of either side.
    groups : ndarray of int, shape (n,)
        What no two rows of are negatives of each other.
    weight : ndarray of shape (n,) or None
        Mass of each row; None: all alike.
    fingerprint : str
        Of everything that `read` returns.
    """

    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def p(self) -> int: ...  # noqa: D102
    @property
    def q(self) -> int: ...  # noqa: D102
    @property
    def groups(self) -> npt.NDArray[np.int64]: ...  # noqa: D102
    @property
    def weight(self) -> npt.NDArray[np.float64] | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def read(
        self, start: int, stop: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return rows `start` to `stop` of x and y."""

    def take(self, rows: npt.NDArray[np.int64]) -> PairSource:
        """Return the source of some rows, in increasing order."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that a step is made on: x (b, p), y (b, q), groups (b,), weight (b,) or None."""

    x: Tensor
    y: Tensor
    groups: Tensor
    weight: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    def at(self, rows: Tensor | slice) -> Batch:
        """Return the batch of these rows."""
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.x[rows], self.y[rows], self.groups[rows], weight)

    @property
    def same(self) -> Tensor | None:
        """Where rows i ≠ j share a group, shape (b, b); None if none do."""
        if len(np.unique(self.groups.numpy())) == len(self):
            return None
        equal = self.groups[:, None] == self.groups[None, :]
        equal.fill_diagonal_(fill_value=False)
        return equal


def join(batches: Sequence[Batch]) -> Batch:
    """Return one batch of the rows of several."""
    if len(batches) == 1:
        return batches[0]
    weight = None
    if any(batch.weight is not None for batch in batches):
        # Rows without a mass count 1, the mean of those that have one.
        ones = (torch.ones(len(batch)) for batch in batches)
        weight = torch.cat(
            [one if b.weight is None else b.weight for one, b in zip(ones, batches, strict=True)]
        )
    return Batch(
        torch.cat([batch.x for batch in batches]),
        torch.cat([batch.y for batch in batches]),
        torch.cat([batch.groups for batch in batches]),
        weight,
    )


@dataclass(eq=False)
class Stream:
    """The rows of some sources, once an epoch, every order equally likely within a pool."""

    sources: Sequence[PairSource]
    _resident: Batch | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """Rows an epoch."""
        return sum(source.n for source in self.sources)

    def steps(self, batch_size: int) -> int:
        """Return batches an epoch."""
        return -(-self.n // batch_size)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches of `batch_size` rows, the last one of what is left."""
        rest: Batch | None = None
        for pool in self._pools(generator):
            whole = pool if rest is None else join([rest, pool])
            order = torch.randperm(len(whole), generator=generator)
            full = len(order) - len(order) % batch_size
            for start in range(0, full, batch_size):
                yield whole.at(order[start : start + batch_size])
            rest = whole.at(order[full:]) if full < len(order) else None
        if rest is not None:
            yield rest

    def _pools(self, generator: torch.Generator) -> Iterator[Batch]:
        size = sum(4 * source.n * (source.p + source.q) for source in self.sources)
        if size <= RESIDENT_BYTES:
            if self._resident is None:
                self._resident = join([read_batch(s, 0, s.n) for s in self.sources])
            yield self._resident
            return
        chunks = [
            (source, start) for source in self.sources for start in range(0, source.n, CHUNK_ROWS)
        ]
        order = torch.randperm(len(chunks), generator=generator).tolist()
        for first in range(0, len(order), POOL_CHUNKS):
            picked = (chunks[number] for number in order[first : first + POOL_CHUNKS])
            yield join([read_batch(s, at, min(at + CHUNK_ROWS, s.n)) for s, at in picked])


@dataclass(eq=False)
class Mixture:
    """Every batch holds a fixed share of prototypes; an epoch is one pass over the real pairs.

    Prototypes are gone through again and again within an epoch, each time in a new order.
    """

    prototypes: Stream
    real: Stream
    share: float

    def sizes(self, batch_size: int) -> tuple[int, int]:
        """Return rows of prototypes and of real pairs in a batch, at least one of each."""
        of_prototypes = min(max(round(self.share * batch_size), 1), batch_size - 1)
        return of_prototypes, batch_size - of_prototypes

    def steps(self, batch_size: int) -> int:
        """Return batches an epoch."""
        return self.real.steps(self.sizes(batch_size)[1])

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches of both."""
        of_prototypes, of_real = self.sizes(batch_size)
        again = self._again(of_prototypes, generator)
        for real in self.real.epoch(of_real, generator):
            yield join([next(again), real])

    def _again(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        rest: Batch | None = None
        while True:
            for batch in self.prototypes.epoch(size, generator):
                whole = batch if rest is None else join([rest, batch])
                while len(whole) >= size:
                    yield whole.at(slice(0, size))
                    whole = whole.at(slice(size, None))
                rest = whole if len(whole) else None


def read_batch(source: PairSource, start: int, stop: int) -> Batch:
    """Return rows `start` to `stop` of a source as tensors."""
    x, y = source.read(start, stop)
    weight = None
    if source.weight is not None:
        weight = torch.from_numpy(source.weight[start:stop].astype(np.float32))
    return Batch(
        torch.from_numpy(x),
        torch.from_numpy(y),
        torch.from_numpy(source.groups[start:stop]),
        weight,
    )
