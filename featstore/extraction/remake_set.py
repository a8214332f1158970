"""Make the damaged files of one set again, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import EncoderError, FeatstoreError
from featstore.extraction.nearness import nearest_bytes, nearness
from featstore.extraction.remaking import Proposal, Remaker
from featstore.keys import set_id, sha256_hex, space_id
from featstore.store.arrays import decode
from featstore.store.blocks import read_block
from featstore.store.casting import cast_rows
from featstore.store.commit import POINTER, Commit
from featstore.store.damage import Damage, find_damage, stored_items
from featstore.store.donors import Donors
from featstore.store.items import items_bytes, read_items
from featstore.store.layout import DTYPES, FORMAT
from featstore.store.mender import SetMender
from featstore.store.rederive import attributes_of, derive_pointer

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
