"""The sets that a job is to make: which they are, and what each still lacks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder
from featstore.errors import EncoderError, StoreWriteError
from featstore.extraction.events import ExtractResult
from featstore.extraction.golden_check import Golden
from featstore.extraction.image_views import RECIPE
from featstore.extraction.known_rows import KnownRows, find_known_rows
from featstore.extraction.options import EncoderChoice, Options
from featstore.extraction.provenance import lasting_facts
from featstore.extraction.reuse import finished_result
from featstore.keys import encoder_directory, set_id, sha256_hex, space_id
from featstore.manifest import Manifest
from featstore.store.base import read_base
from featstore.store.claim import claim_folders
from featstore.store.commit import read_commit, read_pointer
from featstore.store.items import items_bytes
from featstore.store.journal import base_of, begun_blocks, settings_of
from featstore.store.layout import ArrayLayout, SetKey, plan_array

State = Literal["missing", "unfinished", "finished", "extension", "retry"]


@dataclass(frozen=True)
class Target:
    """One set of a job: an encoder and where its rows belong."""

    choice: EncoderChoice
    encoder: Encoder
    store: Path
    dataset: str
    kind: str
    items: pl.DataFrame = field(repr=False)
    options: Options = field(repr=False)

    @property
    def precision(self) -> str:
        """Compute precision of the encoder; an object is taken at its word."""
        return str(getattr(self.encoder, "precision", self.options.precision))

    @cached_property
    def space_id(self) -> str:
        """Id of the embedding space."""
        return space_id(self.encoder.space)

    @cached_property
    def set_id(self) -> str:
        """Id of the set."""
        return set_id(
            self.space_id,
            dataset=self.dataset,
            kind=self.kind,
            precision=self.precision,
            dtype=self.options.dtype,
        )

    @cached_property
    def key(self) -> SetKey:
        """Its key in the store."""
        directory = encoder_directory(self.encoder.name, self.set_id)
        return SetKey(self.dataset, self.kind, directory)

    @property
    def directory(self) -> Path:
        """Its folder."""
        return self.key.directory(self.store)

    def begun_settings(self) -> dict[str, Any]:
        """Return batch size and threads of an interrupted attempt; empty if there is none."""
        for folder in claim_folders(self.directory):
            found = settings_of(folder)
            if found:
                return found
        return {}

    def known_rows(self, golden: Golden | None) -> KnownRows | None:
        """Look for its rows elsewhere in the store."""
        return find_known_rows(
            self.store,
            self.items,
            kind=self.kind,
            space_id=self.space_id,
            set_id=self.set_id,
            precision=self.precision,
            dtype=self.options.dtype,
            golden=golden,
        )

    def finished(self) -> ExtractResult | None:
        """Return its result if it needs nothing more, else None."""
        return finished_result(
            self.store,
            self.encoder.space,
            dataset=self.dataset,
            kind=self.kind,
            encoder=self.encoder.name,
            items=self.items,
            dtype=self.options.dtype,
            precision=self.precision,
            retry_failed=self.options.retry_failed,
        )

    def facts(self, source: Manifest) -> dict[str, Any]:
        """Return the facts that belong to the set whoever computes it."""
        found = {
            **lasting_facts(self.encoder.facts),
            "manifest_revision": str(source.facts.get("revision", "")),
            # What every reader of results on this dataset should know.
            "note": str(source.facts.get("note", "")),
        }
        if self.options.views:
            found["views"] = {
                "of": source.name,
                "each": self.options.views,
                "seed": self.options.seed,
                "recipe": RECIPE,
            }
        return found


@dataclass(frozen=True)
class SetState:
    """What a set has and lacks.

    Attributes
    ----------
    state : str
        ``missing``; ``unfinished`` (an interrupted attempt left blocks); ``finished``;
        ``extension`` (the items go on after those that it has); ``retry`` (failed items are
        tried again).
    rows, blocks : int
        Of the whole set.
    reused, staged, known, new : int
        Rows that the finished set has and that stay; that an interrupted attempt has done; that
        other sets of the store have; and that are left to encode.
    blocks_done : int
        Blocks of `staged`.
    write_bytes : int
        What is still to be written.
    """

    key: str
    state: State
    rows: int
    blocks: int
    reused: int
    staged: int
    blocks_done: int
    known: int
    new: int
    write_bytes: int


def make_targets(
    dataset: str,
    items: pl.DataFrame,
    *,
    kind: str,
    choices: list[EncoderChoice],
    encoders: list[Encoder],
    store: Path,
    options: Options,
) -> list[Target]:
    """Return the sets of a job.

    Raises
    ------
    EncoderError
        If two encoders would write the same set.
    """
    targets = [
        Target(choice, encoder, store, dataset, kind, items, options)
        for choice, encoder in zip(choices, encoders, strict=True)
    ]
    seen: dict[str, Target] = {}
    for target in targets:
        other = seen.setdefault(target.set_id, target)
        if other is not target:
            msg = (
                f"{target.encoder.name} and {other.encoder.name} are the same encoder and would "
                f"both write {target.key}. Name it once."
            )
            raise EncoderError(msg)
    return targets


def inspect_set(target: Target, *, known: KnownRows | None) -> SetState:
    """Return what a set lacks, touching nothing.

    Raises
    ------
    StoreWriteError
        If the set is finished with items that these do not extend.
    CorruptStoreError
        If it is damaged.
    LayoutError
        If a store cannot hold it.
    """
    options, items = target.options, target.items
    layout = plan_array(
        items.height, target.encoder.dim, options.dtype, block_rows=options.block_rows
    )
    state: State = "missing"
    kept = np.zeros(items.height, dtype=bool)
    in_place: set[int] = set()
    revision = ""
    pointer = read_pointer(target.directory)
    if pointer is not None:
        revision = str(pointer["revision"])
        commit = read_commit(target.directory, revision)
        same = commit.items["sha256"] == sha256_hex(items_bytes(items))
        retry = options.retry_failed and commit.n_failed > 0
        state = ("retry" if retry else "finished") if same else "extension"
        base = read_base(target.directory, target.key, items, retry_failed=options.retry_failed)
        assert base is not None
        layout = base.next_layout(items.height)
        kept[: base.kept.size] = base.kept
        in_place = {file for file in range(layout.n_files) if base.in_place(layout, file)}
    begun = set() if state == "finished" else _begun(target, revision)
    if begun and state == "missing":
        state = "unfinished"
    staged = np.zeros(items.height, dtype=bool)
    for block in begun:
        staged[layout.block_slice(block)] = True
    staged &= ~kept
    found = np.zeros(items.height, dtype=bool) if known is None else known.has(slice(None))
    found &= ~kept & ~staged
    return SetState(
        key=str(target.key),
        state=state,
        rows=items.height,
        blocks=layout.n_blocks,
        reused=int(kept.sum()),
        staged=int(staged.sum()),
        blocks_done=len(begun),
        known=int(found.sum()),
        new=int((~kept & ~staged & ~found).sum()),
        write_bytes=0 if state == "finished" else _bytes_left(layout, in_place, begun),
    )


def check_free_space(store: Path, states: list[SetState]) -> None:
    """Refuse a job that the disk cannot hold.

    Raises
    ------
    StoreWriteError
        If less is free than is to be written.
    """
    needed, free = sum(state.write_bytes for state in states), free_bytes(store)
    if needed > free:
        msg = (
            f"The job writes {needed / 1e9:.2f} GB to {store}, where {free / 1e9:.2f} GB are free. "
            "Free space, choose another store, or a smaller --save-dtype."
        )
        raise StoreWriteError(msg)


def free_bytes(store: Path) -> int:
    """Return the free bytes where the store is, or will be."""
    folder = store.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _begun(target: Target, revision: str) -> set[int]:
    """Return the blocks that an interrupted attempt at the same revision has done."""
    return {
        block
        for folder in claim_folders(target.directory)
        if base_of(folder) == revision
        for block in begun_blocks(folder)
    }


def _bytes_left(layout: ArrayLayout, in_place: set[int], begun: set[int]) -> int:
    """Return the bytes of the data files that are not there, less the blocks that are."""
    total = 0
    for file in set(range(layout.n_files)) - in_place:
        total += layout.file_bytes(file)
        for block in begun & set(layout.file_blocks(file)):
            rows = layout.block_slice(block)
            total -= (rows.stop - rows.start) * layout.row_bytes
    return max(0, total)
