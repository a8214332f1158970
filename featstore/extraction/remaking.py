"""Make again what a set was made of: rows, bias, golden vectors, reasons of failures.

What comes out is a proposal. Whether it is what the set holds, its commit's hashes decide.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder, Head
from featstore.encoders.golden import golden_vectors
from featstore.extraction.batches import BatchRunner
from featstore.extraction.options import DECODE_TIMEOUT
from featstore.extraction.pipeline import BlockTask, encode_blocks
from featstore.extraction.plans import Plan
from featstore.extraction.preparation import Preparation
from featstore.extraction.provenance import lasting_facts
from featstore.images import FORMATS, WITH_TIFF
from featstore.label_sets import head_items
from featstore.manifest import Manifest
from featstore.sources import ByteReader
from featstore.store.files import json_bytes
from featstore.store.items import items_bytes

#: Opens the set's encoder as a plan says.
OpenEncoder = Callable[[Plan], Encoder]


@dataclass(frozen=True)
class Proposal:
    """Rows that a block may have had, and how they were made.

    Attributes
    ----------
    rows : ndarray of shape (b, d), float32
        NaN where nothing was made, or an item failed.
    made : boolean ndarray of shape (b,)
        Which rows were to be made.
    """

    rows: np.ndarray
    made: np.ndarray
    plan: Plan
    failures: Mapping[str, str]


class Remaker(Protocol):
    """Proposes what may have stood in the damaged places of one set."""

    @property
    def space(self) -> Mapping[str, Any]:
        """Keyed facts of the space that the rows lie in."""

    def items(self) -> pl.DataFrame | None:
        """Return the items of the kind, those of the manifest; more than the set may have."""

    def block(self, items: pl.DataFrame, ways: list[list[np.ndarray]]) -> Iterator[Proposal]:
        """Propose the rows of the items of one block.

        Parameters
        ----------
        ways : list of list of boolean ndarray
            Which rows may have been made together: the runs of each way, one after the other.
        """

    def prefer(self, plan: Plan) -> None:
        """Try this plan first from now on: it fitted."""

    def bias(self) -> bytes | None:
        """Return the bias of a head as it is stored."""

    def golden(self) -> Iterator[bytes]:
        """Propose the file of golden vectors."""

    def failures(self, items: pl.DataFrame) -> bytes:
        """Return the file that says why these items failed, from trying each again."""

    def facts(self) -> dict[str, Any]:
        """Return what a new set of this would record beside its identity."""


class ItemRemaker:
    """Encodes images or texts again, slot by slot as the extraction did.

    Parameters
    ----------
    source : Manifest
    items : callable
        Returns the items of the set's kind in the manifest, or None.
    plans : list of Plan
        Tried in this order; one that fitted is tried first from then on.
    """

    def __init__(
        self,
        source: Manifest,
        items: Callable[[], pl.DataFrame | None],
        plans: list[Plan],
        open_encoder: OpenEncoder,
        *,
        workers: int | None = None,
    ) -> None:
        self._source = source
        self._items = items
        self._plans = list(plans)
        self._open = open_encoder
        self._workers = workers or os.cpu_count() or 1

    @property
    def space(self) -> Mapping[str, Any]:
        """Keyed facts of the encoder's space."""
        return self._open(self._plans[0]).space

    def items(self) -> pl.DataFrame | None:
        """Return the manifest's items of this kind."""
        return self._items()

    def prefer(self, plan: Plan) -> None:
        """Try this plan first from now on."""
        self._plans.sort(key=lambda other: other != plan)

    def block(self, items: pl.DataFrame, ways: list[list[np.ndarray]]) -> Iterator[Proposal]:
        """Propose the rows of a block, made in each way by each plan."""
        for plan in list(self._plans):
            for way in ways:
                yield self._encode(items, way, plan)

    def _encode(self, items: pl.DataFrame, way: list[np.ndarray], plan: Plan) -> Proposal:
        encoder = self._open(plan)
        rows = np.full((items.height, encoder.dim), np.nan, dtype=np.float32)
        failures: dict[str, str] = {}
        size = plan.batch or encoder.batch_size
        runner = BatchRunner(encoder, size, device=plan.device, halve=False)
        with (
            ByteReader(self._source.root) as reader,
            Preparation(
                reader,
                [runner],
                workers=self._workers,
                decode_timeout=DECODE_TIMEOUT,
                formats=WITH_TIFF if plan.tiff else FORMATS,
            ) as preparation,
        ):
            for number, run in enumerate(way):
                # A run gives slots to the rows that it makes, and to no other.
                task = BlockTask(number, items, [run])
                (output,) = encode_blocks([task], preparation)
                rows[run] = output.rows[0][run]
                failures |= output.failures
        return Proposal(rows, np.logical_or.reduce(way), plan, failures)

    def bias(self) -> bytes | None:
        """Return None: items have no bias."""
        return None

    def golden(self) -> Iterator[bytes]:
        """Propose the golden vectors of each plan."""
        for plan in self._plans:
            vectors = np.round(golden_vectors(self._open(plan)).astype(np.float64), 6)
            yield json_bytes({"vectors": vectors.tolist()})

    def failures(self, items: pl.DataFrame) -> bytes:
        """Return the table of reasons, as far as the items still fail."""
        return failures_bytes(self._encode(items, _at_once(items), self._plans[0]).failures)

    def facts(self) -> dict[str, Any]:
        """Return the encoder's lasting facts and the manifest's revision and note."""
        return {
            **lasting_facts(self._open(self._plans[0]).facts),
            "manifest_revision": str(self._source.facts.get("revision", "")),
            "note": str(self._source.facts.get("note", "")),
        }


