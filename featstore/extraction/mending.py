"""Mend a damaged set: only what is damaged is made again, and only what a hash proves is written.

First the store mends what follows from itself (`featstore.store.repair`). What is left is made
again from a manifest and the set's encoder: bad blocks are encoded, good ones are taken from the
damaged file. A block that does not come out as the commit says is not written: another library,
processor or batch size gives other last bits, and a set is of one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EncoderError, FeatstoreError, ManifestError
from featstore.extraction.advice import advise
from featstore.extraction.nearness import nearest_bytes, nearness
from featstore.extraction.plans import Plan, recorded_plans
from featstore.extraction.remaking import HeadRemaker, ItemRemaker, Proposal, Remaker
from featstore.keys import set_id, sha256_hex, space_id
from featstore.manifest import Manifest, read_manifest
from featstore.store.blocks import read_block
from featstore.store.casting import cast_rows
from featstore.store.commit import POINTER, Commit
from featstore.store.damage import Damage, find_damage, stored_items
from featstore.store.items import items_bytes, read_items
from featstore.store.layout import DTYPES, FORMAT, SetKey
from featstore.store.mender import SetMender
from featstore.store.names import resolve_set
from featstore.store.rederive import attributes_of, derive_pointer
from featstore.store.repair import compare, rebuild_commits, relist
from featstore.store.repair import repair_set as repair_from_store
from featstore.store.verify import Problem, verify_store

_PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass
class Mending:
    """What became of a damaged set.

    Attributes
    ----------
    key : str
        Full name of the set.
    rebuilt : list of str
        Files that are whole again, relative to the store; in a dry run those that the store can
        rebuild from itself.
    left : list of Problem
        What is still wrong.
    encoded : list of dict
        Blocks that were encoded again: ``file``, ``block``, ``rows`` (first and last).
    reasons : list of str
        Why something could not be mended, and nothing was overwritten.
    needs : list of str
        What would have to be made again, and from what.
    commands : list of str
        What to type next.
    """

    key: str
    rebuilt: list[str] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    encoded: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore repair --json`` prints."""
        return asdict(self)


def repair_set(
    root: str | Path,
    key: str,
    *,
    manifest: str | Path | Manifest | None = None,
    encoder: Any = None,
    space: Mapping[str, Any] | None = None,
    weights: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
) -> Mending:
    """Make a damaged set whole again, byte for byte.

    Parameters
    ----------
    root : path
        The store.
    key : str
        The set; a short name will do.
    manifest : path or Manifest, optional
        What the set was extracted from. Without it only what follows from the store itself is
        mended, and what is needed for the rest is said.
    encoder : str or object, optional
        By default the name that the set states; the object itself if it was one.
    space : mapping, optional
        Of an encoder object; by default what the set states.
    weights, device : str, optional
        By default those of the recorded run.
    workers : int, optional
        Decoding threads.
    dry_run : bool
        Write nothing; encode nothing.

    Raises
    ------
    UnknownSetError, AmbiguousSetError
        If no set, or several, have this name.
    EncoderError, ManifestError
        If the encoder is of another space than the set, or the manifest of another dataset.
    StoreWriteError
        If another process is writing the set, or the file system refuses.

    Examples
    --------
    >>> repair_set("store", "birds/image/resnet50", manifest="birds")  # doctest: +SKIP
    """
    root = Path(root)
    name = resolve_set(root, key)
    set_key = SetKey(*name.split("/"))
    done = repair_from_store(root, name, dry_run=dry_run)
    mending = Mending(name, done.rebuilt, done.left)
    if done.left and manifest is not None and not dry_run:
        source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
        if source.name != set_key.dataset:
            msg = f"{name} is not of manifest {source.name!r}. Give that of {set_key.dataset!r}."
            raise ManifestError(msg)
        with SetMender(root, set_key) as mender:
            commits = rebuild_commits(mender)
            if commits:
                remaker = _remaker(
                    source, mender, encoder=encoder, space=space, weights=weights, device=device,
                    workers=workers,
                )  # fmt: skip
                _Repairer(mender, commits, remaker, mending).run()
        relist(root, name)
        done = compare(done.left, verify_store(root, [name]).problems)
        mending.rebuilt += done.rebuilt
        mending.left = done.left
    if mending.left:
        mending.needs, mending.commands = advise(
            root, set_key, mending.left, manifest=manifest, weights=weights,
            tried=manifest is not None and not dry_run,
        )  # fmt: skip
    return mending


