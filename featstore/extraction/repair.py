"""Repair a set by encoding its damaged rows again.

First the store mends what follows from itself (`featstore.store.repair`). What is left is made
again from a manifest and the set's encoder: bad blocks are encoded, good ones are taken from the
damaged file. A block that does not come out as the commit says is not written: another library,
processor or batch size gives other last bits, and a set is of one piece.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import EncoderError, FeatstoreError
from featstore.extraction.options import MODEL_OPTIONS
from featstore.extraction.remaking import Proposal, Remaker, items_of, open_remaker, recorded_plans
from featstore.identity import set_id, sha256_hex, space_id
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.store.blocks import read_block
from featstore.store.casting import cast_rows
from featstore.store.catalog import resolve_set
from featstore.store.damage import (
    Damage,
    attributes_of,
    derive_pointer,
    find_damage,
    published_commits,
    stored_items,
)
from featstore.store.layout import DTYPES, FORMAT, INTEGERS, SetKey
from featstore.store.records import POINTER, Commit
from featstore.store.repair import Donors, SetMender, compare, rebuild_commits, relist
from featstore.store.repair import repair_set as repair_from_store
from featstore.store.rows import decode
from featstore.store.tables import items_bytes, read_items
from featstore.store.verify import Problem, verify_store

_SMALL = {
    "golden.json": "the encoder's vectors of the golden inputs, made again",
    "bias/c/0": "the bias of the model's head, read again",
    "failures": "the reasons of the failed items, by trying them again",
}


def advise(
    root: Path,
    key: SetKey,
    left: Iterable[Problem],
    *,
    manifest: Any = None,
    weights: str | None = None,
    tried: bool = False,
) -> tuple[list[str], list[str]]:
    """Return what would have to be made again, from what, and the commands for it.

    Parameters
    ----------
    left : iterable of Problem
        What is wrong.
    manifest, weights
        As the caller gave them, if at all.
    tried : bool
        Making it again was tried: what is left must be extracted anew.
    """
    problems = list(left)
    directory = key.directory(root)
    inside = [p for p in problems if "belongs to nothing" not in p.what]
    needs = [f"{p.path}: nothing of the store; delete it" for p in problems if p not in inside]
    if not inside:
        return needs, []
    attributes = attributes_of(directory)
    imported = _mapping(attributes.get("space")).get("provenance") == "imported"
    mendable: list[str] | None = None
    if not tried and not imported:
        mendable = _mendable(root, key)
    if mendable:
        return [*needs, *mendable], [_repair_command(root, key, manifest, weights, attributes)]
    if tried:
        needs.append("what could not be made again: extract the set anew")
    elif imported:
        source = _mapping(attributes.get("facts")).get("source", "the file")
        needs.append(f"the rows were imported from {source}: import them again")
    else:
        needs.append("a commit record that is whole: without it nothing says what was stored")
    return needs, _anew(root, key, attributes, weights, imported=imported)


def _mendable(root: Path, key: SetKey) -> list[str]:
    """Return what a manifest and the encoder could make again; empty without a whole commit."""
    with SetMender(root, key, dry_run=True) as mender:
        commits = rebuild_commits(mender)
    if not commits:
        return []
    damage = find_damage(root, key, commits)
    needs = []
    if not published_commits(damage.directory):
        needs.append("zarr.json: the set's attributes, from encoder and manifest")
    for file, blocks in damage.files.items():
        name = f"embedding/{damage.layout.file_name(file)}"
        spans = [damage.layout.block_slice(block) for block in blocks]
        rows = ", ".join(f"{span.start:,}-{span.stop - 1:,}" for span in spans[:10])
        more = f" and {len(spans) - 10:,} more blocks" if len(spans) > 10 else ""
        source = "read from the model" if key.kind == "head_weight" else f"the {key.kind} items"
        needs.append(f"{name}: blocks of rows {rows}{more}, encoded again from {source}")
    needs += [f"{path.name}: the item table of the manifest" for path in damage.items]
    for name in damage.small:
        what = _SMALL.get("failures" if name.startswith("failures") else name)
        if what:
            needs.append(f"{name}: {what}")
    return needs


def _repair_command(
    root: Path, key: SetKey, manifest: Any, weights: str | None, attributes: dict[str, Any]
) -> str:
    if str(attributes.get("encoder", "")).startswith("object:"):
        return (
            f"python: featstore.extraction.repair.repair_set({str(root)!r}, {str(key)!r}, "
            "manifest=..., encoder=...)"
        )
    folder = manifest if isinstance(manifest, str | Path) else "MANIFEST"
    command = f"featstore repair {_quote(root)} {key} --manifest {_quote(folder)}"
    return command + _weights(key.directory(root), weights)


def _anew(
    root: Path, key: SetKey, attributes: dict[str, Any], weights: str | None, *, imported: bool
) -> list[str]:
    """Return the commands that remove a set and make it again."""
    # The folder carries the name with its colon as a point.
    name = attributes.get("encoder") or key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
    remove = f"featstore rm {_quote(root)} {key} --yes"
    place = f"--kind {key.kind} --encoder {_quote(name)} --store {_quote(root)}"
    if imported:
        source = _mapping(attributes.get("facts")).get("source", "FILE")
        return [remove, f"featstore import {_quote(source)} --dataset {key.dataset} {place}"]
    if str(name).startswith("object:"):
        return [remove, "python: featstore.extract(..., encoder=...)"]
    directory = key.directory(root)
    asked = _options(directory, str(name)) + _weights(directory, weights)
    return [remove, f"featstore extract MANIFEST {place}{asked}"]


def _options(directory: Path, encoder: str) -> str:
    """Return how the encoder was asked for, if every run says the same."""
    plans = recorded_plans(directory, encoder)
    ways = {tuple(sorted(plan.options.items())) for plan in plans}
    options = dict(ways.pop()) if len(ways) == 1 else {}
    return "".join(
        f" --{option.replace('_', '-')} {_quote(options[option])}"
        for option in MODEL_OPTIONS
        if option in options
    ) + " --tiff" * any(plan.tiff for plan in plans)


def _weights(directory: Path, weights: str | None) -> str:
    chosen = weights or recorded_plans(directory)[0].weights
    return f" --weights {_quote(chosen)}" if chosen else ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _quote(value: Any) -> str:
    return shlex.quote(str(value))


#: A stored value that is this far from the one made again, in units of its column's root mean
#: square in the block, is taken for damaged. Other libraries move values by a thousandth of that.
DAMAGED = 0.05


def nearness(data: np.ndarray, stored: np.ndarray | None, dtype: str, valid: np.ndarray) -> str:
    """Say how near `data` is to `stored`, both (b, d) as a store holds them.

    Parameters
    ----------
    valid : ndarray of shape (b,)
        False for rows that have no embedding.
    """
    if stored is None:
        return "the stored rows are gone, so nothing tells how near they are"
    same = (data == stored).all(axis=1) & valid
    count = int(valid.sum())
    said = f"{int(same.sum()):,} of {count:,} rows are bitwise those stored"
    if not (valid & ~same).any():
        return said
    ours, theirs = _floats(data, dtype)[valid & ~same], _floats(stored, dtype)[valid & ~same]
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines = (ours * theirs).sum(axis=1) / norms
    cosines = np.where(np.isfinite(cosines), cosines, 0.0)
    return (
        f"{said}; cosine of the others to the stored ones: median {np.median(cosines):.6f}, least "
        f"{cosines.min():.6f}"
    )


def nearest_bytes(data: np.ndarray, stored: np.ndarray | None, dtype: str) -> bytes | None:
    """Return the stored block with only its far-off values taken from `data`.

    Where another library changes last bits, and damage changes a few values a lot, this may be
    the very block that was stored; its hash will tell.
    """
    if stored is None or dtype in INTEGERS:
        return None
    ours, theirs = _floats(data, dtype), _floats(stored, dtype)
    scale = np.sqrt(np.mean(np.nan_to_num(ours) ** 2, axis=0, keepdims=True))
    with np.errstate(invalid="ignore"):
        near = np.abs(ours - theirs) <= DAMAGED * scale
    return np.where(near, stored, data).astype(DTYPES[dtype]).tobytes()


def _floats(stored: np.ndarray, dtype: str) -> np.ndarray:
    wide = np.float64 if dtype == "float64" else np.float32
    with np.errstate(invalid="ignore"):
        return decode(stored, dtype, np.empty(stored.shape, wide)).astype(np.float64)


_PRECISIONS = ("float32", "bfloat16", "float16")


class Remake:
    """One attempt at a damaged set.

    Parameters
    ----------
    mender : SetMender
    commits : list of Commit
        The published revisions, the current one last.
    remaker : Remaker
    wrong : collection of str
        Paths of the files that are wrong, relative to the store.

    Attributes
    ----------
    encoded : list of dict
        Blocks that were made again: ``file``, ``block``, ``rows`` (first and last).
    reasons : list of str
        Why something could not be made again.
    """

    def __init__(
        self,
        mender: SetMender,
        commits: list[Commit],
        remaker: Remaker,
        *,
        wrong: Collection[str],
    ) -> None:
        self.encoded: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self._mender = mender
        self._remaker = remaker
        self._wrong = wrong
        self._donors: Donors | None = None
        self._gave_up = False
        self._damage: Damage = find_damage(mender.root, mender.key, commits)
        self._commit = commits[-1]

    def run(self) -> None:
        """Write whatever can be proven."""
        self._check_space()
        if f"{self._mender.key}/{POINTER}" in self._wrong:
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
                self.reasons.append(
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
                self.reasons.append(f"{name}: what was made again differs from the commit")

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
        if items is not None:
            precision = str(attributes_of(self._mender.directory).get("precision", ""))
            self._donors = Donors(self._damage, items, precision=precision)
        layout = self._damage.layout
        for file, bad in self._damage.files.items():
            before = len(self.encoded)
            if not self._mender.write_data(
                layout, file, self._commit, bad=bad, source=lambda block: self._block(block, items)
            ):
                # Blocks that did come out right are of no use without the others of their file.
                del self.encoded[before:]

    def _block(self, block: int, items: pl.DataFrame | None) -> bytes | None:
        """Return a block as the commit says it is, made again; None if it comes out otherwise."""
        if self._gave_up or items is None:
            return None
        where = self._damage.layout.block_slice(block)
        part = items[where.start : where.stop]
        said = ""
        for proposal in self._remaker.block(part, self._ways(block)):
            what = self._fits(block, part, proposal)
            if isinstance(what, bytes):
                self._remaker.prefer(proposal.plan)
                rows = [where.start, where.stop - 1]
                file = block // self._damage.layout.blocks_per_file
                name = f"{self._mender.key}/embedding/{self._damage.layout.file_name(file)}"
                self.encoded.append({"file": name, "block": block, "rows": rows})
                return what
            said = said or what
        self._gave_up = True
        self.reasons.append(said or f"block {block:,} cannot be made again")
        return None

    def _ways(self, block: int) -> list[list[np.ndarray]]:
        """Return how a block may have come about: at once, or appended to; all, or partly copied.

        A run encodes only what is neither there already nor found in another set.
        """
        where = self._damage.layout.block_slice(block)
        rows = np.arange(where.start, where.stop)
        ends = sorted({where.stop, *(min(c.n, where.stop) for c in self._damage.commits)})
        starts = [where.start, *ends[:-1]]
        appended = [(rows >= start) & (rows < end) for start, end in zip(starts, ends, strict=True)]
        ways = [[np.ones(rows.size, dtype=bool)]]
        if sum(bool(run.any()) for run in appended) > 1:
            ways.append(appended)
        if self._donors is not None:
            copied = self._donors.rows(block)[1] & ~self._commit.failed_rows()[where]
            if copied.any() and not copied.all():
                ways += [[run & ~copied for run in way] for way in ways]
        return ways

    def _copied(self, block: int, rows: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Return rows with those that were not made taken from other sets."""
        if self._donors is None or made.all():
            return rows
        stored = self._donors.rows(block)[0]
        wide: Any = np.float64 if self._commit.dtype == "float64" else np.float32
        values = decode(stored, self._commit.dtype, np.empty(stored.shape, wide))
        return np.where(made[:, None], rows, values)

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
            made = self._copied(block, proposal.rows, proposal.made)
            data = cast_rows(made, ids, failed=blank, layout=layout, where=rows)
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
    trust_remote_code: bool = False,
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
        By default those of the recorded run, as are pool, prompt and the like.
    trust_remote_code : bool
        Run code that comes with the model; what a store says is not enough for that.
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
        items_of(source, set_key)  # of another dataset: an error, before anything is touched
        with SetMender(root, set_key) as mender:
            commits = rebuild_commits(mender)
            if commits:
                remaker = open_remaker(
                    source, mender, encoder=encoder, space=space, wanted=commits[-1].space_id,
                    weights=weights, device=device, trust_remote_code=trust_remote_code,
                    workers=workers,
                )  # fmt: skip
                wrong = {problem.path for problem in done.left}
                remake = Remake(mender, commits, remaker, wrong=wrong)
                remake.run()
                mending.encoded, mending.reasons = remake.encoded, remake.reasons
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