class HeadRemaker:
    """Reads the rows and the bias of a classification head again."""

    def __init__(self, source: Manifest, head: Head, plan: Plan) -> None:
        self._source = source
        self._head = head
        self._plan = plan

    @property
    def space(self) -> Mapping[str, Any]:
        """Keyed facts of the image space that the head reads."""
        return self._head.space

    def items(self) -> pl.DataFrame | None:
        """Return one item a class of the manifest's label set."""
        return None if self._source.classes is None else head_items(self._source.classes)

    def prefer(self, plan: Plan) -> None:
        """Do nothing: there is one way to read a head."""

    def block(
        self,
        items: pl.DataFrame,
        ways: list[list[np.ndarray]],  # noqa: ARG002
    ) -> Iterator[Proposal]:
        """Propose the head's rows of these classes."""
        table = self.items()
        if table is None or table.height != len(self._head.weight):
            return
        place = {item: row for row, item in enumerate(table["item_id"].to_list())}
        rows = [place.get(item, -1) for item in items["item_id"].to_list()]
        if min(rows) >= 0:
            everything = _at_once(items)[0]
            yield Proposal(self._head.weight[rows], everything, self._plan, {})

    def bias(self) -> bytes | None:
        """Return the head's bias."""
        return np.ascontiguousarray(self._head.bias, dtype="<f4").tobytes()

    def golden(self) -> Iterator[bytes]:
        """Propose nothing: heads have no golden vectors."""
        yield from ()

    def failures(self, items: pl.DataFrame) -> bytes:  # noqa: ARG002
        """Return an empty table: no row of a head fails."""
        return failures_bytes({})

    def facts(self) -> dict[str, Any]:
        """Return the model's lasting facts and the label set."""
        return {**lasting_facts(self._head.facts), "label_set": self._head.label_set}


def _at_once(items: pl.DataFrame) -> list[np.ndarray]:
    """Return the one run of all items."""
    return [np.ones(items.height, dtype=bool)]


def failures_bytes(failures: Mapping[str, str]) -> bytes:
    """Return the table of failures as a writer writes it."""
    schema = ["item_id", "reason"]
    return items_bytes(
        pl.DataFrame(
            sorted(failures.items()), schema=dict.fromkeys(schema, pl.String), orient="row"
        )
    )
