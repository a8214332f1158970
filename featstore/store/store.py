"""Open a store and find what it holds."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from featstore.address import parse_address
from featstore.durable import check_no_links
from featstore.errors import (
    LISTED,
    AddressError,
    AmbiguousSetError,
    CorruptStoreError,
    IncompleteEmbeddingsError,
    RemoteStoreError,
    SignatureError,
    UnknownItemError,
    UnknownSetError,
    listed,
    unknown_name,
)
from featstore.store.layout import Attributes, SetKey, check_component, decode
from featstore.store.log import NAME as LOG
from featstore.store.log import (
    Log,
    ambiguous_set,
    check_signed,
    has_log,
    match_names,
    unknown_set,
)
from featstore.store.pairs import EmbeddingsView
from featstore.store.records import BIAS, Commit, read_commit, read_tag
from featstore.store.rows import (
    MODES,
    VERIFY,
    CheckedRows,
    LastingRows,
    MappedRows,
    Mode,
    Place,
    Rows,
    Verify,
    open_place,
)
from featstore.store.tables import (
    ItemTable,
    check_items_file,
    failures_file,
    read_failures,
    read_listed,
    read_parts,
    read_thumbnails,
    where_equal,
)
from featstore.store.view import Origin, Selection
from featstore.terminal import SHOWN, Card

T = TypeVar("T")


@dataclass(frozen=True)
class SetInfo:
    """A revision of a finished set: its key and commit.

    Examples
    --------
    >>> key = toy_store("store")["image"]
    >>> info = open_store("store").info(key)
    >>> info.encoder, info.commit.n, info.n_failed
    ('timm:toy', 40, 0)
    """

    key: SetKey
    commit: Commit

    @property
    def attributes(self) -> Attributes:
        """What the set is; see `featstore.store.records.Commit`."""
        return self.commit.attributes

    @property
    def encoder(self) -> str:
        """Name of the encoder as the user types it, ``family:name``."""
        return str(self.attributes["encoder"])

    @property
    def n_failed(self) -> int:
        """Number of items without an embedding."""
        return self.commit.n_failed

    @property
    def derived(self) -> bool:
        """Whether its rows were made of those of another set."""
        return bool(self.attributes["space"].get("provenance") == "derived")

    def as_dict(self) -> dict[str, Any]:
        """Return what ``headstock ls --json`` prints."""
        return {
            "key": str(self.key),
            "encoder": self.encoder,
            "n": self.commit.n,
            "dim": self.commit.dim,
            "dtype": self.commit.dtype,
            "failed": self.n_failed,
            "precision": self.attributes["precision"],
            "space_id": self.commit.space_id,
            "set_id": self.commit.set_id,
            "revision_id": self.commit.revision_id,
        }


def read_bias(directory: Path, commit: Commit) -> np.ndarray | None:
    """Return the bias of a head, one float32 a row; None if the set has none."""
    facts, path = commit.metadata.get(BIAS), directory / BIAS
    if facts is None:
        return None
    check_no_links(directory, [path])
    data = read_listed(path, facts)
    if len(data) != 4 * commit.n:
        raise CorruptStoreError(
            f"{path} has {len(data):,} bytes; {commit.n:,} rows need {4 * commit.n:,}."
        )
    return np.frombuffer(data, dtype="<f4")


#: Rows that are looked at together.
_ROWS = 4096

#: Groups of equal items that are shown by name, and names of each.
_GROUPS, _NAMES = 3, 5


def row_facts(view: Selection) -> tuple[dict[str, float], dict[str, Any]]:
    """Return norms and bitwise equal rows of a view as stored.

    Rows are compared by 64-bit keyed hashes: among a million rows, two different ones are taken
    for equal once in 40 million sets. Memory is 12 bytes a row, beside one block.

    Returns
    -------
    dict
        ``min``, ``median``, ``mean`` and ``max`` of the L2 norms; ``zero``, the rows whose norm is
        0.
    dict
        Of groups of at least two equal rows: ``groups``, their number; ``largest``, the members of
        the largest; ``extra``, those beyond the first of each; ``examples``, item_ids of the
        largest groups, a few each.
    """
    n = len(view)
    wide: Any = np.float64 if view.source.dtype == "float64" else np.float32
    norms: np.ndarray = np.empty(n, wide)
    hashes = np.empty(n, np.int64)
    for start in range(0, n, _ROWS):
        rows = view.rows[start : start + _ROWS]
        stored = np.ascontiguousarray(view.source.read(rows))
        data = stored.tobytes()
        size = len(data) // len(rows)
        # The hash of bytes is SipHash under a key that this process drew.
        hashes[start : start + len(rows)] = [
            hash(data[at : at + size]) for at in range(0, len(data), size)
        ]
        values = decode(stored, view.source.dtype, np.empty(stored.shape, wide))
        norms[start : start + len(rows)] = np.sqrt(np.einsum("ij,ij->i", values, values))
    found = {
        "min": float(norms.min()),
        "median": float(np.median(norms)),
        "mean": float(norms.mean(dtype=np.float64)),
        "max": float(norms.max()),
        "zero": int((norms == 0).sum()),
    }
    table = pl.DataFrame({"hash": hashes, "row": np.arange(n)})
    equal = table.filter(pl.col("hash").is_duplicated()).group_by("hash", maintain_order=True)
    groups = sorted(equal.agg("row")["row"].to_list(), key=len, reverse=True)
    ids, sizes = view.items["item_id"], [len(rows) for rows in groups]
    examples = [ids.gather(rows[:_NAMES]).to_list() for rows in groups[:_GROUPS]]
    return found, {
        "groups": len(groups),
        "largest": max(sizes, default=0),
        "extra": sum(sizes) - len(groups),
        "examples": examples,
    }


_HEX = re.compile(r"[0-9a-f]{8,64}")


class FeatureStore:
    """A read-only handle on a store. Opening and reading it runs no code from it.

    Parameters
    ----------
    place : Place or Path
        Where its files come from; a path is a folder of this machine.
    mode, verify : str
        How its arrays are read; see `open_store`.

    Attributes
    ----------
    root : Path
        Folder that its small files are read from: the store itself, or its mirror in the cache.
    address : str
        Where the store lies.

    Examples
    --------
    >>> key = toy_store("store")
    >>> store = open_store("store")
    >>> [f"{info.key.dataset}/{info.key.kind}" for info in store.sets()]
    ['labels/class_name', 'labels/head_weight', 'toy/caption', 'toy/image']
    """

    def __init__(
        self, place: Place | Path, *, mode: Mode = "auto", verify: Verify = "never"
    ) -> None:
        self.place = place if isinstance(place, Place) else Place(place)
        self.root = self.place.root
        self.address = self.place.address
        self.mode: Mode = mode
        self.verify: Verify = verify
        self._pins: dict[str, str] | None = None
        self._signed: Log | None = None

    def __repr__(self) -> str:
        return f"FeatureStore({self.address!r}, {len(self.sets())} sets)"

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        """Yield the key of every finished set, sorted."""
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        """Return whether a name means one set, as in brackets."""
        try:
            return isinstance(name, str) and bool(self.info(name))
        except (UnknownSetError, AmbiguousSetError, IncompleteEmbeddingsError):
            return False

    def __getitem__(self, name: str) -> EmbeddingsView:
        """Return a view of the set that a name means; as `view`.

        Raises
        ------
        UnknownSetError, AmbiguousSetError, IncompleteEmbeddingsError, CorruptStoreError
            See `view`.
        """
        return self.view(name)

    @property
    def log(self) -> Log:
        """What the store lists: as it is now, or as it was signed."""
        return self.place.log() if self._signed is None else self._signed

    def keys(self) -> list[str]:
        """Return the keys of the finished sets, sorted."""
        sets = self.log.sets
        chosen = sets if self._pins is None else {key: sets.get(key, "") for key in self._pins}
        return self.place.available(chosen)

    def sets(self) -> list[SetInfo]:
        """Return the finished sets, sorted by key."""
        log = self.log
        return [self._info(key, log=log) for key in self.keys()]

    def listing(self) -> list[tuple[SetKey, SetInfo | CorruptStoreError]]:
        """Return every finished set with what is wrong with it, if it is damaged."""
        found: list[tuple[SetKey, SetInfo | CorruptStoreError]] = []
        log = self.log
        for key in self.keys():
            try:
                found.append((SetKey(*key.split("/")), self._info(key, log=log)))
            except CorruptStoreError as err:
                found.append((SetKey(*key.split("/")), err))
        return found

    def trust(self, key: str, *, at_least: int = 0) -> None:
        """Read only what the owner of a public key has signed; see `open_store`.

        Raises
        ------
        SignatureError
            If the store is not what was signed.
        """
        self.verify = "first-touch"  # what is signed are hashes: rows are compared with them
        self.place.refresh()
        log = self.place.log()
        check_signed(log, key, where=self.address, at_least=at_least)
        self._signed = log

    def pin(self, revision: str) -> None:
        """Read every set at a tag, or the one that has this revision; the others are hidden.

        Parameters
        ----------
        revision : str
            Name of a tag, or at least 8 digits of a revision_id.

        Raises
        ------
        UnknownSetError
            If there is neither.
        """
        self._pins = pins = None
        if _HEX.fullmatch(revision):
            pins = {
                str(one.key): full
                for one in self.sets()
                for full in one.commit.published
                if full.startswith(revision)
            }
        self._pins = pins or self.tag(revision)

    def unfinished(self) -> list[SetKey]:
        """Return the keys of sets whose extraction has not ended."""
        return self.place.unfinished()

    def info(self, name: str, *, revision: str | None = None) -> SetInfo:
        """Return the set that `name` means: ``dataset/kind/encoder``, or any part that fits one.

        The encoder may be the directory name, the name as typed (``timm:resnet50``), the
        name without its family, or any beginning of these that fits one set only. Where several
        fit, of which one is not derived (`headstock store derive`), that one is meant.

        Parameters
        ----------
        revision : str, optional
            A revision_id of the set, or the beginning of one; the current by default. Each
            published revision stays readable.

        Raises
        ------
        UnknownSetError
            If no set fits; the message lists what the dataset holds. Or no revision does.
        AmbiguousSetError
            If several fit; the message lists them.
        TypeError
            If `name` is no text.
        IncompleteEmbeddingsError
            If the only fit is a set whose extraction has not finished.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"The name of a set is a text such as 'stamps/image/resnet50'; got {name!r}. "
                "`sets()` lists what there is."
            )
        wanted, keys = name.strip("/"), self.log.sets if self._pins is None else self._pins
        matches = [wanted] if wanted in keys else match_names(wanted, keys)
        if len(matches) > 1:  # a set is meant before those that were derived from it
            found = [one for one in matches if not self._info(one).derived]
            matches = found if len(found) == 1 else matches
        if len(matches) == 1:
            return self._info(matches[0], revision)
        if matches:
            raise AmbiguousSetError(ambiguous_set(self.address, name, matches))
        begun = match_names(name, [str(key) for key in self.unfinished()])
        if begun:
            raise IncompleteEmbeddingsError(
                f"{begun[0]} is not complete: its extraction has not finished. Run `headstock "
                "extract` again; it resumes where it stopped."
            )
        raise UnknownSetError(unknown_set(self.address, name, self.keys()))

    def revisions(self, name: str) -> list[SetInfo]:
        """Return every published revision of a set, the oldest first, the current last."""
        info = self.info(name)
        return [SetInfo(info.key, info.commit.at(i)) for i in reversed(info.commit.published)]

    def view(self, name: str, *, revision: str | None = None) -> EmbeddingsView:
        """Return the rows of a set as a view; items without an embedding are left out.

        Parameters
        ----------
        name, revision
            See `info`.

        Raises
        ------
        UnknownSetError, AmbiguousSetError, IncompleteEmbeddingsError
            See `info`.
        CorruptStoreError
            If files of the set disagree with its commit record.
        """
        return self._lasting(self.info(name, revision=revision), self._view)

    def _lasting(self, info: SetInfo, read: Callable[[SetInfo], T]) -> T:
        """Return what is read of a revision, wherever its rows lie by now.

        Parts that are joined are written anew, and the old ones removed.
        """
        while True:
            try:
                return read(info)
            except CorruptStoreError:
                if self.log.sets.get(str(info.key)) in (None, info.commit.digest):
                    raise
                info = self._info(str(info.key), info.commit.revision_id)

    def _view(self, info: SetInfo) -> EmbeddingsView:
        directory = info.key.directory(self.root)
        commit = info.commit
        self.place.fetch(info.key, commit)
        if not self.place.is_remote:
            for items in commit.tables:
                items_path = directory.parent / items["file"]
                check_no_links(self.root, [items_path])
                check_items_file(items_path, items)
        table = ItemTable(functools.partial(self.item_table, info))
        rows = self._rows(info)  # first: the size of its files bounds the number of rows
        valid = np.arange(commit.n)
        if commit.n_failed:
            valid = np.flatnonzero(~commit.failed_rows())
            table = table.take(valid)
        if self.verify == "first-touch":
            rows = CheckedRows(rows, directory=directory, commit=commit)
        return EmbeddingsView(
            source=rows,
            rows=valid,
            table=table,
            key=str(info.key),
            encoder=info.encoder,
            space_id=commit.space_id,
            set_id=commit.set_id,
            revision_id=commit.revision_id,
            n_failed=commit.n - valid.size,
            bias=read_bias(directory, commit),
            # So that any working directory finds it again.
            origin=Origin(
                self.address if self.place.is_remote else os.path.abspath(self.address),  # noqa: PTH100
                self.mode,
                self.verify,
                reopened,
            ),
        )

    def _rows(self, info: SetInfo) -> Rows:
        """Return the reader of rows; one of files that it does not hold opens them anew."""
        rows = self.place.rows(info.key, info.commit, self.mode)
        if self.place.is_remote or isinstance(rows, MappedRows):
            return rows
        opened = {info.commit.digest: rows}

        def read(info: SetInfo, wanted: np.ndarray, out: np.ndarray | None) -> np.ndarray:
            digest = info.commit.digest
            if digest not in opened:
                opened[digest] = self.place.rows(info.key, info.commit, self.mode)
            return opened[digest].read(wanted, out)

        return LastingRows(
            info.commit.layout,
            lambda wanted, out: self._lasting(info, lambda one: read(one, wanted, out)),
        )

    def item_table(
        self,
        info: SetInfo,
        columns: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return the items of a set, failed ones too, in the order of rows; raises as `view`.

        With `columns` those alone are read; with `texts`, whether the one column is one of these.
        """

        def read(info: SetInfo) -> pl.DataFrame:
            self.place.fetch(info.key, info.commit, "items")
            folder = info.key.directory(self.root).parent
            check_no_links(self.root, [folder / one["file"] for one in info.commit.tables])
            return read_parts(folder, info.commit, columns=columns, texts=texts)

        return self._lasting(info, read)

    def failures(self, name: str, *, revision: str | None = None) -> pl.DataFrame:
        """Return the items of a set that have no embedding, with the reason."""
        info = self.info(name, revision=revision)
        self.place.fetch(info.key, info.commit, "rest")
        file = failures_file(info.commit.metadata)
        facts = None if file is None else info.commit.metadata[file]
        path = info.key.directory(self.root) / str(file)
        table = read_failures(path, facts, n=info.commit.layout.n)
        if table.height != info.commit.n_failed:  # it has those of all revisions
            ids = self.item_table(info, ["item_id"])["item_id"].filter(info.commit.failed_rows())
            table = table.filter(where_equal(table["item_id"], set(ids)))
        return table

    def thumbnails(self, dataset: str, kind: str = "image") -> dict[str, bytes]:
        """Return item_id -> WebP bytes of the stored thumbnails; empty if there are none."""
        folder = f"{check_component(dataset, what='dataset')}/{check_component(kind, what='kind')}"
        self.place.fetch_thumbnails(folder)
        check_no_links(self.root, [self.root / folder])
        return read_thumbnails(self.root / folder)

    def prefetch(
        self,
        name: str,
        *,
        revision: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Fetch all of a set of a remote store, so that it can be read without the server.

        Parameters
        ----------
        name, revision
            See `info`.
        progress : callable, optional
            Called with numbers of bytes that arrived, from several threads.

        Raises
        ------
        CorruptStoreError, RemoteStoreError, CacheFullError
            See `featstore.remote.cache.RemoteRows.read`.
        """
        info = self.info(name, revision=revision)
        self.place.fetch(info.key, info.commit)
        self.place.fetch_rows(info.key, info.commit, progress)

    def stored_bytes(self, info: SetInfo) -> int:
        """Return the bytes of the files that are a revision's own: all but the item table."""
        small = sum(facts["bytes"] for facts in info.commit.metadata.values())
        return int(small + sum(file.size for file in info.commit.layout.files))

    def tags(self) -> list[str]:
        """Return the names of the tags, sorted."""
        return sorted(self.log.tags)

    def tag(self, name: str) -> dict[str, str]:
        """Return key -> revision_id of a tag.

        Raises
        ------
        UnknownSetError
            If there is none.
        CorruptStoreError
            If it is damaged, or not the one that the store lists.
        """
        tags = self.log.tags
        if name not in tags:
            raise UnknownSetError(
                unknown_name("tag", name, sorted(tags), where=f"in {self.address}")
            )
        self.place.fetch_tag(name, tags[name])
        return read_tag(self.root, name, tags[name])

    def _repr_html_(self) -> str:
        found = self.listing()
        rows = [
            (key, f"{info.commit.n:,} × {info.commit.dim:,}", info.commit.dtype, info.encoder)
            if isinstance(info, SetInfo)
            else (key, "damaged", "", "")
            for key, info in found[:SHOWN]
        ]
        title, facts = f"FeatureStore {self.address}", {"sets": f"{len(found):,}"}
        columns = ("set", "rows", "type", "encoder")
        return Card(title, facts, columns, rows, len(found) - len(rows)).html

    def _ipython_key_completions_(self) -> list[str]:
        return self.keys()

    def _info(self, name: str, revision: str | None = None, *, log: Log | None = None) -> SetInfo:
        key = SetKey(*name.split("/"))
        directory = key.directory(self.root)
        present = (log or self.log).sets.get(name)
        if present is None:
            raise UnknownSetError(f"{self.address} holds no set {name!r} any more.")
        check_no_links(self.root, [directory / "revisions"])
        self.place.fetch_record(key, present)
        try:
            commit = read_commit(directory, present)
        except CorruptStoreError:
            if self.place.log().sets.get(name) == present:
                raise
            if self._signed is not None:
                raise SignatureError(
                    f"{self.address} was changed since it was opened, and signed. Open it again."
                ) from None
            return self._info(name, revision)  # it was extended meanwhile
        chosen = revision if self._pins is None else revision or self._pins[name]
        if chosen is not None:
            commit = commit.at(_published(name, commit.published, chosen))
        return SetInfo(key, commit)


def _published(key: str, published: Sequence[str], revision: str) -> str:
    """Return the published revision that `revision` begins."""
    found = [name for name in published if name.startswith(revision)]
    if len(found) == 1:
        return found[0]
    what = "no revision" if not found else f"{len(found)} revisions"
    raise UnknownSetError(
        f"{key} has {what} {revision[:64]!r}. It has, the current one first: "
        f"{listed((name[:12] for name in published), shown=LISTED)}."
    )


#: Stores and sets that a process keeps open for the views that it is sent.
_KEPT = 32


def open_store(
    path: str | Path,
    *,
    revision: str | None = None,
    mode: Mode = "auto",
    verify: Verify = "never",
    key: str | None = None,
    at_least: int = 0,
) -> FeatureStore:
    """Open a store for reading.

    Parameters
    ----------
    path : path or address
        Folder of the store, ``file://…``, or the address of a remote one: ``s3://``, ``gs://``,
        ``az://``, ``https://`` (a plain web server), ``hf://datasets/…``. What is read of a remote
        store is verified and kept in the user's cache; see docs/ref/addresses.md. ``STORE@TAG`` is
        the store at a tag.
    revision : str, optional
        A tag (``headstock store tag``): every set is read as it was then, and those that it does
        not name are hidden. Or at least 8 digits of a revision_id: that set at that revision.
    mode : {"auto", "map", "pread"}
        How arrays are read; see `featstore.store.rows`. Take ``"pread"`` on a network file
        system.
    verify : {"never", "first-touch"}
        Whether rows are compared with the hashes in the commit: never (sizes, and small files that
        are read, always are), or each block before its rows are first served. The default is
        ``"never"`` because hashing reads a block several times slower than memory does
        (``store.first_touch`` of ``make perf``).
    key : str, optional
        A public key that the store must be signed by (``headstock store tag --sign-key``): 64
        hexadecimal digits. Only what was signed is read, so each block is compared before its rows
        are first served (`verify` is ``"first-touch"``); see docs/ref/addresses.md.
    at_least : int
        The lowest number of the signature that is taken. Without it nothing tells that the
        whole store is an earlier one.

    Raises
    ------
    ValueError
        If `mode` or `verify` is another word, or `at_least` comes without a key.
    SignatureError
        If the store is not what the owner of `key` signed.
    MissingPackageError
        If `key` is given, and cryptography is not installed.
    UnknownSetError
        If it has no such revision.
    FormatVersionError
        If a newer version wrote it.
    AddressError
        If there is no store at `path`, or the address is malformed, of an unknown scheme, or holds
        credentials.
    RemoteStoreError
        If a remote store can be neither reached nor read from the cache.

    Examples
    --------
    >>> key = toy_store("store")
    >>> open_store("store").view(key["image"]).numpy().shape
    (40, 12)
    """
    for what, value, known in (("mode", mode, MODES), ("verify", verify, VERIFY)):
        if value not in known:
            raise ValueError(
                f"The {what} of reading must be one of {', '.join(known)}; got {value!r}."
            )
    if at_least and key is None:
        raise ValueError(f"at_least={at_least} counts signatures: give the key, too.")
    place, tag = _find_place(path)
    place.log()
    if not has_log(place.root):
        missing = f"has no store (no {LOG})" if place.is_remote else "does not exist"
        there = not place.is_remote and place.root.exists()
        raise AddressError(
            f"{place.address} {'is not a Headstock store' if there else missing}. Check the "
            f"address, or make a store with `headstock {place.made_by}`."
        )
    store = FeatureStore(place, mode=mode, verify=verify)
    if key is not None:
        store.trust(key, at_least=at_least)
    if at := revision or tag:
        store.pin(at)
    return store


def _find_place(path: str | Path) -> tuple[Place, str | None]:
    base, tag = split_tag(path)
    if tag is not None:
        # An address may end in a name with an @, too. If none is to be had there, that at the tag
        # may be in the cache.
        with contextlib.suppress(AddressError, RemoteStoreError):
            place = open_place(parse_address(path))
            if has_log(place.root):
                return place, None
    return open_place(parse_address(base)), tag


def split_tag(place: str | Path) -> tuple[str | Path, str | None]:
    """Return a store and the tag of ``STORE@TAG``; a path that is there is one, whatever its name.

    Of an address of the hub the first ``@`` is the hub's.
    """
    base, at, tag = str(place).rpartition("@")
    is_hub = base.startswith("hf://") and "@" not in base
    if not at or "/" in tag or is_hub or Path(place).exists():
        return place, None
    return type(place)(base), tag


def reopened(
    origin: Origin,
    key: str,
    revision_id: str,
    rows: np.ndarray,
    unit: bool,  # noqa: FBT001
    dtype: np.dtype[Any],
) -> EmbeddingsView:
    """Return the view that was pickled in another process.

    Raises
    ------
    FeatstoreError
        Whatever `open_store` and `FeatureStore.view` raise, such as where this machine does not
        see the store.
    """
    whole = _view(origin, key, revision_id)
    # Both are rows of the source, and `whole.rows` is sorted.
    chosen = whole.take(np.searchsorted(whole.rows[:-1], rows))
    if not np.array_equal(chosen.rows, rows):
        raise UnknownItemError(
            f"{whole.key}: pictures of the view that was pickled were withdrawn. Make it anew."
        )
    return replace(chosen, unit=unit, dtype=dtype)


@functools.lru_cache(_KEPT)
def _store(origin: Origin) -> FeatureStore:
    return open_store(origin.address, mode=origin.mode, verify=origin.verify)


@functools.lru_cache(_KEPT)
def _view(origin: Origin, key: str, revision_id: str) -> EmbeddingsView:
    return _store(origin).view(key, revision=revision_id)
