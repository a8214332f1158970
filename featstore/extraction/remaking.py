"""Encode rows of a set again: the encoder and the plan that the set recorded.

What comes out is a proposal. Whether it is what the set holds, its commit's hashes decide.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder, Head
from featstore.encoders.golden import golden_vectors
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EncoderError, FeatstoreError, ManifestError
from featstore.extraction.batches import BatchRunner
from featstore.extraction.golden_check import lasting_facts
from featstore.extraction.options import DECODE_TIMEOUT, MODEL_OPTIONS
from featstore.extraction.pipeline import BlockTask, Preparation, encode_blocks
from featstore.extraction.views import view_items
from featstore.identity import space_id
from featstore.images import FORMATS, WITH_TIFF
from featstore.labels import head_items
from featstore.manifest.manifest import Manifest
from featstore.sources.reader import ByteReader
from featstore.store.damage import attributes_of
from featstore.store.files import MAX_METADATA_BYTES, json_bytes, read_json
from featstore.store.layout import SetKey
from featstore.store.repair import SetMender
from featstore.store.tables import items_bytes


@dataclass(frozen=True)
class Plan:
    """What decides the last bits of a row: two runs may have differed in it.

    `batch` is None if no run says it.
    """

    batch: int | None = None
    threads: int | None = None
    device: str = "cpu"
    weights: str | None = None
    """As ``--weights`` takes it, where a run says that; else None."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the encoder was asked for: pool, prompt_name, prefix, max_length, compile."""
    tiff: bool = False
    """Whether TIFF files were decoded."""
    run: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        batch = "the encoder's batch" if self.batch is None else f"batch {self.batch:,}"
        threads = "all" if self.threads is None else f"{self.threads:,}"
        return f"{batch}, {threads} threads, {self.device}"

    def differences(self) -> str:
        """Return which versions of libraries, and what machine, are others here than recorded."""
        recorded = {**_texts(self.run.get("versions")), "python": self.run.get("python")}
        here = {name: _version(name) for name in recorded}
        recorded["machine"], here["machine"] = self.run.get("machine"), platform.machine()
        return ", ".join(
            f"{name} {was} (here {here[name] or 'none'})"
            for name, was in sorted(recorded.items())
            if was is not None and was != here[name]
        )


def recorded_plans(directory: Path, encoder: str = "") -> list[Plan]:
    """Return the distinct plans of a set's runs, the newest first; one of defaults if none.

    Parameters
    ----------
    encoder : str
        Name of the set's encoder: a run may have had several.
    """
    found: list[Plan] = []
    for path in sorted((directory / "runs").glob("*.json"), reverse=True):
        try:
            run = read_json(path, limit=MAX_METADATA_BYTES)
        except (FeatstoreError, OSError):
            continue  # a run is recorded for people; a damaged one costs a guess
        if isinstance(run, dict):
            for plan in _plans(run, encoder):
                found += [] if plan in found else [plan]
    return found or [Plan()]


def _plans(run: Mapping[str, Any], encoder: str) -> list[Plan]:
    """Return the plans of a run: one for each way in which it asked for the encoder."""
    settings = _mapping(run.get("settings"))
    asked = settings.get("encoders")
    choices = [_mapping(one) for one in asked] if isinstance(asked, list) else []
    ways = [choice for choice in choices if encoder and choice.get("encoder") == encoder]
    shared = {"compile": True} if settings.get("compile") is True else {}
    return [
        replace(
            _plan(run),
            options={**{name: way[name] for name in MODEL_OPTIONS if name in way}, **shared},
        )
        for way in ways or [{}]
    ]