def _remaker(
    source: Manifest,
    mender: SetMender,
    *,
    encoder: Any,
    space: Mapping[str, Any] | None,
    weights: str | None,
    device: str | None,
    workers: int | None,
) -> Remaker:
    """Return what makes the set's content again."""
    directory, kind = mender.directory, mender.key.kind
    attributes = attributes_of(directory)
    plans = recorded_plans(directory)
    # The folder carries the name with its colon as a point.
    folder_name = mender.key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
    name = encoder if encoder is not None else str(attributes.get("encoder") or folder_name)
    if not isinstance(name, str):
        opened = name if isinstance(name, Encoder) else _wrapped(name, kind, attributes, space)
        return ItemRemaker(source, kind, plans, lambda _: opened, workers=workers)
    if name.startswith("object:"):
        msg = (
            f"{mender.key} was made by the object {name!r}, which no name stands for. Mend it from "
            "Python: featstore.extraction.mending.repair_set(store, key, manifest=…, encoder=…)."
        )
        raise EncoderError(msg)
    from featstore.encoders.class_head import read_head
    from featstore.encoders.registry import open_encoder

    if kind == "head_weight":
        facts = attributes.get("facts")
        label_set = facts.get("label_set") if isinstance(facts, dict) else None
        head = read_head(name, weights=weights or plans[0].weights, label_set=label_set)
        return HeadRemaker(source, head, plans[0])
    known: dict[tuple[Any, ...], Encoder] = {}

    def opened_as(plan: Plan) -> Encoder:
        options = (weights or plan.weights, device or plan.device, plan.batch, plan.threads)
        if options not in known:
            known[options] = open_encoder(
                name, weights=options[0], device=options[1], batch_size=options[2],
                threads=options[3],
            )  # fmt: skip
        return known[options]

    return ItemRemaker(source, kind, plans, opened_as, workers=workers)


def _wrapped(
    obj: Any, kind: str, attributes: Mapping[str, Any], space: Mapping[str, Any] | None
) -> Encoder:
    stated = attributes.get("space")
    facts = space if space is not None else stated if isinstance(stated, dict) else None
    if facts is None:
        msg = "The set does not say its encoder's space any more. Give space={...} as in extract."
        raise EncoderError(msg)
    return ObjectEncoder(obj, {k: v for k, v in facts.items() if k != "family"}, {kind})


class _Repairer:
    """Makes the damaged files of one set again, in the order in which they need each other."""

    def __init__(
        self, mender: SetMender, commits: list[Commit], remaker: Remaker, mending: Mending
    ) -> None:
        self._mender = mender
        self._remaker = remaker
        self._mending = mending
        self._gave_up = False
        self._damage: Damage = find_damage(mender.root, mender.key, commits)
        self._commit = commits[-1]

    def run(self) -> None:
        """Write whatever can be proven."""
        self._check_space()
        if attributes_of(self._mender.directory) == {} or self._pointer_is_wrong():
            self._write_pointer()
        self._write_items()
        self._write_small()
        self._write_data()

    def _check_space(self) -> None:
        found = space_id(self._remaker.space)
        if found == self._commit.space_id:
            return
        stated = attributes_of(self._mender.directory).get("space")
        other = ""
        if isinstance(stated, dict):
            names = {*stated, *self._remaker.space}
            differ = sorted(
                name for name in names if stated.get(name) != self._remaker.space.get(name)
            )
            other = f": {', '.join(differ)} differ" if differ else ""
        msg = (
            f"This encoder is not that of {self._mender.key}{other} (space_id {found[:8]}, not "
            f"{self._commit.space_id[:8]}). Nothing was overwritten. Give the weights that the set "
            "was extracted with."
        )
        raise EncoderError(msg)

    def _pointer_is_wrong(self) -> bool:
        path = f"{self._mender.key}/{POINTER}"
        return any(problem.path == path for problem in self._mending.left)

    def _write_pointer(self) -> None:
        """Write the set's attributes if they hash to what the commit says."""
        key, commit = self._mender.key, self._commit
        stated = attributes_of(self._mender.directory)
        name = stated.get("encoder") or key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
        common = {
            "format": FORMAT,
            "dataset": key.dataset,
            "kind": key.kind,
            "encoder": name,
            "space": dict(self._remaker.space),
            "space_id": commit.space_id,
            "set_id": commit.set_id,
        }
        facts = [self._remaker.facts()]
        facts += [stated["facts"]] if isinstance(stated.get("facts"), dict) else []
        for precision in _PRECISIONS:
            identity = set_id(
                commit.space_id, dataset=key.dataset, kind=key.kind, precision=precision,
                dtype=commit.dtype,
            )  # fmt: skip
            for fact in facts if identity == commit.set_id else ():
                attributes = {**common, "precision": precision, "facts": fact}
                data = derive_pointer(self._mender.directory, commit, attributes=attributes)
                if data is not None:
                    self._mender.write(self._mender.directory / POINTER, [data])
                    return

    def _write_items(self) -> None:
        table = self._remaker.items()
        for path, commit in list(self._damage.items.items()):
            data = None if table is None else items_bytes(table.head(commit.n))
            if data is not None and self._mender.write_proven(path, data, commit.items):
                del self._damage.items[path]
            else:
                self._mending.reasons.append(
                    f"{path.name}: the manifest's first {commit.n:,} {self._mender.key.kind} items "
                    "are not those of the commit. Give the manifest's revision that was extracted."
                )

    def _write_small(self) -> None:
        for name, commit in self._damage.small.items():
            path = self._mender.directory / name
            for data in self._small(name, commit):
                if self._mender.write_proven(path, data, commit.metadata[name]):
                    break
            else:
                self._mending.reasons.append(f"{name}: what was made again differs from the commit")

    def _small(self, name: str, commit: Commit) -> list[bytes]:
        """Return what a small file may have held."""
        if name == "bias/c/0":
            data = self._remaker.bias()
            return [] if data is None else [data]
        if name == "golden.json":
            return list(self._remaker.golden())
        if name.startswith("failures"):
            items = self._items(commit)
            if items is not None:
                return [self._remaker.failures(items.filter(pl.Series(commit.failed_rows())))]
        return []

    def _items(self, commit: Commit) -> pl.DataFrame | None:
        """Return the items of a revision: the stored ones, or else the manifest's."""
        path = self._mender.directory.parent / commit.items["file"]
        if path not in self._damage.items:
            return read_items(path, commit.items, n=commit.n)
        table = self._remaker.items()
        return None if table is None or table.height < commit.n else table.head(commit.n)

    def _write_data(self) -> None:
        items = stored_items(self._damage) if self._damage.blocks else None
        items = self._items(self._commit) if items is None and self._damage.blocks else items
        layout = self._damage.layout
        for file, bad in self._damage.files.items():
            before = len(self._mending.encoded)
            if not self._mender.write_data(
                layout, file, self._commit, bad=bad, source=lambda block: self._block(block, items)
            ):
                # Blocks that did come out right are of no use without the others of their file.
                del self._mending.encoded[before:]

    def _block(self, block: int, items: pl.DataFrame | None) -> bytes | None:
        """Return a block as the commit says it is, made again; None if it comes out otherwise."""
        if self._gave_up or items is None:
            return None
        where = self._damage.layout.block_slice(block)
        part = items[where.start : where.stop]
        ends = sorted({min(commit.n - where.start, part.height) for commit in self._damage.commits})
        ends = [end for end in ends if end > 0]
        said = ""
        for proposal in self._remaker.block(part, ends):
            what = self._fits(block, part, proposal)
            if isinstance(what, bytes):
                self._remaker.prefer(proposal.plan)
                rows = [where.start, where.stop - 1]
                file = block // self._damage.layout.blocks_per_file
                name = f"{self._mender.key}/embedding/{self._damage.layout.file_name(file)}"
                self._mending.encoded.append({"file": name, "block": block, "rows": rows})
                return what
            said = said or what
        self._gave_up = True
        self._mending.reasons.append(said or f"block {block:,} cannot be made again")
        return None

    def _fits(self, block: int, part: pl.DataFrame, proposal: Proposal) -> bytes | str:
        """Return the block's bytes if the proposal has its hash, else why not."""
        layout, where = self._damage.layout, self._damage.layout.block_slice(block)
        rows = f"rows {where.start:,}-{where.stop - 1:,}"
        failed = self._commit.failed_rows()[where]
        ids = part["item_id"].to_list()
        blank = {item for item, gone in zip(ids, failed.tolist(), strict=True) if gone}
        lost = sorted(set(proposal.failures) - blank)
        if lost:
            return (
                f"{rows}: {len(lost):,} items cannot be read any more, first {lost[0]!r}: "
                f"{proposal.failures[lost[0]]}"
            )
        try:
            data = cast_rows(proposal.rows, ids, failed=blank, layout=layout, where=rows)
        except FeatstoreError as err:
            return f"{rows}: {err}"
        stored = self._stored(block)
        for candidate in (data.tobytes(), nearest_bytes(data, stored, layout.dtype)):
            if candidate and sha256_hex(candidate) == self._commit.blocks[block]:
                return candidate
        differences = proposal.plan.differences()
        return (
            f"{rows} were made again ({proposal.plan}) and are not those of the commit: "
            f"{nearness(data, stored, layout.dtype, ~failed)}. Nothing was overwritten. The set "
            "must be extracted anew"
            + (f"; of what it was made with, others are here: {differences}." if differences
               else ", or mended on a machine like the one it was made on.")
        )  # fmt: skip

    def _stored(self, block: int) -> np.ndarray | None:
        """Return the damaged rows of a block as they are stored, if they can be read."""
        layout = self._damage.layout
        file = block // layout.blocks_per_file
        where = layout.block_slice(block)
        path = self._mender.directory / "embedding" / layout.file_name(file)
        try:
            data = read_block(path, layout, block)
        except (FeatstoreError, OSError):
            return None
        if len(data) != (where.stop - where.start) * layout.row_bytes:
            return None
        return np.frombuffer(data, dtype=DTYPES[layout.dtype]).reshape(-1, layout.dim)