def _plan(run: Mapping[str, Any]) -> Plan:
    weights = _texts(_mapping(run.get("encoder")).get("weights"))
    package = weights.get("package")
    return Plan(
        batch=_count(run.get("batch")),
        threads=_count(run.get("threads")),
        device=str(run.get("device", "cpu")),
        weights=f"package:{package}" if package else None,
        tiff=_mapping(run.get("settings")).get("tiff") is True,
        run=run,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> dict[str, Any]:
    return {name: what for name, what in _mapping(value).items() if isinstance(what, str)}


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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


def open_remaker(
    source: Manifest,
    mender: SetMender,
    *,
    encoder: Any,
    space: Mapping[str, Any] | None,
    wanted: str,
    weights: str | None,
    device: str | None,
    trust_remote_code: bool,
    workers: int | None,
) -> Remaker:
    """Return what makes the content of a damaged set again; see `mending.repair_set`.

    Parameters
    ----------
    wanted : str
        The space_id of the set.

    Raises
    ------
    EncoderError
        If the set was made by an object, and none is given; or its encoder cannot be opened.
    """
    directory, kind = mender.directory, mender.key.kind
    attributes = attributes_of(directory)
    # The folder carries the name with its colon as a point.
    folder_name = mender.key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
    name = encoder if encoder is not None else str(attributes.get("encoder") or folder_name)
    plans = recorded_plans(directory, name if isinstance(name, str) else "")
    items = partial(items_of, source, mender.key)
    if not isinstance(name, str):
        opened = name if isinstance(name, Encoder) else _wrapped(name, kind, attributes, space)
        return ItemRemaker(source, items, plans, lambda _: opened, workers=workers)
    if name.startswith("object:"):
        msg = (
            f"{mender.key} was made by the object {name!r}, which no name stands for. Mend it from "
            "Python: featstore.extraction.repair.repair_set(store, key, manifest=…, encoder=…)."
        )
        raise EncoderError(msg)
    from featstore.encoders.class_head import read_head
    from featstore.encoders.registry import open_encoder

    if kind == "head_weight":
        facts = attributes.get("facts")
        label_set = facts.get("label_set") if isinstance(facts, dict) else None
        head = read_head(name, weights=weights or plans[0].weights, label_set=label_set)
        return HeadRemaker(source, head, plans[0])
    # The folder's digits say which it was; the attributes may be damaged.
    precision = str(attributes.get("precision") or "float32")
    known: dict[tuple[Any, ...], Encoder] = {}

    def opened_as(plan: Plan) -> Encoder:
        asked = tuple(sorted(plan.options.items()))
        options = (weights or plan.weights, device or plan.device, plan.batch, plan.threads, asked)
        if options not in known:
            known[options] = open_encoder(
                name, weights=options[0], device=options[1], batch_size=options[2],
                threads=options[3], kind=kind, precision=precision,
                trust_remote_code=trust_remote_code, **dict(options[4]),
            )  # fmt: skip
        return known[options]

    if len({tuple(sorted(plan.options.items())) for plan in plans}) > 1:
        # A run may have asked for one encoder in several ways: each is a space of its own.
        fitting = [plan for plan in plans if space_id(opened_as(plan).space) == wanted]
        plans = fitting or plans
    return ItemRemaker(source, items, plans, opened_as, workers=workers)


def items_of(source: Manifest, key: SetKey) -> pl.DataFrame | None:
    """Return the items of a set's kind in its manifest: those of views are drawn from images.

    Raises
    ------
    ManifestError
        If the set is of another dataset.
    """
    if key.dataset == source.name:
        return source.tables.get(key.kind)
    match = re.fullmatch(r"(.+)\.views(\d{1,9})-seed(\d{1,18})", key.dataset)
    if match is None or match[1] != source.name:
        msg = f"{key} is not of manifest {source.name!r}. Give that of {key.dataset!r}."
        raise ManifestError(msg)
    images = source.tables.get("image")
    return None if images is None else view_items(images, views=int(match[2]), seed=int(match[3]))


def _wrapped(
    obj: Any, kind: str, attributes: Mapping[str, Any], space: Mapping[str, Any] | None
) -> Encoder:
    stated = attributes.get("space")
    facts = space if space is not None else stated if isinstance(stated, dict) else None
    if facts is None:
        msg = "The set does not say its encoder's space any more. Give space={...} as in extract."
        raise EncoderError(msg)
    return ObjectEncoder(obj, {k: v for k, v in facts.items() if k != "family"}, {kind})
